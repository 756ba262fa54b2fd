"""The images that every method of the comparison gets, as it reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from uflow_cli.config import TrainingConfig
from uflow_cli.datasets import Dataset, LabelledImage, read_label_mask
from uflow_cli.detection.prediction import SCORE_SIZE
from uflow_cli.images import read_image, resize_image, resize_mask
from uflow_cli.training import split_images

BATCH = 8  # images at a time, in training and in prediction, for every method


@dataclass(frozen=True)
class Selection:
    """The images of one comparison.

    uflow splits `good` into `training` and `held_out` (epoch and calibration). The others train on `training` too and
    never see `held_out` in training, so that all learn from the very same images; like uflow, they may choose a
    threshold on images that they did not learn from.
    """

    good: tuple[Path, ...]
    training: tuple[Path, ...]
    held_out: tuple[Path, ...]
    test: tuple[LabelledImage, ...]


def choose_images(
    data: Dataset, *, n_train: int | None, n_good: int | None, n_defective: int | None, seed: int
) -> Selection:
    """Draw by `seed`, without replacement, so many images of `data` (None: all), in the order of the data set."""
    random = np.random.default_rng([seed, 2])
    good = [item.path for item in _drawn(data.train, n_train, random)]
    test = [
        *_drawn([item for item in data.test if item.is_good], n_good, random),
        *_drawn([item for item in data.test if not item.is_good], n_defective, random),
    ]
    config = TrainingConfig(seed=seed)
    split = split_images(len(good), held_out_fraction=config.held_out_fraction, seed=seed)
    held_out = sorted({*split.selection, *split.calibration})
    return Selection(tuple(good), tuple(good[i] for i in split.training), tuple(good[i] for i in held_out), tuple(test))


def _drawn(items: Sequence[LabelledImage], n_items: int | None, random: np.random.Generator) -> list[LabelledImage]:
    kept = random.permutation(len(items))[: len(items) if n_items is None else n_items]
    return [items[i] for i in sorted(kept)]


class InputImages(TorchDataset[Tensor]):
    """Images as (3, S, S) float32 in 0..1, read and resized by the code that reads and resizes for uflow."""

    def __init__(self, paths: Sequence[Path], *, input_size: int) -> None:
        self.paths, self.size = tuple(paths), (input_size, input_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        pixels = resize_image(read_image(self.paths[index]), self.size)
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255.0

    def batches(self) -> Iterator[Tensor]:
        """Yield all images in order, (B, 3, S, S)."""
        for start in range(0, len(self), BATCH):
            yield torch.stack([self[i] for i in range(start, min(start + BATCH, len(self)))])


def true_masks(test: Sequence[LabelledImage]) -> list[NDArray[np.bool_]]:
    """Masks at the size at which scores are compared, as `uflow evaluate` brings them there."""
    masks = []
    for item in test:
        height, width = read_image(item.path).shape[:2]
        mask = read_label_mask(item, (height, width), image_size=(height, width))
        masks.append(resize_mask(mask, SCORE_SIZE))
    return masks
