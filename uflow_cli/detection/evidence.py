"""What maps of evidence hold: how strange an image is as a whole, which cells count, halos. Logarithms are natural."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from uflow_cli.detection.nfa import Background
from uflow_cli.images import highest_around

PEAK_START = 2.0  # a peak below twice the mean has no halo worth the name
HALF = 0.5  # of the peak's log U over the mean


def image_levels(
    evidence: NDArray[np.float32], shares: NDArray[np.float32] | None = None, *, power: float
) -> NDArray[np.float64]:
    """What each image as a whole says, (B,): the `power` mean of its evidence (B, H, W) over all that counts.

    `shares` are contained in the evidence already.
    """
    values = evidence.astype(np.float64) ** power
    counted = values[0].size if shares is None else np.maximum(shares.sum(axis=(1, 2), dtype=np.float64), 1e-12)
    levels: NDArray[np.float64] = (values.sum(axis=(1, 2)) / counted) ** (1.0 / power)
    return levels


def counting_grids(
    evidence: Sequence[NDArray[np.float32]], shares: NDArray[np.float32] | None
) -> list[tuple[int, int]]:
    """A grid per map of as many cells as count in the image where most do."""
    return largest_grids(counting_cells(evidence, at_scales(shares, evidence)))


def largest_grids(n_cells: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """A grid per map of as many cells as the image has that has most, by `counting_cells`."""
    return [(1, max(cells)) for cells in zip(*n_cells, strict=True)]


def counting_cells(
    evidence: Sequence[NDArray[np.float32]], by_scale: Sequence[NDArray[np.float32]] | None
) -> list[list[int]]:
    """Cells that count, per image and map, at least 1; `by_scale` are the shares on the grid of each map."""
    if by_scale is None:
        return [[u.shape[1] * u.shape[2] for u in evidence]] * len(evidence[0])
    n_images = len(evidence[0])
    return [[max(1, round(float(share[image].sum()))) for share in by_scale] for image in range(n_images)]


def at_scales(
    shares: NDArray[np.float32] | None, evidence: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]] | None:
    """`shares` (B, H, W) on the grid of each map, as means over its cells."""
    if shares is None:
        return None
    scaled = []
    for u in evidence:
        y, x = shares.shape[1] // u.shape[1], shares.shape[2] // u.shape[2]
        cells = shares.reshape(len(shares), u.shape[1], y, u.shape[2], x)
        scaled.append(cells.mean(axis=(2, 4), dtype=np.float32))
    return scaled


def clear_halos(
    evidence: Sequence[NDArray[np.float32]], *, background: Sequence[Background], reach: Sequence[int]
) -> list[NDArray[np.float32]]:
    """Evidence maps (B, H_s, W_s) in which cells inside the halo of a peak carry at most the background's mean.

    A coupling predicts a cell from its neighbours, so a strange cell spoils all cells within the flow's `reach`, and a
    severe defect can light up half an image. A cell is in a halo if a peak of over twice the mean is within reach and
    ln(evidence / mean) of the cell is less than half of the peak's. Evidence only gets smaller, so every bound on false
    alarms that held before holds after.
    """
    cleared = []
    for u, law, cells in zip(evidence, background, reach, strict=True):
        mean = law.degrees_of_freedom * law.scale
        peak = np.stack([highest_around(one, cells) for one in u])
        with np.errstate(divide="ignore"):
            is_halo = (peak > PEAK_START * mean) & (np.log(u / mean) < HALF * np.log(peak / mean))
        cleared.append(np.where(is_halo, np.minimum(u, np.float32(mean)), u).astype(np.float32))
    return cleared
