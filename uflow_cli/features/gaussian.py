"""Gaussians over features: the plainest model of good images, and a second witness beside the flow.

The couplings of a flow spread a defect over its surroundings; a Gaussian over the features of a cell does not. It is
fitted to the training images in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = 3  # the finest ones: what coarse ones have to say, the flow says better
SHRINKAGE = 1e-3  # of the mean variance, added to every variance: what hardly varies must not decide everything


class FeatureGaussians(nn.Module):
    """A Gaussian for each two neighbours among the three finest scales, or for the one scale there is.

    The finer one of two scales is averaged over 2 x 2 cells, and its channels stand behind those of the coarser one.
    `channels` are those of the features, finest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = [fine + coarse for fine, coarse in pairwise(channels[:SCALES])]
        self.n_channels = tuple(pairs or channels)
        for number, n in enumerate(self.n_channels):
            self.register_buffer(f"mean_{number}", torch.zeros(n))
            self.register_buffer(f"whitening_{number}", torch.eye(n))  # (C, C): z = whitening (x - mean) is white

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Squared Mahalanobis distance of each cell, per Gaussian (B, H, W), from features (B, C_s, H_s, W_s)."""
        return [
            (x - self.get_buffer(f"mean_{number}")).matmul(self.get_buffer(f"whitening_{number}").T).square().sum(-1)
            for number, x in enumerate(_cells(features))
        ]

    @torch.no_grad()
    def fit(self, batches: Iterable[Sequence[Tensor]], shares: Iterable[Tensor | None] = repeat(None)) -> None:
        """Set means and covariances from `batches` of training features; one pass, sums in float64.

        Of each batch the cells count by their `shares`, (B, 1, H, W) on the finest grid; None: all alike.
        """
        sums = [torch.zeros(n, dtype=torch.float64) for n in self.n_channels]
        products = [torch.zeros(n, n, dtype=torch.float64) for n in self.n_channels]
        counts = [0.0] * len(sums)
        for features, counted in zip(batches, shares, strict=False):
            for number, x in enumerate(_cells(features)):
                rows = x.reshape(-1, x.shape[-1]).double().cpu()
                weighted = rows
                if counted is not None:
                    weights = F.adaptive_avg_pool2d(counted, (x.shape[1], x.shape[2])).reshape(-1, 1).double().cpu()
                    weighted = rows * weights
                sums[number] += weighted.sum(dim=0)
                products[number] += weighted.T @ rows
                counts[number] += len(rows) if counted is None else float(weights.sum())
        for number, (total, product, n) in enumerate(zip(sums, products, counts, strict=True)):
            mean = total / n
            covariance = product / n - torch.outer(mean, mean)
            floor = SHRINKAGE * covariance.diagonal().mean().clamp_min(1e-12)
            factor = torch.linalg.cholesky(covariance + floor * torch.eye(len(mean), dtype=torch.float64))
            identity = torch.eye(len(mean), dtype=torch.float64)
            whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
            self.get_buffer(f"mean_{number}").copy_(mean)
            self.get_buffer(f"whitening_{number}").copy_(whitening)


def _cells(features: Sequence[Tensor]) -> list[Tensor]:
    """The channels of each Gaussian, cell by cell: (B, H, W, C)."""
    joined = [torch.cat([coarse, F.avg_pool2d(fine, 2)], dim=1) for fine, coarse in pairwise(features[:SCALES])]
    return [x.float().permute(0, 2, 3, 1) for x in joined or features]
