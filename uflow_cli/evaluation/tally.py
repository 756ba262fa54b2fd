"""Sums over evaluated images from which all measures follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uflow_cli.datasets import GOOD, LabelledImage
from uflow_cli.detection.prediction import SCORE_SIZE, Prediction
from uflow_cli.evaluation.measures import NfaSweep
from uflow_cli.images import resize_mask
from uflow_cli.metrics import (
    IouSweep,
    MeanIou,
    OracleIou,
    PixelScores,
    auroc,
    bootstrap_intervals,
    iou,
    oracle_thresholds,
    rate,
    rates_by_kind,
)

SCORE_STEPS = 1000  # thresholds of the anomaly score, which lies in 0..1, among which its oracle chooses


@dataclass(frozen=True)
class EvaluatedImage:
    """A labelled image as the model sees it; `true_mask` is (H, W) at the image's own size."""

    labelled: LabelledImage
    image: NDArray[np.uint8]
    true_mask: NDArray[np.bool_]
    prediction: Prediction


class Tally:
    """Takes evaluated images one by one; `fair_threshold` is one of the anomaly score."""

    def __init__(self, *, fair_threshold: float | None = None, for_bootstrap: bool = False) -> None:
        self._pixels = PixelScores(resampling=for_bootstrap)
        self._sweep = IouSweep(oracle_thresholds())
        self._score_sweep = IouSweep(np.linspace(-1.0, 0.0, SCORE_STEPS + 1))
        self._fair = fair_threshold
        self._scores: list[float] = []
        self._log_nfas: list[float] = []
        self._false_log_nfas: list[NDArray[np.float64]] = []  # of all regions of good images
        self._kinds: list[str] = []
        self._flagged: list[bool] = []
        self._ious: list[tuple[float, float, float]] = []  # at the threshold, at 0, at the fair score
        self._is_empty: list[bool] = []
        self._false_regions = 0

    def add(self, evaluated: EvaluatedImage) -> None:
        """Count one image."""
        prediction = evaluated.prediction
        mask = resize_mask(evaluated.true_mask, SCORE_SIZE)
        log_nfa_map, score_map = prediction.log_nfa_map, prediction.score_map
        self._pixels.add(score_map, mask)
        self._sweep.add(log_nfa_map, mask)
        self._score_sweep.add(-score_map, mask)
        self._scores.append(prediction.score)
        self._log_nfas.append(prediction.log_nfa)
        self._kinds.append(evaluated.labelled.defect)
        self._flagged.append(prediction.is_defect)
        at_fair = math.nan if self._fair is None else iou(score_map > self._fair, mask)
        self._ious.append((iou(log_nfa_map < prediction.threshold, mask), iou(log_nfa_map < 0, mask), at_fair))
        self._is_empty.append(not mask.any())
        if evaluated.labelled.is_good:
            self._false_regions += len(prediction.detections)
            self._false_log_nfas.append(prediction.region_log_nfas)

    def measures(self) -> dict[str, Any]:
        """The fields of `Evaluation` that follow from the images."""
        rates = rates_by_kind(self._flagged, self._kinds)
        false_alarms = rates.pop(GOOD, None) or rate([])
        curve = self._pixels.curve()
        at_score = self._score_sweep.oracle()
        return {
            "image_auroc": auroc(self._scores, self._is_defective),
            "image_auroc_nfa": auroc([-value for value in self._log_nfas], self._is_defective),
            "pixel_auroc": curve.auroc,
            "pixel_ap": curve.average_precision,
            "pixel_f1_max": curve.f1_max,
            "aupro": curve.aupro(),
            "miou": self._mean_iou(0),
            "miou_automatic": self._mean_iou(1),
            "oracle": self._sweep.oracle(),
            "score_oracle": OracleIou(0.0 - at_score.threshold, at_score.miou),
            "score_fair": None if self._fair is None else OracleIou(self._fair, self._mean_iou(2)),
            "false_alarms": false_alarms,
            "false_regions": self._false_regions / false_alarms.total if false_alarms.total else math.nan,
            "detected": rates,
        }

    def nfa_sweep(self) -> NfaSweep:
        """Overlap and false alarms over all thresholds of the oracle."""
        thresholds = self._sweep.thresholds
        over_all, over_defective = self._sweep.means()
        good = [value for value, defective in zip(self._log_nfas, self._is_defective, strict=True) if not defective]
        regions = np.concatenate([np.empty(0), *self._false_log_nfas])
        n = len(good) or math.nan
        return NfaSweep(
            thresholds=thresholds,
            miou_all=over_all,
            miou_defective=over_defective,
            flagged_good=np.searchsorted(np.sort(good), thresholds, side="left") / n,
            false_regions=np.searchsorted(np.sort(regions), thresholds, side="left") / n,
        )

    def intervals(self, *, n_resamples: int, seed: int) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals, good and defective images drawn anew each among themselves."""
        curves = self._pixels.curves_of_images()
        defective, scores, log_nfas = np.array(self._is_defective), np.array(self._scores), np.array(self._log_nfas)
        ious, full = np.array(self._ious), ~np.array(self._is_empty)

        def statistics(i: NDArray[np.intp]) -> dict[str, float]:
            curve = curves(i)
            return {
                "image_auroc": auroc(scores[i], defective[i]),
                "image_auroc_nfa": auroc(-log_nfas[i], defective[i]),
                "pixel_auroc": curve.auroc,
                "pixel_ap": curve.average_precision,
                "aupro": curve.aupro(),
                "miou": _mean(ious[i, 0]),
                "miou_defective": _mean(ious[i, 0][full[i]]),
                "miou_automatic": _mean(ious[i, 1]),
                "miou_automatic_defective": _mean(ious[i, 1][full[i]]),
            }

        return bootstrap_intervals(statistics, defective, seed=seed, n_resamples=n_resamples)

    @property
    def _is_defective(self) -> list[bool]:
        return [kind != GOOD for kind in self._kinds]

    def _mean_iou(self, column: int) -> MeanIou:
        values = [row[column] for row in self._ious]
        defective = [value for value, empty in zip(values, self._is_empty, strict=True) if not empty]
        return MeanIou(_mean(values), _mean(defective))


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
