"""The optimiser of the flow."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def adam(parameters: Iterable[nn.Parameter], *, weight_decay: float) -> torch.optim.Adam:
    """Adam in one pass over each parameter where this PyTorch can: since 2.4 on CPUs, before that on GPUs only."""
    own = list(parameters)
    try:
        return torch.optim.Adam(own, weight_decay=weight_decay, fused=True)
    except RuntimeError:
        return torch.optim.Adam(own, weight_decay=weight_decay)
