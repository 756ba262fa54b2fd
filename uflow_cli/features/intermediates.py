"""Maps from the inside of a timm network, and nothing computed beyond them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Intermediates(nn.Module):
    """The maps of `network` after the blocks or stages `indices`; what comes after the last of them is dropped.

    With `norm` each map goes through the network's own final LayerNorm. With `side` the input is first resized to that
    many pixels (bicubic, corners aligned, no antialiasing: METHOD 1).
    """

    def __init__(
        self, network: nn.Module, indices: Sequence[int], *, norm: bool = False, side: int | None = None
    ) -> None:
        super().__init__()
        self.indices: list[int] = list(network.prune_intermediate_layers(list(indices), prune_norm=not norm))  # type: ignore[operator]  # timm's
        self.network, self.norm, self.side = network, norm, side

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of normalised images `x` (B, 3, S, S), in the order of `indices`, each (B, C, H, W)."""
        if self.side is not None and x.shape[-1] != self.side:
            x = F.interpolate(x, (self.side, self.side), mode="bicubic", align_corners=True)
        maps: list[Tensor] = self.network.forward_intermediates(  # type: ignore[operator]  # timm's
            x, indices=self.indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )
        return maps


class SideBySide(nn.Module):
    """Networks that see the same images; their maps one after the other."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """All maps of images `x` (B, 3, S, S)."""
        return [feature_map for network in self.networks for feature_map in network(x)]
