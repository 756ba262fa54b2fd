"""What held-out good images say of a flow: the background model and the promise on false alarms."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from uflow_cli.calibration import Calibration, fit_background
from uflow_cli.model import Model
from uflow_cli.nfa import Background
from uflow_cli.prediction import find_regions, log_nfa_ceiling, lowest_log_nfa


def calibrate(
    background_norms: Sequence[Tensor], norms: Sequence[Tensor], *, model: Model, shared: bool
) -> Calibration:
    """Calibration from U maps of held-out good images, per scale (N, H_s, W_s).

    `background_norms` give the background model, `norms` the lowest log NFA per image; where the two are disjoint, the
    false-alarm rate of METHOD 7.3 is exact.
    """
    channels = model.flow.embedding_channels
    if not len(norms[0]):  # nothing was held out: the law of the paper, and no promise on images
        return Calibration(tuple(Background(c) for c in channels), (1.0,) * len(channels), channels, (), shared)
    fits = [fit_background(u.numpy(), n_channels=c) for u, c in zip(background_norms, channels, strict=True)]
    background = tuple(fit for fit, _ in fits)
    result = find_regions(
        [u.numpy() for u in norms], background=background, tests=model.config.tests, reach=model.flow.reach
    )
    lowest = lowest_log_nfa(result, ceiling=log_nfa_ceiling(result, tests=model.config.tests))
    return Calibration(
        background=background,
        mean_ratio=tuple(ratio for _, ratio in fits),
        n_channels=channels,
        lowest_log_nfa=tuple(sorted(float(value) for value in lowest)),
        shared=shared,
    )
