"""Training steps through torch.compile, where it works."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from uflow_cli.flow import UFlow, negative_log_likelihood


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

    `half` tells that steps run under autocast to bfloat16. A step on zeros is what compiles, and what tells.
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
