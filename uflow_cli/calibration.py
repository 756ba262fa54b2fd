"""The promise on false alarms, from held-out good images only (METHOD 7.2, 7.3). Logarithms are base 10."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import UflowError
from uflow_cli.nfa import Background

MEAN_RATIO_RANGE = (0.95, 1.10)  # METHOD 7.2: outside, the flow does not fit the held-out images


@dataclass(frozen=True)
class Calibration:
    """What the held-out good images say about the embeddings.

    `mean_ratio` is v = mean(U) / C per scale; 1 under the chi-square law of the paper. `lowest_log_nfa` is sorted, one
    value per held-out image. `shared` tells that these images also chose the epoch, which weakens the promise.
    """

    background: tuple[Background, ...]  # per scale, finest first
    mean_ratio: tuple[float, ...]
    n_channels: tuple[int, ...]
    lowest_log_nfa: tuple[float, ...]
    shared: bool

    @property
    def n_images(self) -> int:
        """Held-out images that the promise rests on."""
        return len(self.lowest_log_nfa)

    @property
    def smallest_rate(self) -> float:
        """The smallest false-alarm rate these images can promise, 1 / (n + 1)."""
        return 1.0 / (self.n_images + 1)

    def false_alarm_images(self, log_epsilon: float) -> int:
        """Held-out images whose lowest log NFA is below `log_epsilon`."""
        return int(np.searchsorted(np.asarray(self.lowest_log_nfa), log_epsilon, side="left"))

    def misfits(self) -> list[int]:
        """Scales whose v lies outside 0.95..1.10, where the flow does not fit the held-out images."""
        low, high = MEAN_RATIO_RANGE
        return [scale for scale, v in enumerate(self.mean_ratio) if not low <= v <= high]

    def warnings(self) -> list[str]:
        """A sentence for each misfit, for people."""
        low, high = MEAN_RATIO_RANGE
        return [
            f"scale {scale + 1}: v = {self.mean_ratio[scale]:.3f} is outside {low:.2f}..{high:.2f}, "
            "the flow fits the held-out images badly"
            for scale in self.misfits()
        ]


def fit_background(squared_norm: NDArray[np.float32], *, n_channels: int) -> tuple[Background, float]:
    """Background U ~ (v C / k) χ²(k) of one scale, and v, from U maps (N, H, W) of good images (METHOD 7.2).

    k = 2 mean² / var (Satterthwaite), at most C. Raises ValueError for maps without positive values.
    """
    values = np.asarray(squared_norm, dtype=np.float64)
    mean, variance = float(values.mean()), float(values.var())
    if not mean > 0:
        raise ValueError("squared norms must have a positive mean")
    k = min(2.0 * mean**2 / variance, float(n_channels)) if variance > 0 else float(n_channels)
    return Background(degrees_of_freedom=k, scale=mean / k), mean / n_channels


def threshold_for_rate(calibration: Calibration, rate: float) -> float:
    """log10 NFA below which at most a share `rate` of good images falls (split conformal, METHOD 7.3).

    UflowError if `rate` is no probability, or smaller than the held-out images can promise.
    """
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
    return calibration.lowest_log_nfa[min(rank, calibration.n_images) - 1]


def choose_threshold(
    calibration: Calibration, *, nfa_threshold: float | None, false_alarm_rate: float | None
) -> tuple[float, str]:
    """The threshold on log10 NFA, and in words what it promises."""
    if false_alarm_rate is None:
        threshold = 0.0 if nfa_threshold is None else nfa_threshold
        expected = f"at most {10**threshold:.3g} expected false detections per image under the"
        if not calibration.n_images:
            return threshold, f"{expected} chi-square law of the paper; no good images were held out to check it"
        flagged = calibration.false_alarm_images(threshold)
        return threshold, (
            f"{expected} background model; {flagged} of {calibration.n_images} held-out good images are flagged"
        )
    threshold = threshold_for_rate(calibration, false_alarm_rate)
    caveat = "; these images also chose the epoch, so the promise is approximate" if calibration.shared else ""
    return (
        threshold,
        f"at most {false_alarm_rate:.3g} of good images flagged, "
        f"from {calibration.n_images} held-out good images{caveat}",
    )


def calibration_to_dict(calibration: Calibration) -> dict[str, Any]:
    """JSON-ready mapping of `calibration`."""
    return asdict(calibration)


def calibration_from_dict(values: Mapping[str, Any]) -> Calibration:
    """The inverse of `calibration_to_dict`; KeyError or TypeError if something is missing."""
    return Calibration(
        background=tuple(Background(**b) for b in values["background"]),
        mean_ratio=_floats(values["mean_ratio"]),
        n_channels=tuple(int(c) for c in values["n_channels"]),
        lowest_log_nfa=_floats(values["lowest_log_nfa"]),
        shared=bool(values["shared"]),
    )


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
