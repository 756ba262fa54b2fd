"""The training step: its batches, its optimiser and learning rate, and its compiled form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from uflow_cli.config import Schedule
from uflow_cli.flow import UFlow, negative_log_likelihood

FINAL_SHARE = 0.01  # of the peak learning rate, where one cycle ends


def batched(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`indices` in pieces of `size`; the last may be shorter."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def adam(parameters: Iterable[nn.Parameter], *, weight_decay: float) -> torch.optim.Adam:
    """Adam in one pass over each parameter where this PyTorch can: since 2.4 on CPUs, before that on GPUs only."""
    own = list(parameters)
    try:
        return torch.optim.Adam(own, weight_decay=weight_decay, fused=True)
    except RuntimeError:
        return torch.optim.Adam(own, weight_decay=weight_decay)


def rate_factor(schedule: Schedule, step: int, *, n_steps: int, warm_up: float) -> float:
    """Share of the peak learning rate at `step`, from 0, of `n_steps`.

    "one-cycle" rises linearly over the first `warm_up` of all steps and falls by a cosine to a hundredth. "constant"
    stays after the rise. "published" is 1 throughout: the paper's linear decay never moves in practice.
    """
    n_warm_up = round(warm_up * n_steps)
    if schedule == "published":
        return 1.0
    if step < n_warm_up:
        return (step + 1) / n_warm_up
    if schedule == "constant":
        return 1.0
    part = min(1.0, (step - n_warm_up) / max(1, n_steps - n_warm_up))
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * part))


class CompiledFlow(nn.Module):
    """`flow`, compiled for batches of `batch_size`; others, such as an epoch's last, go through it as it is."""

    def __init__(self, flow: UFlow, *, batch_size: int) -> None:
        super().__init__()
        self.flow, self.batch_size = flow, batch_size
        self._compiled = torch.compile(flow.forward, dynamic=False)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Embeddings and log_det_jacobian, as `UFlow.forward`."""
        run = self._compiled if len(features[0]) == self.batch_size else self.flow
        embeddings, log_det_jacobian = run(features)
        return embeddings, log_det_jacobian


def compiled(
    flow: UFlow, *, batch_size: int, device: torch.device, half: bool, on_warning: Callable[[str], None]
) -> nn.Module:
    """`flow` compiled for training steps of `batch_size` images; as it is, with a warning, where that fails.

    `half` tells that steps run under autocast to bfloat16. A step on zeros compiles, and shows whether that works.
    """
    zeros = [
        torch.zeros(batch_size, c, *grid, device=device) for c, grid in zip(flow.channels, flow.grids, strict=True)
    ]
    try:
        candidate = CompiledFlow(flow, batch_size=batch_size)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            embeddings, log_det_jacobian = candidate(zeros)
        torch.autograd.backward(negative_log_likelihood(embeddings, log_det_jacobian).mean())
    except Exception as error:  # a compiler that is missing, too old or broken shows in many ways; none is the user's
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        on_warning(f"training steps cannot be compiled here ({reason}); they run as they are, only slower")
        return flow
    finally:
        flow.zero_grad(set_to_none=True)
    return candidate
