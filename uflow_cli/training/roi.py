"""Regions of interest of the images that a run is trained on, and the layouts that follow from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from uflow_cli.detection.fitted import layout_of
from uflow_cli.images import EVERYWHERE, Layout, RoiFile, Rois, Source, read_encoded, read_roi, roi_beside
from uflow_cli.run.state import TrainingState


def training_rois(paths: Sequence[Path], roi: Path | None) -> Rois:
    """Where the regions of interest of the good images at `paths` come from: the mask `roi`, or masks beside them."""
    if roi is not None:
        return Rois(read_roi(roi), name=str(roi))
    return Rois(is_needed=True) if any(roi_beside(path) for path in paths) else EVERYWHERE


def with_own_rois(sources: Sequence[Source]) -> list[Source]:
    """`sources`, each of which has a mask beside it, with that."""
    beside = [roi_beside(source.path) or Path() for source in sources]
    files = [RoiFile(path.absolute(), hashlib.sha256(read_encoded(path)).digest()) for path in beside]
    return [replace(source, roi=file) for source, file in zip(sources, files, strict=True)]


def layouts_of(folder: Path, state: TrainingState) -> list[Layout]:
    """How each image of the training in `folder` lies on the network's input; none where all are squashed whole."""
    layouts = [layout_of(size, state.model) for size in state.sizes]
    mask_of = roi_masks(roi_files(folder, state))
    found = []
    for image, layout in enumerate(layouts):
        roi = mask_of(image) if len(layout.corners) > 1 else None
        found.append(layout if roi is None else layout.within(roi))
    return found


def roi_files(folder: Path, state: TrainingState) -> list[RoiFile | None]:
    """The file of each image's region of interest, in the run's `folder` or beside the image; none without any."""
    if state.rois:
        return [RoiFile(Path(path), bytes.fromhex(digest)) for path, digest in state.rois]
    if state.roi is None or state.roi.file is None or state.roi.sha256 is None:
        return [None] * len(state.images)
    return [RoiFile(folder / state.roi.file, bytes.fromhex(state.roi.sha256))] * len(state.images)


class CellShares:
    """How much each cell of what trains counts: by its share of image, not border, in the region of interest.

    `sources_of(epoch)` are the images, tiles and views of an epoch, `grid` (H, W) is the flow's coarsest: all that is
    computed from such a cell counts alike, or the log-determinant would count where the squares do not.
    """

    def __init__(self, sources_of: Callable[[int], Sequence[Source]], grid: tuple[int, int]) -> None:
        self._sources_of, self._grid = sources_of, grid
        self._sources = sources_of(0)
        self._known: dict[bytes, NDArray[np.float32]] = {}

    def start_epoch(self, epoch: int) -> None:
        """From now on the views are those of `epoch`."""
        self._sources = self._sources_of(epoch)

    def of(self, rows: Sequence[int], grids: Sequence[tuple[int, int]], device: torch.device) -> list[torch.Tensor]:
        """The shares of the cells of some of the sources on each of `grids`, (B, 1, H_s, W_s)."""
        found = np.stack([self._of(self._sources[row]) for row in rows])[:, None]
        coarse = torch.from_numpy(found).to(device)
        return [torch.nn.functional.interpolate(coarse, grid, mode="nearest") for grid in grids]

    def mean(self, row: int) -> float:
        """The share of all of a source that counts."""
        return float(self._of(self._sources[row]).mean())

    def _of(self, source: Source) -> NDArray[np.float32]:
        if source.key not in self._known:
            shares = source.shares(self._grid)
            self._known[source.key] = np.ones(self._grid, np.float32) if shares is None else shares
        return self._known[source.key]


def roi_masks(files: Sequence[RoiFile | None]) -> Callable[[int], NDArray[np.bool_] | None]:
    """A function that reads the mask of an image by its number; the one read last is at hand."""
    read = lru_cache(maxsize=1)(RoiFile.mask)

    def mask(image: int) -> NDArray[np.bool_] | None:
        file = files[image]
        return None if file is None else read(file)

    return mask
