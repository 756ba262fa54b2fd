"""Helpers that several test files share: images and settings of a small product, an observer that remembers, a folder's files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uflow_cli.cache import GIB, CacheFolder
from uflow_cli.calibration import Calibration
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.detection.nfa import Background
from uflow_cli.run.log import Epoch

SMALL_MODEL = ModelConfig(input_size=96)
SMALL_TRAINING = TrainingConfig(epochs=4, batch_size=4, learning_rate=2e-3)


def shared_cache() -> CacheFolder:
    """The cache of all tests, which a fixture puts in a folder of its own."""
    return CacheFolder(Path(os.environ["UFLOW_CACHE_DIR"]), limit=GIB)


def plain_calibration(*n_channels: int, **fields: object) -> Calibration:
    """The calibration of a run without held-out images, with other `fields` if wished."""
    own: dict[str, object] = {
        "background": tuple(Background(n) for n in n_channels), "mean_ratio": (1.0,) * len(n_channels),
        "n_channels": n_channels, "lowest_log_nfa": (), "shared": True, "curves": (), "n_counted": 0,
        "false_log_nfas": (), "references": (),
    }  # fmt: skip
    return Calibration(**{**own, **fields})


def good_image(seed: int, side: int = 96) -> NDArray[np.uint8]:
    """A striped surface with a random phase, brightness and noise."""
    rng = np.random.default_rng(seed)
    x = np.arange(side)
    stripes = 110 + 40 * np.sin(2 * np.pi * (x / 12 + rng.random()))[None, :] * np.ones((side, 1))
    noisy = stripes + rng.normal(0, 8) + rng.normal(0, 6, (side, side))
    return np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def defective_image(seed: int, side: int = 96) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A good image with a square that is brighter and flat, and its mask."""
    image = good_image(seed, side)
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[side // 3 : side // 3 + side // 4, side // 2 : side // 2 + side // 4] = True
    image[mask] = image[mask] // 4 + 130
    return image, mask


def files_in(folder: Path) -> dict[str, bytes]:
    """The contents of all files below `folder`, by their paths from there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Recorder:
    """An observer that remembers."""

    epochs: list[Epoch]
    images: int = 0
    features: int = 0
    batches: int = 0
    warnings: list[str] = field(default_factory=list)

    def on_images(self, done: int, total: int) -> None:
        self.images = done

    def on_features(self, done: int, total: int) -> None:
        self.features = done

    def on_batch(self, done: int, total: int) -> None:
        self.batches += 1

    def on_flow(self, number: int, total: int) -> None:
        """Nothing to remember."""

    def on_epoch(self, record: Epoch) -> None:
        self.epochs.append(record)

    def on_warning(self, message: str) -> None:
        self.warnings.append(message)
