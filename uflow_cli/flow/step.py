"""One step of the flow: coupling, global affine map, permutation (METHOD 2). Logarithms are natural."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uflow_cli.config import Coupling
from uflow_cli.flow.coupling import AFFINE_CLAMPING, coefficients, couple, log_det_of

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
        self.halves = passive, active = channels - channels // 2, channels // 2
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
        passive, active = x.split_with_sizes(self.halves, dim=1)
        scale = self.scale
        y, log_det = couple(
            passive, active, self.subnet(passive), scale, self.global_offset, self.permutation, self.inverse_permutation
        )
        of_scale = log_det_of_scale(scale, x)
        return y, of_scale if log_det is None else log_det + of_scale

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) and the log-determinant (B,) of this inverse."""
        scale = self.scale
        x = (y.index_select(1, self.inverse_permutation) - self.global_offset) / scale
        passive, active = x.split_with_sizes(self.halves, dim=1)
        tanh, shift = coefficients(self.subnet(passive), n_active=active.shape[1], dtype=active.dtype)
        log_det = log_det_of_scale(scale, x)
        active = active - shift
        if tanh is not None:
            active = active * torch.exp(-AFFINE_CLAMPING * tanh)
            log_det = log_det + log_det_of(tanh)
        return torch.cat([passive, active], dim=1), -log_det


def log_det_of_scale(scale: Tensor, x: Tensor) -> Tensor:
    """H W Σ ln g, (B,), in single precision at least."""
    total = torch.log(scale).sum(dtype=torch.promote_types(scale.dtype, torch.float32))
    return (x.shape[2] * x.shape[3] * total).expand(len(x))


def coupling_subnet(channels_in: int, channels_out: int, kernel_size: int) -> nn.Sequential:
    """Two convolutions with a ReLU between; the hidden width is the input's."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, kernel_size, padding=kernel_size // 2),
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
    )
