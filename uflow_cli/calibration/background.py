"""The law of U on good images, one per scale (METHOD 7.2). It ranks regions; what they cost, held-out images say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from uflow_cli.detection.nfa import Background


def fit_background(squared_norm: NDArray[np.float32], *, n_channels: int) -> tuple[Background, float]:
    """Background U ~ (v C / k) χ²(k) of one scale, and v, from U maps (N, H, W) of good images (METHOD 7.2).

    k = 2 mean² / var (Satterthwaite), at most C. Raises ValueError for maps without positive values.
    """
    values = np.asarray(squared_norm, dtype=np.float64)
    mean, variance = float(values.mean()), float(values.var())
    if not mean > 0:
        raise ValueError("squared norms must have a positive mean")
    k = min(2.0 * mean**2 / variance, float(n_channels)) if variance > 0 else float(n_channels)
    return Background(degrees_of_freedom=k, scale=mean / k), mean / n_channels
