"""Training loss, and likelihood map and anomaly score of embeddings (paper eq. 2). Logarithms here are natural."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SQUARED_NORM = 1e30  # finite, and far beyond any threshold


def negative_log_likelihood(
    embeddings: Sequence[Tensor], log_det_jacobian: Tensor, shares: Sequence[Tensor] | None = None
) -> Tensor:
    """½ Σ z² - ln|det J| per image, (B,), in nats; the constant ½ D ln 2π is left out.

    With `shares` (B, 1, H_s, W_s) per scale each cell counts by its share, as it must in `log_det_jacobian`.
    """
    squared = [z.square() for z in embeddings]
    if shares is not None:
        squared = [z * share for z, share in zip(squared, shares, strict=True)]
    squares = torch.stack([z.flatten(1).sum(dim=1) for z in squared]).sum(dim=0)  # (B,)
    return 0.5 * squares - log_det_jacobian


def bits_per_dimension(nll: float, n_dimensions: int) -> float:
    """Negative log-likelihood of an image in bits per dimension, the constant ½ ln 2π included."""
    return (nll / n_dimensions + 0.5 * math.log(2 * math.pi)) / math.log(2)


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
