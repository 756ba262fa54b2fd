"""How the learning rate moves over the steps of a training."""

from __future__ import annotations

import numpy as np
import torch


def one_cycle(optimiser: torch.optim.Optimizer, n_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over the first tenth of `n_steps`, then a cosine decay to a hundredth of the peak."""
    n_warm_up = max(1, n_steps // 10)

    def factor(step: int) -> float:
        if step < n_warm_up:
            return (step + 1) / n_warm_up
        part = (step - n_warm_up) / max(1, n_steps - n_warm_up)
        return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * part)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
