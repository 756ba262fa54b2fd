"""What held-out good images say, as a run keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from uflow_cli.calibration.false_alarms import FalseAlarmCurve
from uflow_cli.calibration.reference import Reference
from uflow_cli.detection.nfa import Background

FALSE_BELOW = 1.0  # log NFA, ten false detections per image: who would allow more?
MEAN_RATIO_RANGE = (0.95, 1.10)  # METHOD 7.2: outside, the flow does not fit the held-out images


@dataclass(frozen=True)
class Calibration:
    """What the held-out good images say about the embeddings.

    `mean_ratio` is v = mean(U) / C per scale; 1 under the chi-square law of the paper. `curves` turn log NFA under the
    background law into what `n_counted` held-out images showed; without them log NFA is the law's own.
    `lowest_log_nfa` is sorted, one value per held-out image that judges no epoch; `shared` tells that there were too
    few for that, so that these images also chose the epoch, which weakens the promise.
    """

    background: tuple[Background, ...]  # per scale, finest first
    mean_ratio: tuple[float, ...]
    n_channels: tuple[int, ...]
    lowest_log_nfa: tuple[float, ...]
    shared: bool
    curves: tuple[FalseAlarmCurve, ...] = ()  # per scale, or none at all
    n_counted: int = 0
    false_log_nfas: tuple[float, ...] = ()  # sorted, of the regions of those n_images below `FALSE_BELOW`
    references: tuple[Reference, ...] = ()  # per scale, of all held-out images; none where none were held out

    def __post_init__(self) -> None:
        if self.curves and not len(self.curves) == len(self.background):
            raise ValueError(f"{len(self.background)} backgrounds, but {len(self.curves)} curves")

    @property
    def n_images(self) -> int:
        """Held-out images that the false-alarm rate rests on."""
        return len(self.lowest_log_nfa)

    @property
    def smallest_rate(self) -> float:
        """The smallest false-alarm rate these images can promise, 1 / (n + 1)."""
        return 1.0 / (self.n_images + 1)

    def false_alarm_images(self, log_epsilon: float) -> int:
        """Held-out images whose lowest log NFA is below `log_epsilon`."""
        return int(np.searchsorted(np.asarray(self.lowest_log_nfa), log_epsilon, side="left"))

    def false_detections(self, log_epsilon: float) -> float:
        """Detections per held-out image at log NFA < `log_epsilon`, at most `FALSE_BELOW`; nan without images."""
        below = int(np.searchsorted(np.asarray(self.false_log_nfas), log_epsilon, side="left"))
        return below / self.n_images if self.n_images else float("nan")

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


def calibration_to_dict(calibration: Calibration) -> dict[str, Any]:
    """JSON-ready mapping of `calibration`."""
    return asdict(calibration)


def calibration_from_dict(values: Mapping[str, Any]) -> Calibration:
    """The inverse of `calibration_to_dict`; KeyError, TypeError or ValueError if something is missing or wrong."""
    return Calibration(
        background=tuple(Background(**b) for b in values["background"]),
        mean_ratio=_floats(values["mean_ratio"]),
        n_channels=tuple(int(c) for c in values["n_channels"]),
        lowest_log_nfa=_floats(values["lowest_log_nfa"]),
        shared=bool(values["shared"]),
        curves=tuple(
            FalseAlarmCurve(_floats(c["log_nfa"]), _floats(c["log_count"]), float(c["spread"]), int(c["exponent"]))
            for c in values["curves"]
        ),
        n_counted=int(values["n_counted"]),
        false_log_nfas=_floats(values["false_log_nfas"]),
        references=tuple(
            Reference(
                _floats(r["image_levels"]), tuple(_floats(row) for row in r["position_levels"]), _floats(r["quantiles"])
            )
            for r in values["references"]
        ),
    )


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
