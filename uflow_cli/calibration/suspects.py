"""Good images that look defective, found among the images that calibrate. Logarithms are base 10.

A defect that lies among the good images shifts the law and draws the curve by which it is judged, and hides others like
it. So both are made of the images that look least strange at first, and images are judged from there outwards, each by
the curve of those that are less strange than it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uflow_cli.calibration.fitting import EvidenceKind, calibrate, fit_curves
from uflow_cli.detection.detector import Detector, FalseAlarmCurve, counted_log_nfa, lowest_log_nfa

MOST = 0.25  # of the images, from the strangest on: all others are taken for good
STOP = 1.0  # below 0: ten times rarer, for many images are asked before one is found


def suspicious_images(
    norms: Sequence[ArrayLike], *, shares: NDArray[np.float32] | None = None, **kind: Unpack[EvidenceKind]
) -> dict[int, float]:
    """Which images have a log NFA below 0, and that, the strangest first.

    `norms` are U maps (N, H_s, W_s) of images that are taken for good and that the flow has not seen; see `calibrate`.
    As soon as one has a log NFA below -1 by the curves of all that are less strange, it and all that are stranger are
    judged by these. Nothing is said of fewer than eight images.
    """
    maps = [np.asarray(u, dtype=np.float32) for u in norms]
    n = len(maps[0])
    if n < round(2 / MOST):
        return {}
    inner = np.argsort(_peaks(maps), kind="stable")[: n - int(MOST * n)]
    plain = calibrate([u[inner] for u in maps], shares=None if shares is None else shares[inner], **kind)
    detector = Detector(plain.background, kind["tests"], tuple(kind["reach"]), fusion=plain.fusion)
    regions = detector.ranked(detector.find(maps, shares=shares).regions)

    def lowest(curves: Sequence[FalseAlarmCurve], images: NDArray[np.intp]) -> NDArray[np.float64]:
        own = regions.select(np.isin(regions.image, images))
        judged = replace(own, log_nfa=counted_log_nfa(own, curves, allowances=detector.allowances))
        values: NDArray[np.float64] = lowest_log_nfa(judged, n_images=n, ceiling=math.inf)[images]
        return values + kind["log_lot"]

    order = np.argsort(lowest(plain.curves, np.arange(n)), kind="stable")
    for count in range(int(MOST * n), 0, -1):
        strange = order[:count]
        others = regions.select(~np.isin(regions.image, strange))
        # no prior of tails: it knows trained flows, and would name good images of a poor one
        curves = fit_curves(others, n_images=n - count, n_scales=len(plain.curves))
        if lowest(curves, strange[-1:])[0] < -STOP:
            named = sorted(zip(lowest(curves, strange), strange, strict=True))
            return {int(image): float(value) for value, image in named if value < 0}
    return {}


def _peaks(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """How strange each image is at its strangest cell, (N,): the highest U of each source over the median image's."""
    highest = np.stack([u.max(axis=(1, 2)).astype(np.float64) for u in maps])
    ratios: NDArray[np.float64] = np.log(
        np.maximum(highest, 1e-12) / np.maximum(np.median(highest, axis=1), 1e-12)[:, None]
    )
    worst: NDArray[np.float64] = ratios.max(axis=0)
    return worst
