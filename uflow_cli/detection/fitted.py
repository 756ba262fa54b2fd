"""Evidence maps of whole images of any size from a model whose input has one size: one map per source and image.

`layout_of` says how an image lies on the input, `fitted_evidence` sends its tiles through the model and stitches what
comes back. Memory is that of the image, its maps (for 200 megapixels some 50 MB) and one batch of tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from uflow_cli.config import ModelConfig
from uflow_cli.images import Layout, Stitcher, lay_out

TILES = 8  # at a time
MOST_STEP = 64  # pixels between the corners of tiles, lest they cannot overlap
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


class EvidenceModel(Protocol):
    """A model that computes evidence maps: a `Model` in PyTorch, or an `Engine` without it."""

    @property
    def config(self) -> ModelConfig:
        """The settings that fix the maps, beside the weights."""

    @property
    def source_channels(self) -> tuple[int, ...]:
        """Channels that U of each source sums over."""

    @property
    def reach(self) -> tuple[int, ...]:
        """How far, in cells, a strange cell spreads in each scale of the flow; these come first of the sources."""

    @property
    def batch_size(self) -> int:
        """Images to give at a time."""

    def evidence_maps(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """U maps (B, H_s, W_s) of every source, of RGB `images`, each (H, W, 3), which are squashed."""


def layout_of(size: tuple[int, int], config: ModelConfig) -> Layout:
    """How an image of `size` (H, W) lies on the input of a model with this `config`.

    The input is a multiple of the coarsest stride, a power of two: so is the largest one in it.
    """
    common = math.gcd(*config.input_size)
    step = min(common & -common, MOST_STEP)
    fit = "squash" if config.fit == "auto" else config.fit
    return lay_out(size, fit=fit, input_size=config.input_size, step=step)


@dataclass(frozen=True, eq=False)
class FittedEvidence:
    """The evidence in an image: its layout, U maps of every source, (H_s, W_s), and how much each cell counts.

    `shares` are on the finest grid; None: all of every cell.
    """

    layout: Layout
    maps: list[Floats]
    shares: Floats | None


def fitted_evidence(
    model: EvidenceModel,
    images: Sequence[NDArray[np.uint8]],
    rois: Sequence[Mask | None] | None = None,
    *,
    hides: bool = True,
) -> Iterator[FittedEvidence]:
    """The evidence of each of `images`, each (H, W, 3) of any size, of which the pixels in `rois` (H, W) count.

    The others are hidden from the model, unless `hides` is false.
    """
    rois = rois or [None] * len(images)
    layouts = [layout_of((image.shape[0], image.shape[1]), model.config) for image in images]
    layouts = [layout if roi is None else layout.within(roi) for layout, roi in zip(layouts, rois, strict=True)]
    stitchers = [Stitcher(layout) for layout in layouts]

    def tiles() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for index, (image, layout, roi) in enumerate(zip(images, layouts, rois, strict=True)):
            content, inside = layout.seen(image, roi if hides else None)
            for number in range(len(layout.corners)):
                yield index, layout.cut(content, number, inside)

    def stitched(index: int) -> FittedEvidence:
        layout, maps = layouts[index], stitchers[index].maps()
        return FittedEvidence(layout, maps, layout.shares(_shape(maps[0]), roi=rois[index]))

    next_image = 0
    pending = tiles()
    while batch := list(islice(pending, TILES)):
        maps = model.evidence_maps([tile for _, tile in batch])
        for row, (index, _) in enumerate(batch):
            stitchers[index].add([u[row] for u in maps])
        while next_image < batch[-1][0]:
            yield stitched(next_image)
            next_image += 1
    for index in range(next_image, len(images)):
        yield stitched(index)


def stack_evidence(found: Sequence[FittedEvidence]) -> tuple[list[Floats], Floats | None]:
    """Maps of several images as (N, H_s, W_s) per source, and the share of each cell that counts, (N, H, W) or None.

    Maps of smaller images are filled up with their mirror image, of which nothing counts.
    """
    sources = zip(*(one.maps for one in found), strict=True)
    grids = [(max(u.shape[0] for u in maps), max(u.shape[1] for u in maps)) for maps in sources]
    stacked = [np.stack([padded(one.maps[s], grid) for one in found]) for s, grid in enumerate(grids)]
    return stacked, stack_shares([one.shares for one in found], [_shape(one.maps[0]) for one in found], grids[0])


def stack_shares(
    shares: Sequence[Floats | None], own: Sequence[tuple[int, int]], grid: tuple[int, int]
) -> Floats | None:
    """The share of each cell that counts, (N, H, W) on the `grid` for maps filled up from their `own`; None: all."""
    if all(share is None and cells == grid for share, cells in zip(shares, own, strict=True)):
        return None
    full = np.zeros((len(shares), *grid), np.float32)
    for row, share, (height, width) in zip(full, shares, own, strict=True):
        row[:height, :width] = 1.0 if share is None else share
    return full


def padded(values: Floats, grid: tuple[int, int]) -> Floats:
    """`values` filled up to `grid` with their mirror image."""
    missing = [(0, n - m) for n, m in zip(grid, values.shape, strict=True)]
    return np.pad(values, missing, mode="symmetric") if any(n for _, n in missing) else values


def _shape(values: Floats) -> tuple[int, int]:
    return values.shape[0], values.shape[1]
