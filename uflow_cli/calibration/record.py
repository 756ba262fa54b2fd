"""The calibration that held-out good images gave a run, and the thresholds on log10 NFA that it can promise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from uflow_cli.config import FEW_GROUPS
from uflow_cli.detection.detector import Detector, FalseAlarmCurve, Fusion
from uflow_cli.detection.nfa import Background
from uflow_cli.errors import UflowError

if TYPE_CHECKING:
    from uflow_cli.detection.fitted import EvidenceModel

FALSE_BELOW = 1.0  # log NFA, ten false detections per image: who would allow more?
MEAN_RATIO_RANGE = (0.95, 1.10)  # outside, the flow does not fit the held-out images
PROBABILITIES = (
    0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999,
    0.9995, 0.9999,
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """How the level U / C of one scale is spread over the held-out images; 1 on average under the chi-square law."""

    image_levels: tuple[float, ...]  # mean level of each image
    position_levels: tuple[tuple[float, ...], ...]  # mean level over images at each position, rows of a coarse grid
    quantiles: tuple[float, ...]  # of the level of a cell, at `PROBABILITIES`

    def __post_init__(self) -> None:
        levels = [*self.image_levels, *self.quantiles, *chain.from_iterable(self.position_levels)]
        if not all(math.isfinite(level) and level >= 0 for level in levels):
            raise ValueError("levels of a reference must be finite and not negative")
        if len(self.quantiles) != len(PROBABILITIES):
            raise ValueError(f"{len(PROBABILITIES)} quantiles are needed, not {len(self.quantiles)}")
        if len({len(row) for row in self.position_levels}) != 1 or not any(map(any, self.position_levels)):
            raise ValueError("levels of positions must be rows of one length, and not all 0")


@dataclass(frozen=True)
class Calibration:
    """Laws and promises that follow from the evidence of held-out good images.

    `mean_ratio` is v = mean(U) / C per scale; 1 under the chi-square law of the paper. `curves` turn log NFA under the
    background law into what `n_counted` held-out images showed; without them log NFA is the law's own.
    What is stored counts false detections per image; thresholds count them in a lot of images (`log_lot`).
    `lowest_log_nfa` is sorted, one value per held-out image that judges no epoch; `shared` tells that there were too
    few for that, so that these images also chose the epoch, which weakens the promise.
    """

    background: tuple[Background, ...]  # per scale, finest first
    mean_ratio: tuple[float, ...]
    n_channels: tuple[int, ...]
    lowest_log_nfa: tuple[float, ...]
    shared: bool
    curves: tuple[FalseAlarmCurve, ...]  # per scale, or none at all
    n_counted: int
    false_log_nfas: tuple[float, ...]  # sorted, of the regions of those n_images below `FALSE_BELOW`
    references: tuple[Reference, ...]  # per scale, of all held-out images; none where none were held out
    log_lot: float = 0.0  # log10 of the good images among which thresholds count false detections
    fusion: Fusion | None = None  # of the sources' evidence; the other witnesses' laws stand behind the scales'
    n_groups: int = 0  # held out as a whole; 0: siblings of the images trained on may be among those that calibrate

    def __post_init__(self) -> None:
        n = len(self.background)
        needed = 2 if self.fusion else n  # fused: one of regions, one of whole images
        if self.curves and len(self.curves) != needed:
            raise ValueError(f"{needed} curves are needed, not {len(self.curves)}")
        if self.curves and self.n_counted < 1:
            raise ValueError(f"curves need images that they were counted on, not {self.n_counted}")
        if not n or {len(self.mean_ratio), len(self.n_channels)} != {n} or min(self.n_channels) < 1:
            raise ValueError(f"{n} laws do not go with {len(self.mean_ratio)} ratios and channels {self.n_channels}")
        if self.fusion and len(self.fusion.weights) != n:
            raise ValueError(f"{n} laws do not go with {len(self.fusion.weights)} weights")
        if len(self.references) > n:
            raise ValueError(f"{n} laws do not go with {len(self.references)} references")
        if not all(map(math.isfinite, (*self.mean_ratio, *self.lowest_log_nfa, *self.false_log_nfas, self.log_lot))):
            raise ValueError("its numbers must be finite")
        for name in ("lowest_log_nfa", "false_log_nfas"):
            if any(a > b for a, b in pairwise(getattr(self, name))):
                raise ValueError(f"{name} must be sorted")

    def detector(self, model: EvidenceModel) -> Detector:
        """The detector for the U maps of `model`; UflowError where it has others than those that calibrated."""
        config = model.config
        of_model, own = len(model.source_channels), len(self.background)
        if of_model != own or not 0 < len(model.reach) <= own or len(self.references) not in (0, len(model.reach)):
            raise UflowError(
                f"this model has {of_model} maps of evidence, {len(model.reach)} of its flow, and its calibration "
                f"{own} and {self.n_scales}; train it again"
            )
        return Detector(
            self.background, config.tests, model.reach, self.curves, config.paper_exact, self.fusion,
            self.log_lot,
        )  # fmt: skip

    @property
    def n_images(self) -> int:
        """Held-out images that the false-alarm rate rests on."""
        return len(self.lowest_log_nfa)

    @property
    def held_out_log_nfas(self) -> tuple[float, ...]:
        """The lowest log NFA of each held-out image, sorted, counted in a lot as thresholds are."""
        return tuple(value + self.log_lot for value in self.lowest_log_nfa)

    @property
    def smallest_rate(self) -> float:
        """The smallest false-alarm rate these images can promise, 1 / (n + 1)."""
        return 1.0 / (self.n_images + 1)

    def false_alarm_images(self, log_epsilon: float) -> int:
        """Held-out images whose lowest log NFA is below `log_epsilon`."""
        return int(np.searchsorted(np.asarray(self.lowest_log_nfa), log_epsilon - self.log_lot, side="left"))

    def false_detections(self, log_epsilon: float) -> float:
        """Detections per held-out image at log NFA < `log_epsilon`, at most `FALSE_BELOW`; nan without images."""
        below = int(np.searchsorted(np.asarray(self.false_log_nfas), log_epsilon - self.log_lot, side="left"))
        return below / self.n_images if self.n_images else float("nan")

    def misfits(self) -> list[int]:
        """Scales whose v lies outside 0.95..1.10, where the flow does not fit the held-out images."""
        low, high = MEAN_RATIO_RANGE
        return [scale for scale, v in enumerate(self.mean_ratio[: self.n_scales]) if not low <= v <= high]

    @property
    def n_scales(self) -> int:
        """Scales of the flow; the other sources of evidence are its witnesses."""
        return len(self.references) or len(self.background)

    @property
    def scope(self) -> str:
        """The images that the promise is for, for people; "" where there is no promise."""
        if not self.n_images:
            return ""
        if not self.n_groups:
            return "for siblings of these images alone: of which lot, item or day each of them is, is not known"
        few = ", too few to tell how groups differ" if self.n_groups < FEW_GROUPS else ""
        return (
            f"for images of new groups, by {self.n_groups} group{'s' if self.n_groups > 1 else ''} held out whole{few}"
        )

    def warnings(self) -> list[str]:
        """A sentence for each misfit, for people."""
        low, high = MEAN_RATIO_RANGE
        return [
            f"scale {scale + 1}: v = {self.mean_ratio[scale]:.3f} is outside {low:.2f}..{high:.2f}, "
            f"held-out images vary {'more' if self.mean_ratio[scale] > high else 'less'} than the flow expects"
            for scale in self.misfits()
        ]


def choose_threshold(
    calibration: Calibration, *, nfa_threshold: float | None, false_alarm_rate: float | None
) -> tuple[float, str]:
    """The threshold on log10 NFA, and in words what it promises; 0 where neither is given.

    Raises UflowError for a number that is not finite or cannot be promised, ValueError where both are given.
    """
    if nfa_threshold is not None and false_alarm_rate is not None:
        raise ValueError("give nfa_threshold or false_alarm_rate, not both")
    if false_alarm_rate is None:
        threshold = 0.0 if nfa_threshold is None else nfa_threshold
        if not math.isfinite(threshold):
            raise UflowError(f"threshold {threshold} on log NFA: a finite number is needed")
        return (
            threshold,
            f"at most {_power(threshold)} expected false detections {_lot(calibration)}, "
            f"{_evidence(calibration, threshold)}{_scope(calibration)}",
        )
    threshold = threshold_for_rate(calibration, false_alarm_rate)
    caveat = "; these images also chose the epoch, so the promise is approximate" if calibration.shared else ""
    return (
        threshold,
        f"at most {false_alarm_rate:.3g} of good images flagged, "
        f"from {calibration.n_images} held-out good images{caveat}{_scope(calibration)}",
    )


def threshold_for_rate(calibration: Calibration, rate: float) -> float:
    """log10 NFA below which at most a share `rate` of good images falls (split conformal prediction).

    UflowError if `rate` is no probability, or smaller than the held-out images can promise.
    """
    return calibration.held_out_log_nfas[conformal_rank(calibration, rate) - 1]


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


def _scope(calibration: Calibration) -> str:
    return f"; {calibration.scope}" if calibration.scope else ""


def _lot(calibration: Calibration) -> str:
    return f"in {10**calibration.log_lot:.0f} good images" if calibration.log_lot else "per good image"


def _power(exponent: float) -> str:
    """10^exponent for people, also where floating point has no number for it."""
    return f"{10**exponent:.3g}" if abs(exponent) < 300 else f"10^{exponent:g}"


def _evidence(calibration: Calibration, threshold: float) -> str:
    if not calibration.n_images:
        return "under the chi-square law of the paper; no good images were held out to check it"
    flagged = calibration.false_alarm_images(threshold)
    seen = f"{flagged} of {calibration.n_images} held-out good images are flagged"
    if not calibration.curves:
        return f"under the background model; {seen}"
    n = calibration.n_counted
    beyond = (
        ", too few to show so rare an event: extrapolated" if threshold - calibration.log_lot < -math.log10(n) else ""
    )
    return f"as counted on {n} held-out good images{beyond}; {seen}"
