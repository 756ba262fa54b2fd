"""Flows away from their initial state, where global affine maps are the identity: ours, and the published models'."""

from __future__ import annotations

from typing import TypeVar

import torch
from FrEIA.framework import GraphINN  # noqa: TID251
from torch import nn
from training_step import published_graph

Flow = TypeVar("Flow", bound=nn.Module)


def perturbed(flow: Flow, seed: int = 1) -> Flow:
    """The flow with noise on all that it learns."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return flow


def square_grids(n_scales: int, coarsest: int) -> list[tuple[int, int]]:
    """Grids whose coarsest is `coarsest` cells wide, finest first."""
    return [(coarsest * 2**s, coarsest * 2**s) for s in reversed(range(n_scales))]


def freia_graph(channels: tuple[int, ...], flow_steps: int, *, coarsest: int = 2) -> GraphINN:
    """The graph of the published models, of FrEIA's own parts, in double precision."""
    kernel_sizes = [(3, 1)[step % 2] for step in range(flow_steps)]
    return perturbed(
        published_graph(channels, square_grids(len(channels), coarsest), kernel_sizes=kernel_sizes)
    ).double()
