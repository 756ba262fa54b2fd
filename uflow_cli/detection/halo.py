"""The halo of an anomaly: what the flow's convolutions spread around it is not evidence of its own.

A coupling predicts a cell from its neighbours, so an anomalous cell spoils the embeddings of all cells it can reach,
and a severe defect can light up half an image. Cells far below a peak within reach are therefore taken back to the
mean of the background, as half-maximum outlines are taken of any blurred object; here in the logarithm. U only gets
smaller: every bound on false alarms that held before holds after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from uflow_cli.detection.nfa import Background

PEAK_START = 2.0  # a peak below twice the mean has no halo worth the name
HALF = 0.5  # of the peak's log U over the mean


def suppress_halo(
    squared_norms: Sequence[NDArray[np.float32]], *, background: Sequence[Background], reach: Sequence[int]
) -> list[NDArray[np.float32]]:
    """U maps (B, H_s, W_s), finest first, in which cells inside the halo of a peak carry at most the background's mean.

    A cell is inside if a peak of over twice the mean is within the flow's `reach` (cells, per scale) and the cell's
    ln(U / mean) is less than half of the peak's.
    """
    cleared = []
    for u, law, cells in zip(squared_norms, background, reach, strict=True):
        mean = law.degrees_of_freedom * law.scale
        peak = maximum_filter(u, size=(1, 2 * cells + 1, 2 * cells + 1), mode="nearest")
        with np.errstate(divide="ignore"):
            is_halo = (peak > PEAK_START * mean) & (np.log(u / mean) < HALF * np.log(peak / mean))
        cleared.append(np.where(is_halo, np.minimum(u, np.float32(mean)), u).astype(np.float32))
    return cleared
