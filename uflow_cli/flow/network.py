"""The U-shaped normalizing flow over all scales (paper section 3.2, METHOD 2). Logarithms here are natural."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uflow_cli.config import Coupling
from uflow_cli.flow.step import FlowStep

FLOW_STEPS = 4  # of a stage (paper 4.3)
KERNEL_SIZES = (3, 1)  # of these steps, repeated (paper 4.3)


class FlowStage(nn.Module):
    """The flow steps of one scale."""

    def __init__(
        self, channels: int, *, kernel_sizes: Sequence[int], coupling: Coupling, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            FlowStep(channels, kernel_size=k, coupling=coupling, generator=generator) for k in kernel_sizes
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, C, H, W) and log_det_jacobian (B,)."""
        log_dets: list[Tensor] = []
        for step in self.steps:
            x, log_det = step(x)
            log_dets.append(log_det)
        return x, torch.stack(log_dets).sum(dim=0)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) and the log-determinant (B,) of this inverse."""
        log_dets: list[Tensor] = []
        for step in reversed(self.steps):
            y, log_det = cast(FlowStep, step).inverse(y)
            log_dets.append(log_det)
        return y, torch.stack(log_dets).sum(dim=0)


class UFlow(nn.Module):
    """Invertible map from features to embeddings, one flow stage per scale, joined from coarse to fine.

    Of what a stage gives, some channels go up: each four of them become one of the next finer grid and follow that
    scale's features into its stage. Where the scales are not `joined`, the stages stand side by side.

    `channels` and `grids` (H_s, W_s) are finest first. `kernel_sizes` repeat over the steps of a stage. `seed` fixes
    the permutations and the initial weights.
    """

    def __init__(
        self, channels: Sequence[int], grids: Sequence[tuple[int, int]], *,
        joined: bool = True, coupling: Coupling = "affine", flow_steps: int = FLOW_STEPS,
        kernel_sizes: Sequence[int] = KERNEL_SIZES, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_scales(channels, grids)
        self.kernel_sizes = tuple(islice(cycle(kernel_sizes), flow_steps))
        self.channels, self.grids, self.joined = tuple(channels), tuple(grids), joined
        self.up_channels = up_channels(self.channels) if joined else (0,) * len(self.channels)
        self.below_channels = tuple(up // 4 for up in (*self.up_channels[1:], 0))
        totals = [own + below for own, below in zip(self.channels, self.below_channels, strict=True)]
        self.embedding_channels = tuple(total - up for total, up in zip(totals, self.up_channels, strict=True))
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            coarsest_first = [
                FlowStage(c, kernel_sizes=self.kernel_sizes, coupling=coupling, generator=generator)
                for c in reversed(totals)
            ]
        self.stages = nn.ModuleList(reversed(coarsest_first))

    @property
    def n_dimensions(self) -> int:
        """Numbers in the features of one image, and in its embeddings."""
        return sum(c * h * w for c, (h, w) in zip(self.channels, self.grids, strict=True))

    @property
    def reach(self) -> tuple[int, ...]:
        """How many cells from an anomaly embeddings can feel it, per scale, finest first.

        A coupling spreads its passive half. What comes from below stands last, and so is active in the first step.
        """
        steps = [2 * (k // 2) for k in self.kernel_sizes]  # a coupling subnet has two convolutions in a row
        reach: list[int] = []
        for own, below in zip(reversed(self.channels), reversed(self.below_channels), strict=True):
            spread = sum(steps if below > (own + below) // 2 else steps[1:])
            reach.append(max(sum(steps), 2 * reach[-1] + spread if below else 0))
        return tuple(reversed(reach))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Embeddings, a list of (B, C_s, H_s, W_s), finest first, and log_det_jacobian (B,)."""
        embeddings: list[Tensor] = []
        log_dets: list[Tensor] = []
        from_below: Tensor | None = None
        for scale in reversed(range(len(self.stages))):
            x = features[scale] if from_below is None else torch.cat([features[scale], from_below], dim=1)
            x, log_det = self.stages[scale](x)
            up = self.up_channels[scale]
            from_below = F.pixel_shuffle(x[:, :up], 2) if up else None  # (B, up / 4, 2 H_s, 2 W_s)
            embeddings.append(x[:, up:])
            log_dets.append(log_det)
        return embeddings[::-1], torch.stack(log_dets).sum(dim=0)

    def inverse(self, embeddings: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Features that map to `embeddings`, finest first, and the log-determinant (B,) of this inverse."""
        features: list[Tensor] = []
        log_dets: list[Tensor] = []
        going_up: Tensor | None = None
        for scale, own in enumerate(self.channels):
            x = embeddings[scale] if going_up is None else torch.cat([going_up, embeddings[scale]], dim=1)
            x, log_det = cast(FlowStage, self.stages[scale]).inverse(x)
            going_up = F.pixel_unshuffle(x[:, own:], 2) if x.shape[1] > own else None
            features.append(x[:, :own])
            log_dets.append(log_det)
        return features, torch.stack(log_dets).sum(dim=0)


def up_channels(channels: Sequence[int]) -> tuple[int, ...]:
    """How many channels go up from each scale, finest first: 4·floor(C/8) of C, none from the finest."""
    up = [0]
    for own in reversed(channels[1:]):
        up.append(4 * ((own + up[-1] // 4) // 8))
    return (0, *reversed(up[1:]))


def _check_scales(channels: Sequence[int], grids: Sequence[tuple[int, int]]) -> None:
    if not channels or len(channels) != len(grids):
        raise ValueError(f"need one grid per scale, got {len(channels)} channel counts and {len(grids)} grids")
    for fine, coarse in pairwise(grids):
        if fine != (2 * coarse[0], 2 * coarse[1]):
            raise ValueError(f"each grid must be twice the next coarser one, got {fine} above {coarse}")
