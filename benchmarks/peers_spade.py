"""SPADE (Cohen, Hoshen, arXiv 2005.02357) on uflow's own feature extractor: two searches for nearest neighbours.

An image's score is its mean distance to the `IMAGES` nearest training images, by pooled features of the coarsest scale.
A cell's score is its mean distance to the `CELLS` nearest cells of those images, by features of all scales on the
finest grid. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGES, CELLS = 50, 1  # of the paper


class Spade:
    """All features of the good images, per scale (N, C_s, H_s, W_s), finest first."""

    def __init__(self, features: Sequence[Tensor]) -> None:
        self.pooled = pooled(features)
        self.cells = joined(features)

    def score(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores of images (B,) and of cells (B, H, W) from their features, per scale (B, C_s, H_s, W_s)."""
        distances, nearest = torch.cdist(pooled(features), self.pooled).topk(
            min(IMAGES, len(self.pooled)), largest=False
        )
        maps = [cell_distances(cells, self.cells[near]) for cells, near in zip(joined(features), nearest, strict=True)]
        return distances.mean(dim=1), torch.stack(maps)


def pooled(features: Sequence[Tensor]) -> Tensor:
    """One vector per image, (N, C), from the coarsest scale."""
    return features[-1].mean(dim=(2, 3))


def joined(features: Sequence[Tensor]) -> Tensor:
    """All scales on the finest grid, (N, C, H, W)."""
    size = features[0].shape[2:]
    return torch.cat([F.interpolate(f, size, mode="bilinear", align_corners=False) for f in features], dim=1)


def cell_distances(cells: Tensor, gallery: Tensor) -> Tensor:
    """Mean distance of each of `cells` (C, H, W) to its nearest ones in `gallery` (K, C, H, W): (H, W)."""
    own, others = cells.flatten(1).T, gallery.permute(0, 2, 3, 1).flatten(0, 2)  # (H W, C), (K H W, C)
    return torch.cdist(own, others).topk(CELLS, largest=False).values.mean(dim=1).view(cells.shape[1:])
