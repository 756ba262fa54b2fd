"""One step of the flow: coupling, global affine map, permutation (METHOD 2). Logarithms are natural."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uflow_cli.config import Coupling

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
