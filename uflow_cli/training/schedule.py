"""How the learning rate moves over the steps of a training."""

from __future__ import annotations

import math

from uflow_cli.config import Schedule

FINAL_SHARE = 0.01  # of the peak, where one cycle ends


def rate_factor(schedule: Schedule, step: int, *, n_steps: int, warm_up: float) -> float:
    """Share of the peak learning rate at `step`, from 0, of `n_steps`.

    "one-cycle" rises linearly over the first `warm_up` of all steps and falls by a cosine to a hundredth. "constant"
    stays after the rise. "published" is 1 throughout: the paper's linear decay never moves in practice (METHOD 5).
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
