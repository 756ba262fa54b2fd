"""Thresholds on log10 NFA and what they promise (METHOD 7.3)."""

from __future__ import annotations

import math

from uflow_cli.calibration.calibration import Calibration
from uflow_cli.errors import UflowError


def threshold_for_rate(calibration: Calibration, rate: float) -> float:
    """log10 NFA below which at most a share `rate` of good images falls (split conformal, METHOD 7.3).

    UflowError if `rate` is no probability, or smaller than the held-out images can promise.
    """
    return calibration.lowest_log_nfa[conformal_rank(calibration, rate) - 1]


def conformal_rank(calibration: Calibration, rate: float) -> int:
    """Which of the sorted lowest log NFA is the threshold for `rate`, counted from 1; see `threshold_for_rate`."""
    if not 0 < rate < 1:
        raise UflowError(f"false-alarm rate {rate:g}: a number between 0 and 1 is needed")
    if not calibration.n_images:
        raise UflowError(
            f"false-alarm rate {rate:g}: this model has no calibration, for no good images were held out; "
            "use --nfa-threshold, or train without --paper-exact"
        )
    rank = math.floor(rate * (calibration.n_images + 1) + 1e-9)
    if rank < 1:
        raise UflowError(
            f"false-alarm rate {rate:g} cannot be promised by {calibration.n_images} held-out images: "
            f"the smallest is {calibration.smallest_rate:.4f}; allow that, or train with at least "
            f"{math.ceil(1 / rate) - 1} held-out images"
        )
    return min(rank, calibration.n_images)


def choose_threshold(
    calibration: Calibration, *, nfa_threshold: float | None, false_alarm_rate: float | None
) -> tuple[float, str]:
    """The threshold on log10 NFA, and in words what it promises."""
    if false_alarm_rate is None:
        threshold = 0.0 if nfa_threshold is None else nfa_threshold
        return (
            threshold,
            f"at most {10**threshold:.3g} expected false detections per image {_evidence(calibration, threshold)}",
        )
    threshold = threshold_for_rate(calibration, false_alarm_rate)
    caveat = "; these images also chose the epoch, so the promise is approximate" if calibration.shared else ""
    return (
        threshold,
        f"at most {false_alarm_rate:.3g} of good images flagged, "
        f"from {calibration.n_images} held-out good images{caveat}",
    )


def _evidence(calibration: Calibration, threshold: float) -> str:
    if not calibration.n_images:
        return "under the chi-square law of the paper; no good images were held out to check it"
    flagged = calibration.false_alarm_images(threshold)
    seen = f"{flagged} of {calibration.n_images} held-out good images are flagged"
    if not calibration.curves:
        return f"under the background model; {seen}"
    n = calibration.n_counted
    beyond = ", too few to show so rare an event: extrapolated" if n * 10**threshold < 1 else ""
    return f"as counted on {n} held-out good images{beyond}; {seen}"
