"""The U-shaped normalizing flow (paper section 3.2, METHOD 2). Logarithms here are natural."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uflow_cli.config import Coupling

KERNEL_SIZES = (3, 1, 3, 1)  # of the flow steps of a stage (paper 4.3)
STEP_REACH = tuple(2 * (k // 2) for k in KERNEL_SIZES)  # cells: a coupling subnet has two convolutions in a row
AFFINE_CLAMPING = 2.0
SUBNET_FACTOR = 0.1  # on what a coupling subnet gives, for an untrained flow near the identity
IDENTITY_SCALE = 2.0 * math.log(math.exp(5.0) - 1.0)  # where `FlowStep.scale` is 1


class FlowStep(nn.Module):
    """Coupling, global affine map and a fixed permutation of the channels; for x = [x1 ; x2]

        y = P (g · [x1 ; x2 · exp(sigma) + a_t] + b),    sigma = 2 tanh(a_s),    [a_s ; a_t] = 0.1 subnet(x1).

    A "uniform" coupling has no sigma: all scaling is by g, one learned number per channel, so that log|det J| is the
    same for all x and the likelihood is a function of |z| alone (uniformly scaling flows, arXiv 2510.09452).
    """

    permutation: Tensor
    inverse_permutation: Tensor

    def __init__(self, channels: int, *, kernel_size: int, coupling: Coupling, generator: torch.Generator) -> None:
        super().__init__()
        self.coupling = coupling
        self.n_passive = passive = channels - channels // 2
        active = channels // 2
        self.global_scale = nn.Parameter(torch.full((1, channels, 1, 1), IDENTITY_SCALE))
        self.global_offset = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.subnet = coupling_subnet(passive, 2 * active if coupling == "affine" else active, kernel_size)
        permutation = torch.randperm(channels, generator=generator, device="cpu")
        self.register_buffer("permutation", permutation)
        self.register_buffer("inverse_permutation", torch.argsort(permutation))

    @property
    def scale(self) -> Tensor:
        """g, positive, (1, C, 1, 1)."""
        return 0.1 * F.softplus(self.global_scale, beta=0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, C, H, W) and log_det_jacobian (B,)."""
        passive, active = x[:, : self.n_passive], x[:, self.n_passive :]
        sigma, shift = self._coefficients(passive)
        active = active + shift if sigma is None else active * torch.exp(sigma) + shift
        scale = self.scale
        y = torch.cat([passive, active], dim=1) * scale + self.global_offset
        return y[:, self.permutation], self._log_det(x, sigma, scale)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) and the log-determinant (B,) of this inverse."""
        scale = self.scale
        x = (y[:, self.inverse_permutation] - self.global_offset) / scale
        passive, active = x[:, : self.n_passive], x[:, self.n_passive :]
        sigma, shift = self._coefficients(passive)
        active = active - shift if sigma is None else (active - shift) * torch.exp(-sigma)
        return torch.cat([passive, active], dim=1), -self._log_det(x, sigma, scale)

    def _coefficients(self, passive: Tensor) -> tuple[Tensor | None, Tensor]:
        """sigma, None in a uniform coupling, and a_t."""
        a = SUBNET_FACTOR * self.subnet(passive)
        if self.coupling == "uniform":
            return None, a
        a_s, a_t = a.chunk(2, dim=1)
        return AFFINE_CLAMPING * torch.tanh(a_s), a_t

    def _log_det(self, x: Tensor, sigma: Tensor | None, scale: Tensor) -> Tensor:
        """Σ sigma + H W Σ ln g, (B,), in single precision at least: it is a sum of many small numbers."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        of_scale = x.shape[2] * x.shape[3] * torch.log(scale).sum(dtype=dtype)
        return of_scale.expand(len(x)) if sigma is None else sigma.sum(dim=(1, 2, 3), dtype=dtype) + of_scale


def coupling_subnet(channels_in: int, channels_out: int, kernel_size: int) -> nn.Sequential:
    """Two convolutions with a ReLU between; the hidden width is the input's."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, kernel_size, padding=kernel_size // 2),
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
    )


class FlowStage(nn.Module):
    """The flow steps of one scale."""

    def __init__(self, channels: int, *, coupling: Coupling, generator: torch.Generator) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            FlowStep(channels, kernel_size=k, coupling=coupling, generator=generator) for k in KERNEL_SIZES
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

    `channels` and `grids` (H_s, W_s) are finest first. `seed` fixes the permutations and the initial weights.
    """

    def __init__(
        self, channels: Sequence[int], grids: Sequence[tuple[int, int]], *,
        joined: bool = True, coupling: Coupling = "affine", seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_scales(channels, grids)
        self.channels, self.grids, self.joined = tuple(channels), tuple(grids), joined
        self.up_channels = up_channels(self.channels) if joined else (0,) * len(self.channels)
        self.below_channels = tuple(up // 4 for up in (*self.up_channels[1:], 0))
        totals = [own + below for own, below in zip(self.channels, self.below_channels, strict=True)]
        self.embedding_channels = tuple(total - up for total, up in zip(totals, self.up_channels, strict=True))
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            coarsest_first = [FlowStage(c, coupling=coupling, generator=generator) for c in reversed(totals)]
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
        reach: list[int] = []
        for own, below in zip(reversed(self.channels), reversed(self.below_channels), strict=True):
            spread = sum(STEP_REACH if below > (own + below) // 2 else STEP_REACH[1:])
            reach.append(max(sum(STEP_REACH), 2 * reach[-1] + spread if below else 0))
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


def negative_log_likelihood(embeddings: Sequence[Tensor], log_det_jacobian: Tensor) -> Tensor:
    """½ Σ z² - ln|det J| per image, (B,), in nats; the constant ½ D ln 2π is left out (METHOD 5)."""
    squares = torch.stack([z.square().flatten(1).sum(dim=1) for z in embeddings]).sum(dim=0)  # (B,)
    return 0.5 * squares - log_det_jacobian


def bits_per_dimension(nll: float, n_dimensions: int) -> float:
    """Negative log-likelihood of an image in bits per dimension, the constant ½ ln 2π included."""
    return (nll / n_dimensions + 0.5 * math.log(2 * math.pi)) / math.log(2)


def _check_scales(channels: Sequence[int], grids: Sequence[tuple[int, int]]) -> None:
    if not channels or len(channels) != len(grids):
        raise ValueError(f"need one grid per scale, got {len(channels)} channel counts and {len(grids)} grids")
    for fine, coarse in pairwise(grids):
        if fine != (2 * coarse[0], 2 * coarse[1]):
            raise ValueError(f"each grid must be twice the next coarser one, got {fine} above {coarse}")
