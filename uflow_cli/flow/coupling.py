"""The arithmetic of a flow step around its subnet, in few passes over memory. Logarithms are natural.

Convolutions take most of a step's time; what is here takes the rest, and all of it waits for memory. The gradient is
written by hand because automatic differentiation makes more passes: the gradient of an index is a sum into places where
a gather by the inverse permutation will do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

AFFINE_CLAMPING = 2.0
SUBNET_FACTOR = 0.1  # on what a coupling subnet gives, for an untrained flow near the identity


def couple(
    passive: Tensor, active: Tensor, a: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor | None]:
    """y = P (g · [x1 ; x2 · exp(sigma) + 0.1 a_t] + b), (B, C, H, W), and Σ sigma, (B,).

    `a` is [a_s ; a_t] with sigma = 2 tanh(0.1 a_s), or a_t alone for a uniform coupling, which has no sigma and no sum.
    It may be of a lower precision than x. `scale` and `offset` are (1, C, 1, 1), `inverse` undoes `permutation`.
    """
    if torch.is_grad_enabled():
        y, log_det = _Couple.apply(passive, active, a, scale, offset, permutation, inverse)
        return y, log_det
    joined, _, _, log_det = _joined(passive, active, a)
    return _permuted(joined, scale, offset, permutation), log_det


def coefficients(a: Tensor, *, n_active: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
    """tanh(0.1 a_s), None for a uniform coupling, and 0.1 a_t."""
    a_s, a_t = a.split_with_sizes([a.shape[1] - n_active, n_active], dim=1)
    shift = SUBNET_FACTOR * a_t.to(dtype)
    return (SUBNET_FACTOR * a_s.to(dtype)).tanh_() if a_s.shape[1] else None, shift


def log_det_of(tanh: Tensor) -> Tensor:
    """Σ sigma, (B,), in single precision at least: it is a sum of many small numbers."""
    return AFFINE_CLAMPING * tanh.sum(dim=(1, 2, 3), dtype=torch.promote_types(tanh.dtype, torch.float32))


def _joined(passive: Tensor, active: Tensor, a: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """[x1 ; x2 · exp(sigma) + 0.1 a_t], tanh(0.1 a_s), exp(sigma) and Σ sigma."""
    tanh, shift = coefficients(a, n_active=active.shape[1], dtype=active.dtype)
    if tanh is None:
        return torch.cat([passive, active + shift], dim=1), None, None, None
    growth = torch.exp(AFFINE_CLAMPING * tanh)
    return torch.cat([passive, torch.addcmul(shift, active, growth)], dim=1), tanh, growth, log_det_of(tanh)


def _permuted(joined: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor) -> Tensor:
    return torch.addcmul(offset, joined, scale).index_select(1, permutation)


class _Couple(torch.autograd.Function):
    """`couple` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, passive: Tensor, active: Tensor, a: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor,
        inverse: Tensor,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        joined, tanh, growth, log_det = _joined(passive, active, a)
        ctx.save_for_backward(active, joined, tanh, growth, scale, inverse)
        ctx.dtype = a.dtype
        return _permuted(joined, scale, offset, permutation), log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Tensor, of_log_det: Tensor | None) -> tuple[Tensor | None, ...]:
        active, joined, tanh, growth, scale, inverse = ctx.saved_tensors
        n_active = active.shape[1]
        of_joined = of_y.index_select(1, inverse)  # of g · joined + b, so far
        of_offset = of_joined.sum(dim=(0, 2, 3), keepdim=True)
        of_scale = (of_joined * joined).sum(dim=(0, 2, 3), keepdim=True)
        of_joined.mul_(scale)
        of_passive, of_active = of_joined.split_with_sizes([joined.shape[1] - n_active, n_active], dim=1)
        if of_log_det is None:
            return of_passive, of_active, (SUBNET_FACTOR * of_active).to(ctx.dtype), of_scale, of_offset, None, None
        of_a_t = (SUBNET_FACTOR * of_active).to(ctx.dtype)
        of_active = of_active * growth
        of_sigma = torch.addcmul(of_log_det.view(-1, 1, 1, 1), of_active, active)
        of_sigma = of_sigma.addcmul(of_sigma * tanh, tanh, value=-1.0)  # tanh' = 1 - tanh²
        of_a_s = (SUBNET_FACTOR * AFFINE_CLAMPING * of_sigma).to(ctx.dtype)
        of_a = torch.cat([of_a_s, of_a_t], dim=1)
        return of_passive, of_active, of_a, of_scale, of_offset, None, None
