"""What held-out good images say of a flow: the background model and the promise on false alarms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from uflow_cli.calibration import (
    FALSE_BELOW,
    Calibration,
    cross_fitted_regions,
    fit_background,
    fit_curves,
    fit_reference,
    lowest_log_nfa,
)
from uflow_cli.config import Tests
from uflow_cli.detection.nfa import Background
from uflow_cli.detection.prediction import find_regions, log_nfa_ceiling
from uflow_cli.model import Model


def calibrate(
    background_norms: Sequence[Tensor], norms: Sequence[Tensor], *, model: Model, shared: bool
) -> Calibration:
    """Calibration of `model` from U maps of held-out good images, per scale (N, H_s, W_s).

    `norms` are of images that judged nothing before, `background_norms` of those that chose the epoch; `shared` tells
    that they are the same. See `calibrate_norms`.
    """
    return calibrate_norms(
        [u.numpy() for u in background_norms], [u.numpy() for u in norms], n_channels=model.flow.embedding_channels,
        tests=model.config.tests, reach=model.flow.reach, shared=shared,
    )  # fmt: skip


def calibrate_norms(
    selection: Sequence[np.ndarray], calibration: Sequence[np.ndarray], *, n_channels: tuple[int, ...], tests: Tests,
    reach: Sequence[int], shared: bool,
) -> Calibration:  # fmt: skip
    """Calibration from U maps of held-out good images, per scale (N, H_s, W_s).

    All of them fit the background and draw the curves; those of `calibration` in turn are left out of the curves and
    scored by the rest, so that they also give the false-alarm rate (METHOD 7.3). With one image there are no curves.
    """
    n = len(calibration[0])
    if not n:  # nothing was held out: the law of the paper, and no promise on images
        return Calibration(tuple(Background(c) for c in n_channels), (1.0,) * len(n_channels), n_channels, (), shared)
    maps = calibration if shared else [np.concatenate(pair) for pair in zip(calibration, selection, strict=True)]
    fits = [fit_background(u, n_channels=c) for u, c in zip(maps, n_channels, strict=True)]
    background = tuple(fit for fit, _ in fits)
    regions = find_regions(maps, background=background, tests=tests, reach=reach).regions
    n_counted, n_scales = len(maps[0]), len(maps)
    ceiling = log_nfa_ceiling([u.shape[1:] for u in maps], tests=tests, recalibrated=n_counted > 1)
    if n_counted > 1:
        judged = cross_fitted_regions(regions, n_images=n_counted, n_scales=n_scales, scored=np.arange(n))
    else:
        judged = regions
    lowest = lowest_log_nfa(judged, n_images=n_counted, ceiling=ceiling)[:n]
    return Calibration(
        background=background,
        mean_ratio=tuple(ratio for _, ratio in fits),
        n_channels=n_channels,
        lowest_log_nfa=tuple(sorted(float(value) for value in lowest)),
        shared=shared,
        curves=fit_curves(regions, n_images=n_counted, n_scales=n_scales) if n_counted > 1 else (),
        n_counted=n_counted,
        false_log_nfas=tuple(round(float(v), 3) for v in np.sort(judged.log_nfa[judged.log_nfa < FALSE_BELOW])),
        references=tuple(fit_reference(u, n_channels=c) for u, c in zip(maps, n_channels, strict=True)),
    )
