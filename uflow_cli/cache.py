"""Features computed once, kept on disk as float16 and memory-mapped."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uflow_cli.errors import UflowError
from uflow_cli.images import read_image
from uflow_cli.model import Model

EXTRACTION_BATCH = 8


class FeatureStore:
    """Features of N images: per scale (N, C_s, H_s, W_s) float16, in unnamed files that die with the process."""

    def __init__(self, n_images: int, shapes: Sequence[tuple[int, int, int]], *, folder: Path) -> None:
        self.arrays: list[NDArray[np.float16]] = []
        try:
            for shape in shapes:
                with tempfile.TemporaryFile(dir=folder) as file:  # unlinked: nothing is left behind, even by a kill
                    _reserve(file.fileno(), n_images * math.prod(shape) * np.dtype(np.float16).itemsize)
                    self.arrays.append(np.memmap(file, dtype=np.float16, mode="w+", shape=(n_images, *shape)))
        except OSError as error:
            raise UflowError(
                f"cannot keep features in {folder}: {error}; free some space or choose another folder with --out"
            ) from error

    def __len__(self) -> int:
        return len(self.arrays[0])

    def write(self, start: int, features: Sequence[Tensor]) -> None:
        """Store `features`, (B, C_s, H_s, W_s) per scale, as images start..start+B-1."""
        for array, maps in zip(self.arrays, features, strict=True):
            array[start : start + len(maps)] = maps.to("cpu", torch.float16).numpy()

    def read(self, indices: Sequence[int], *, device: torch.device) -> list[Tensor]:
        """Features of the images at `indices` as float32 on `device`, per scale (B, C_s, H_s, W_s)."""
        return [torch.from_numpy(array[list(indices)]).to(device).float() for array in self.arrays]


def extract_features(
    model: Model, paths: Sequence[Path], *, folder: Path, on_progress: Callable[[int, int], None]
) -> FeatureStore:
    """Features of the images at `paths`, in this order; `on_progress(done, total)` is called after each batch."""
    spec = model.extractor.spec
    shapes = [(c, h, w) for c, (h, w) in zip(spec.channels, spec.grids(model.config.input_size), strict=True)]
    store = FeatureStore(len(paths), shapes, folder=folder)
    for start in range(0, len(paths), EXTRACTION_BATCH):
        batch = paths[start : start + EXTRACTION_BATCH]
        store.write(start, model.features([read_image(path) for path in batch]))
        on_progress(start + len(batch), len(paths))
    return store


def _reserve(descriptor: int, n_bytes: int) -> None:
    """Claim `n_bytes` of disk now: a memory map on a full disk would kill the process later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
