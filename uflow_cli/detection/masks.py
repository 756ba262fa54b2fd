"""Outlines: from regions of cells to maps and masks in pixels. Logarithms are base 10, low is anomalous.

A region R holds the cells around a summit of U down to its level m(R). Its outline follows U between the cells: a pixel
is inside where bilinearly up-sampled U is at least `OUTLINE_LEVEL` · m(R), no further than a cell from R. How
significant R is moves nothing, as it does where log NFA itself is interpolated (the published way).

Fused evidence has a contour instead: a pixel is inside where up-sampled evidence is above `CONTRAST` of the way from
the mean of good images to the region's peak. Regions whose wider contours, at `TOUCHING` of that way, meet are one
defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uflow_cli.detection.nfa import AContrario, Regions
from uflow_cli.errors import UflowError
from uflow_cli.images import connected_parts, resize_map, resize_map_in_strips

OUTLINE_LEVEL = 0.9  # of m(R); mIoU over seeds of two products is highest about here (benchmarks/results)

CONTRAST = 0.65  # mIoU on four products is highest about here (benchmarks/results)
TOUCHING = 0.4
LONGEST_SIDE = 1024  # pixels at which contours are drawn; larger images take them from there


@dataclass(frozen=True, eq=False)
class ScaleRegions:
    """The regions of one image in one scale, cell by cell: all (H_s, W_s)."""

    log_nfa: NDArray[np.float64]  # the ceiling outside regions
    level: NDArray[np.float32]  # m(R), infinite outside regions
    squared_norm: NDArray[np.float32]  # U
    ceiling: float  # log NFA of what is no evidence


def scale_regions(
    result: AContrario, squared_norms: Sequence[NDArray[np.float32]], *, index: int, ceiling: float
) -> tuple[ScaleRegions, ...]:
    """The regions of image `index`, finest scale first; log NFA is `ceiling` at most. U maps are (B, H_s, W_s)."""
    regions = result.regions.select(result.regions.image == index)
    scales = []
    for scale, (labels, norm) in enumerate(zip(result.labels, squared_norms, strict=True)):
        rows = regions.scale == scale  # in the order of labels; label -1, no region, takes what is appended
        log_nfa = np.append(np.minimum(regions.log_nfa[rows], ceiling), ceiling)
        level = np.append(regions.level[rows], np.inf).astype(np.float32)
        scales.append(ScaleRegions(log_nfa[labels[index]], level[labels[index]], norm[index], ceiling))
    return tuple(scales)


def log_nfa_map(scales: Sequence[ScaleRegions], *, size: tuple[int, int]) -> NDArray[np.float32]:
    """The lowest log NFA of all regions around each pixel, (H, W); the ceiling where there is none.

    Below any threshold lies what `mask_below` draws for it.
    """
    lowest: NDArray[np.float64] = np.minimum.reduce([_log_nfa_of_scale(scale, size) for scale in scales])
    return lowest.astype(np.float32)


def mask_below(
    scales: Sequence[ScaleRegions], *, threshold: float, size: tuple[int, int], outline_level: float = OUTLINE_LEVEL
) -> NDArray[np.bool_]:
    """Union of the regions with log NFA < `threshold`, (H, W)."""
    mask = np.zeros(size, dtype=np.bool_)
    for scale in scales:
        detected = scale.log_nfa < threshold
        if not detected.any():
            continue
        level = np.where(detected, scale.level, np.float32(np.inf))
        (top, bottom), (left, right) = (_neighbours(n, m) for n, m in zip(level.shape, size, strict=True))
        level = np.minimum(level[:, left], level[:, right])  # (H_s, W)
        for rows, norm in resize_map_in_strips(scale.squared_norm, size):
            first, last = top[rows.start], bottom[rows.stop - 1] + 1
            if np.isfinite(level[first:last]).any():
                mask[rows] |= norm >= outline_level * np.minimum(level[top[rows]], level[bottom[rows]])
    return mask


def published_mask_below(
    scales: Sequence[ScaleRegions], *, threshold: float, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Where `published_log_nfa_map` is below `threshold`, (H, W)."""
    mask = np.zeros(size, dtype=np.bool_)
    for scale in scales:
        for rows, log_nfa in resize_map_in_strips(scale.log_nfa, size):
            mask[rows] |= log_nfa < threshold
    return mask


def published_log_nfa_map(scales: Sequence[ScaleRegions], *, size: tuple[int, int]) -> NDArray[np.float32]:
    """Lowest over scales of bilinearly up-sampled log NFA, (H, W) (paper eq. 8).

    Under eq. 9's number of tests, the same for all regions, this is the paper's up-sampled log_pfa.
    """
    lowest: NDArray[np.float32] = np.minimum.reduce([resize_map(scale.log_nfa, size) for scale in scales])
    return lowest


def contours(
    evidence: NDArray[np.float32], labels: NDArray[np.int32], ranked: Regions, *, mean: float, size: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int32], list[int]]:
    """Where the regions `ranked` of one map of evidence (H_s, W_s) are, drawn in `size`.

    Gives for each pixel the first of the regions whose contour covers it, -1 where none does; for each pixel the number
    of the group of regions whose wider contours meet there, 0 where none is; and the group of each region. A row of
    `ranked` that is no region of the map has a negative group of its own.
    """
    up = resize_map(evidence, size)  # (H, W)
    cells = labels[np.ix_(*(_nearest(n, m) for n, m in zip(labels.shape, size, strict=True)))]
    first = np.full(size, -1, dtype=np.int32)
    wide = np.zeros(size, dtype=np.bool_)
    places: list[tuple[int, int] | None] = []
    for row in range(len(ranked)):
        if ranked.scale[row] != 0:
            places.append(None)
            continue
        seed = cells == ranked.label[row]
        if not seed.any():  # drawn so small that no pixel's centre is in it
            y, x = (ranked.row[row] + 0.5) / labels.shape[0], (ranked.column[row] + 0.5) / labels.shape[1]
            seed[min(int(y * size[0]), size[0] - 1), min(int(x * size[1]), size[1] - 1)] = True
        peak = np.unravel_index(np.argmax(np.where(seed, up, -np.inf)), size)
        places.append((int(peak[0]), int(peak[1])))
        height = float(up[peak]) - mean
        inner, outer = (_component(up >= mean + share * height, seed) for share in (CONTRAST, TOUCHING))
        first[inner & (first < 0)] = row
        wide |= outer
    group = connected_parts(wide)
    groups = [0 if place is None else int(group[place]) for place in places]
    return first, group, [number or -row - 1 for row, number in enumerate(groups)]


def _component(above: NDArray[np.bool_], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected parts of `above` that `seed` touches."""
    numbers = connected_parts(above)
    chosen = np.zeros(int(numbers.max()) + 1, dtype=np.bool_)
    chosen[np.unique(numbers[seed])] = True
    chosen[0] = False
    component: NDArray[np.bool_] = chosen[numbers]
    return component


def _nearest(n_cells: int, n_pixels: int) -> NDArray[np.intp]:
    """The cell that holds each pixel centre."""
    return np.minimum(((np.arange(n_pixels) + 0.5) * n_cells / n_pixels).astype(np.intp), n_cells - 1)


def _log_nfa_of_scale(scale: ScaleRegions, size: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = (_neighbours(n, m) for n, m in zip(scale.level.shape, size, strict=True))
    norm = resize_map(scale.squared_norm, size)
    lowest = np.full(size, scale.ceiling)
    for i in rows:
        for j in columns:
            cells = np.ix_(i, j)
            inside = norm >= OUTLINE_LEVEL * scale.level[cells]
            np.minimum(lowest, scale.log_nfa[cells], out=lowest, where=inside)
    return lowest


def _neighbours(n_cells: int, n_pixels: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The cells before and after each pixel centre (align_corners=False); the same one beyond the outer centres."""
    position = np.clip((np.arange(n_pixels) + 0.5) * n_cells / n_pixels - 0.5, 0, n_cells - 1)
    before = np.floor(position).astype(np.intp)
    return before, np.minimum(before + 1, n_cells - 1)


def coco_counts(mask: NDArray[np.bool_]) -> str:
    """The compressed run lengths that COCO has for a mask (H, W); UflowError where pycocotools is not installed."""
    try:
        from pycocotools.mask import encode  # noqa: TID251
    except ModuleNotFoundError as error:
        raise UflowError("run lengths need pycocotools; install it: pip install uflow-cli[coco]") from error
    counts: bytes = encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts.decode("ascii")
