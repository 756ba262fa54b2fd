"""Patches of good images: how far a new one is from the nearest of them, a second witness beside the flow.

The couplings of a flow spread a defect over its surroundings, a comparison of patches does not; and few good images are
enough for it. After SPADE and PatchCore (Cohen and Hoshen 2020; Roth et al. 2022): greedy k-centre selection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_CANDIDATES = 20_000  # cells that are drawn for the patches to be chosen from
N_PROJECTED = 64  # channels, when patches are chosen
FLOOR = 1e-3  # of the patches' variance, added to every distance: two machines agree on nothing smaller


class FeatureNeighbours(nn.Module):
    """The squared distance of each cell's patch from the nearest of `n_patches` good ones.

    A patch is the mean of the features of 3 x 3 cells of the two finest scales, the finer one averaged over 2 x 2 cells
    more, or of the one scale there is. `channels` are those of the features, finest first.
    """

    def __init__(self, channels: Sequence[int], n_patches: int) -> None:
        super().__init__()
        n = sum(channels[:2])
        self.n_channels = (n,)
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("patches", torch.zeros(n_patches, n))  # less their mean
        self.register_buffer("floor", torch.ones(()))
        self.register_buffer("factor", torch.ones(()))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """U of each cell (B, H, W) from features (B, C_s, H_s, W_s): its mean is C on the patches to choose from."""
        x = _patches(features) - self.get_buffer("mean")
        rows, known = x.reshape(-1, x.shape[-1]), self.get_buffer("patches")
        nearest = known[(0.5 * known.square().sum(1) - rows.matmul(known.T)).argmin(1)]
        squares = (rows - nearest).square().sum(1)  # not by the product, which would lose small ones
        return [((squares + self.get_buffer("floor")) * self.get_buffer("factor")).reshape(x.shape[:3])]

    @torch.no_grad()
    def fit(
        self, batches: Iterable[Sequence[Tensor]], shares: Iterable[Tensor | None] = repeat(None), *, n_images: int,
        seed: int = 0,
    ) -> None:  # fmt: skip
        """Choose the patches among those of `n_images` training images in `batches` of features; one pass.

        Of each batch cells are drawn by their `shares`, (B, 1, H, W) on the finest grid; None: all alike.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for features, counted in zip(batches, shares, strict=False):
            x = _patches(features).cpu()
            weights = torch.ones(x.shape[:3])
            if counted is not None:
                weights = F.adaptive_avg_pool2d(counted, (x.shape[1], x.shape[2]))[:, 0].cpu()
            for own, weight in zip(x.flatten(1, 2), weights.flatten(1), strict=True):
                n = min(-(-N_CANDIDATES // n_images), int((weight > 0).sum()))
                if n:
                    drawn.append(own[torch.multinomial(weight, n, generator=generator)])
        candidates = torch.cat(drawn)
        mean = candidates.mean(0)
        candidates -= mean
        known = self.get_buffer("patches")
        chosen = _k_centres(candidates @ torch.randn(len(mean), N_PROJECTED, generator=generator), len(known))
        self.get_buffer("mean").copy_(mean)
        known.copy_(candidates[chosen])
        self.get_buffer("floor").copy_((FLOOR * candidates.square().sum(1).mean()).clamp_min(1e-12))
        nearest = torch.cat([torch.cdist(part, candidates[chosen]).amin(1) for part in torch.split(candidates, 1024)])
        typical = nearest.square().mean() + self.get_buffer("floor").cpu()
        self.get_buffer("factor").copy_(len(mean) / typical)


def _patches(features: Sequence[Tensor]) -> Tensor:
    """What is compared, cell by cell, (B, H, W, C).

    Beyond the border there are zeros, which keep border patches small; less averaged than others they would stand out.
    """
    smooth = [F.avg_pool2d(x.float(), 3, stride=1, padding=1) for x in features[:2]]
    joined = smooth[0] if len(smooth) == 1 else torch.cat([smooth[1], F.avg_pool2d(smooth[0], 2)], dim=1)
    return joined.permute(0, 2, 3, 1)


def _k_centres(points: Tensor, n: int) -> Tensor:
    """Indices of `n` of `points` (N, C), each the furthest from those before it; again from the first where N < n."""
    distance, chosen = torch.full((len(points),), torch.inf), [0]
    while len(chosen) < min(n, len(points)):
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen).repeat(-(-n // len(chosen)))[:n]
