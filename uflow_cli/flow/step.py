"""One step of the flow: coupling, global affine map, permutation (paper section 3.2). Logarithms here are natural.

Convolutions take most of a step's time. The arithmetic around them waits for memory, so it is written in few passes,
and its gradient by hand, because automatic differentiation makes more: the gradient of an index is a sum into places
where a gather by the inverse permutation will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from FrEIA.modules import InvertibleModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from uflow_cli.config import Coupling

AFFINE_CLAMPING = 2.0
SUBNET_FACTOR = 0.1  # on what a coupling subnet gives, for an untrained flow near the identity
IDENTITY_SCALE = 2.0 * math.log(math.exp(5.0) - 1.0)  # where `FlowStep.scale` is 1


class FlowStep(InvertibleModule):
    """Coupling, global affine map and a fixed permutation of the channels; for x = [x1 ; x2]

        y = P (g · [x1 ; x2 · exp(sigma) + a_t] + b),    sigma = 2 tanh(a_s),    [a_s ; a_t] = 0.1 subnet(x1).

    This is FrEIA's `AllInOneBlock` with affine_clamping=2 and permute_soft=False, under the same names, except that P
    is a gather by index instead of a product with a matrix: channel i of its result is channel `permutation`[i].

    Where `shares` (B, 1, H, W) are set, the log-determinant counts each cell by its share; see `UFlow.weighted`. Where
    `kept` (B, C', 1, 1) is set, it multiplies the C' hidden channels of the subnet; see `UFlow.thinned`.

    A "uniform" coupling has no sigma: all scaling is by g, one learned number per channel, so that log|det J| is the
    same for all x and the likelihood is a function of |z| alone (uniformly scaling flows, arXiv 2510.09452).
    """

    global_scale: nn.Parameter
    global_offset: nn.Parameter
    permutation: Tensor
    inverse_permutation: Tensor

    def __init__(
        self, dims_in: Sequence[tuple[int, int, int]], *, kernel_size: int, coupling: Coupling, permutation: Tensor
    ) -> None:
        super().__init__(dims_in)
        [(channels, *grid)] = dims_in
        self.shares: Tensor | None = None
        self.kept: Tensor | None = None
        self.grid = tuple(grid)
        self.halves = passive, active = channels - channels // 2, channels // 2
        self.global_scale = nn.Parameter(torch.full((1, channels, 1, 1), IDENTITY_SCALE))
        self.global_offset = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.subnet = coupling_subnet(passive, 2 * active if coupling == "affine" else active, kernel_size)
        self.register_buffer("permutation", permutation)
        self.register_buffer("inverse_permutation", torch.argsort(permutation))

    def output_dims(self, input_dims: Sequence[tuple[int, int, int]]) -> Sequence[tuple[int, int, int]]:
        """The shape stays."""
        return input_dims

    @property
    def is_permuting(self) -> bool:
        """Whether the indices, which weights from a file may replace, are a permutation and its inverse."""
        order = torch.arange(len(self.permutation), device=self.permutation.device)
        inverse = torch.argsort(self.permutation)
        return torch.equal(self.permutation.sort().values, order) and torch.equal(self.inverse_permutation, inverse)

    @property
    def hidden_channels(self) -> int:
        """Channels between the two convolutions of the subnet."""
        return self.halves[0]

    @property
    def scale(self) -> Tensor:
        """g, positive, (1, C, 1, 1)."""
        return 0.1 * F.softplus(self.global_scale, beta=0.5)

    def forward(self, x_or_z: Sequence[Tensor], rev: bool = False, jac: bool = True) -> tuple[tuple[Tensor], Tensor]:
        """FrEIA's interface: y, or x if `rev`, (B, C, H, W), and the log-determinant (B,) of that map."""
        [x] = x_or_z
        y, log_det = self._inverse(x) if rev else self._forward(x)
        return (y,), log_det

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        passive, active = x.split_with_sizes(self.halves, dim=1)
        scale = self.scale
        y, log_det = couple(
            passive, active, self._a(passive), scale, self.global_offset,
            self.permutation, self.inverse_permutation, self.shares,
        )  # fmt: skip
        of_scale = log_det_of_scale(scale, x, self.shares)
        return y, of_scale if log_det is None else log_det + of_scale

    def _inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale
        x = (y.index_select(1, self.inverse_permutation) - self.global_offset) / scale
        passive, active = x.split_with_sizes(self.halves, dim=1)
        tanh, shift = coefficients(self._a(passive), n_active=active.shape[1], dtype=active.dtype)
        log_det = log_det_of_scale(scale, x)
        active = active - shift
        if tanh is not None:
            active = active * torch.exp(-AFFINE_CLAMPING * tanh)
            log_det = log_det + log_det_of(tanh)
        return torch.cat([passive, active], dim=1), -log_det

    def _a(self, passive: Tensor) -> Tensor:
        """[a_s ; a_t] before its factor, or a_t alone for a uniform coupling."""
        if self.kept is None:
            a: Tensor = self.subnet(passive)
            return a
        first, rectify, second = self.subnet
        hidden = rectify(first(passive))
        thinned: Tensor = second(hidden * self.kept.to(hidden.dtype))
        return thinned


def coupling_subnet(channels_in: int, channels_out: int, kernel_size: int) -> nn.Sequential:
    """Two convolutions with a ReLU between; the hidden width is the input's."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, kernel_size, padding=kernel_size // 2),
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
    )


def log_det_of_scale(scale: Tensor, x: Tensor, shares: Tensor | None = None) -> Tensor:
    """H W Σ ln g, (B,), or of as many cells as `shares` (B, 1, H, W) add up to; in single precision at least."""
    total = torch.log(scale).sum(dtype=torch.promote_types(scale.dtype, torch.float32))
    if shares is not None:
        return shares.sum(dim=(1, 2, 3)) * total
    return (x.shape[2] * x.shape[3] * total).expand(len(x))


def couple(
    passive: Tensor, active: Tensor, a: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor, inverse: Tensor,
    shares: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """y = P (g · [x1 ; x2 · exp(sigma) + 0.1 a_t] + b), (B, C, H, W), and Σ sigma, (B,).

    `a` is [a_s ; a_t] with sigma = 2 tanh(0.1 a_s), or a_t alone for a uniform coupling, which has no sigma and no sum.
    It may be of a lower precision than x. `scale` and `offset` are (1, C, 1, 1), `inverse` undoes `permutation`.
    `shares` (B, 1, H, W) weight the cells in the sum.
    """
    if torch.is_grad_enabled():
        y, log_det = _Couple.apply(passive, active, a, scale, offset, permutation, inverse, shares)
        return y, log_det
    joined, _, _, log_det = _joined(passive, active, a, shares)
    return _permuted(joined, scale, offset, permutation), log_det


def coefficients(a: Tensor, *, n_active: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
    """tanh(0.1 a_s), None for a uniform coupling, and 0.1 a_t."""
    a_s, a_t = a.split_with_sizes([a.shape[1] - n_active, n_active], dim=1)
    shift = SUBNET_FACTOR * a_t.to(dtype)
    return (SUBNET_FACTOR * a_s.to(dtype)).tanh_() if a_s.shape[1] else None, shift


def log_det_of(tanh: Tensor, shares: Tensor | None = None) -> Tensor:
    """Σ sigma, (B,), each cell by its share; in single precision at least: it is a sum of many small numbers."""
    tanh = tanh if shares is None else tanh * shares
    return AFFINE_CLAMPING * tanh.sum(dim=(1, 2, 3), dtype=torch.promote_types(tanh.dtype, torch.float32))


def _joined(
    passive: Tensor, active: Tensor, a: Tensor, shares: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """[x1 ; x2 · exp(sigma) + 0.1 a_t], tanh(0.1 a_s), exp(sigma) and Σ sigma."""
    tanh, shift = coefficients(a, n_active=active.shape[1], dtype=active.dtype)
    if tanh is None:
        return torch.cat([passive, active + shift], dim=1), None, None, None
    growth = torch.exp(AFFINE_CLAMPING * tanh)
    return torch.cat([passive, torch.addcmul(shift, active, growth)], dim=1), tanh, growth, log_det_of(tanh, shares)


def _permuted(joined: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor) -> Tensor:
    return torch.addcmul(offset, joined, scale).index_select(1, permutation)


class _Couple(torch.autograd.Function):
    """`couple` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, passive: Tensor, active: Tensor, a: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor,
        inverse: Tensor, shares: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        joined, tanh, growth, log_det = _joined(passive, active, a, shares)
        ctx.save_for_backward(active, joined, tanh, growth, scale, inverse, shares)
        ctx.dtype = a.dtype
        return _permuted(joined, scale, offset, permutation), log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Tensor, of_log_det: Tensor | None) -> tuple[Tensor | None, ...]:
        active, joined, tanh, growth, scale, inverse, shares = ctx.saved_tensors
        n_active = active.shape[1]
        of_joined = of_y.index_select(1, inverse)  # of g · joined + b, so far
        of_offset = of_joined.sum(dim=(0, 2, 3), keepdim=True)
        of_scale = (of_joined * joined).sum(dim=(0, 2, 3), keepdim=True)
        of_joined.mul_(scale)
        of_passive, of_active = of_joined.split_with_sizes([joined.shape[1] - n_active, n_active], dim=1)
        of_a_t = (SUBNET_FACTOR * of_active).to(ctx.dtype)
        if of_log_det is None:
            return of_passive, of_active, of_a_t, of_scale, of_offset, None, None, None
        of_active = of_active * growth
        of_each = of_log_det.view(-1, 1, 1, 1) if shares is None else of_log_det.view(-1, 1, 1, 1) * shares
        of_sigma = torch.addcmul(of_each, of_active, active)
        of_sigma = of_sigma.addcmul(of_sigma * tanh, tanh, value=-1.0)  # tanh' = 1 - tanh²
        of_a_s = (SUBNET_FACTOR * AFFINE_CLAMPING * of_sigma).to(ctx.dtype)
        of_a = torch.cat([of_a_s, of_a_t], dim=1)
        return of_passive, of_active, of_a, of_scale, of_offset, None, None, None
