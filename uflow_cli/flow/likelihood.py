"""Likelihood map and anomaly score (paper eq. 2). Likelihoods here are natural, not logarithms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SQUARED_NORM = 1e30  # finite, and far beyond any threshold


def likelihood_map(embeddings: Sequence[Tensor], *, size: tuple[int, int]) -> Tensor:
    """Mean over scales of exp(-|z|² / 2C). Returns (B, 1, H, W) in (0, 1]; low is anomalous."""
    n_channels = [z.shape[1] for z in embeddings]
    norms = [u.unsqueeze(1) for u in squared_norms(embeddings)]  # (B, 1, H_s, W_s)
    maps = [torch.exp(-0.5 * u / c) for u, c in zip(norms, n_channels, strict=True)]
    resized = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]  # (B, 1, H, W)
    return torch.stack(resized).mean(dim=0)


def anomaly_score(embeddings: Sequence[Tensor], *, size: tuple[int, int]) -> Tensor:
    """1 - likelihood. Returns (B, 1, H, W) in [0, 1); high is anomalous."""
    return 1.0 - likelihood_map(embeddings, size=size)


def squared_norms(embeddings: Sequence[Tensor]) -> list[Tensor]:
    """U = Σ_c z² per cell and scale, (B, H_s, W_s) float32, on the device that holds the embeddings (paper eq. 5).

    An image unlike anything seen can drive the flow beyond float32; what overflows counts as MAX_SQUARED_NORM.
    """
    sums = [z.float().square().sum(dim=1) for z in embeddings]
    return [torch.nan_to_num(u, nan=MAX_SQUARED_NORM).clamp_max(MAX_SQUARED_NORM) for u in sums]
