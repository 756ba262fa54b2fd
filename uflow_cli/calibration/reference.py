"""How the energy of held-out good images is spread: over images, over positions, over values. To draw, and to compare.

All levels are U / C, 1 on average under the chi-square law of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POSITIONS = 14  # cells along the longer side of a position map, at most
PROBABILITIES = (
    0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999,
    0.9995, 0.9999,
)  # fmt: skip
DIGITS = 5  # significant ones: what is stored stays small


@dataclass(frozen=True)
class Reference:
    """One scale of the held-out images."""

    image_levels: tuple[float, ...]  # mean level of each image
    position_levels: tuple[tuple[float, ...], ...]  # mean level over images at each position, rows of a coarse grid
    quantiles: tuple[float, ...]  # of the level of a cell, at `PROBABILITIES`


def fit_reference(squared_norm: NDArray[np.float32], *, n_channels: int) -> Reference:
    """The reference of one scale from U maps (N, H, W) of good images, N at least 1."""
    levels = squared_norm.astype(np.float64) / n_channels
    return Reference(
        image_levels=_rounded(levels.mean(axis=(1, 2))),
        position_levels=tuple(_rounded(row) for row in position_levels(squared_norm, n_channels=n_channels)),
        quantiles=_rounded(np.quantile(levels, PROBABILITIES)),
    )


def position_levels(squared_norm: NDArray[np.float32], *, n_channels: int) -> NDArray[np.float64]:
    """Mean level over images at each position, (h, w): U maps (N, H, W) pooled to at most `POSITIONS` cells a side."""
    mean = squared_norm.mean(axis=0, dtype=np.float64) / n_channels
    step = -(-max(mean.shape) // POSITIONS)
    rows, columns = (np.arange(0, n, step) for n in mean.shape)
    sums = np.add.reduceat(np.add.reduceat(mean, rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff(np.append(rows, mean.shape[0])), np.diff(np.append(columns, mean.shape[1])))
    pooled: NDArray[np.float64] = sums / counts
    return pooled


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)
