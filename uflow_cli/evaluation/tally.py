"""The measures of all images of an evaluation, made of those of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uflow_cli.datasets import GOOD, LabelledImage
from uflow_cli.detection.prediction import Prediction
from uflow_cli.evaluation.measures import NfaSweep, SourceMeasures
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
    """A labelled image and its prediction; `true_mask` is (H, W) at the image's own size, None if nobody knows it."""

    labelled: LabelledImage
    true_mask: NDArray[np.bool_] | None
    prediction: Prediction


@dataclass(frozen=True)
class _Measured:
    """The measures of one image, of which those of all images are made; nan where no fair threshold is asked for."""

    kind: str
    has_mask: bool  # with at least one pixel at 256 x 256
    score: float
    log_nfa: float
    is_flagged: bool
    n_detections: int
    region_log_nfas: NDArray[np.float64]  # of all regions, detections or not
    iou: float  # at the threshold in use
    iou_automatic: float  # at log10 NFA < 0
    iou_fair: float  # at the fair threshold of the anomaly score


class Tally:
    """Takes evaluated images one by one; `fair_threshold` is one of the anomaly score.

    `sources` names the sources of fused evidence, to measure each of them alone.
    """

    def __init__(
        self, *, fair_threshold: float | None = None, for_bootstrap: bool = False, sources: Sequence[str] = ()
    ) -> None:
        self._sources = [(name, PixelScores(), list[float]()) for name in sources]
        self._pixels = PixelScores(resampling=for_bootstrap)
        self._sweep = IouSweep(oracle_thresholds())
        self._score_sweep = IouSweep(np.linspace(-1.0, 0.0, SCORE_STEPS + 1))
        self._fair = fair_threshold
        self._images: list[_Measured] = []
        self._lacks_mask = False

    @property
    def knows_outlines(self) -> bool:
        """Whether there is a true outline, and none is missing: without, overlap and pixel measures mean nothing."""
        return not self._lacks_mask and any(image.has_mask for image in self._images)

    def add(self, evaluated: EvaluatedImage) -> None:
        """Count one image."""
        prediction = evaluated.prediction
        overlaps = (math.nan, math.nan, math.nan)
        size = (prediction.score_map.shape[0], prediction.score_map.shape[1])
        mask = None if evaluated.true_mask is None else resize_mask(evaluated.true_mask, size)
        if mask is None:
            self._lacks_mask = True
        else:
            overlaps = self._add_pixels(prediction, mask)
        for (_, pixels, highest), alone in zip(
            self._sources, prediction.maps_of_sources() if self._sources else (), strict=True
        ):
            highest.append(float(alone.max()))
            if mask is not None:
                pixels.add(alone, mask, counted=prediction.counted)
        self._images.append(
            _Measured(
                kind=evaluated.labelled.defect,
                has_mask=mask is not None and bool(mask.any()),
                score=prediction.anomaly_score,
                log_nfa=prediction.log_nfa,
                is_flagged=prediction.is_defect,
                n_detections=len(prediction.detections),
                region_log_nfas=prediction.region_log_nfas,
                iou=overlaps[0],
                iou_automatic=overlaps[1],
                iou_fair=overlaps[2],
            )
        )

    def _add_pixels(self, prediction: Prediction, mask: NDArray[np.bool_]) -> tuple[float, float, float]:
        """Count the pixels of one image; the overlap at the threshold in use, at 0 and at the fair one."""
        log_nfa_map, score_map = prediction.log_nfa_map, prediction.score_map
        self._pixels.add(score_map, mask, counted=prediction.counted)
        self._sweep.add(log_nfa_map, mask)
        self._score_sweep.add(-score_map, mask)
        return (
            iou(log_nfa_map < prediction.threshold, mask),
            iou(log_nfa_map < 0, mask),
            math.nan if self._fair is None else iou(score_map > self._fair, mask),
        )

    def measures(self) -> dict[str, Any]:
        """The fields of `Evaluation` that follow from the images."""
        rates = rates_by_kind([image.is_flagged for image in self._images], [image.kind for image in self._images])
        false_alarms = rates.pop(GOOD, None) or rate([])
        n_false = sum(image.n_detections for image in self._good)
        unknown = MeanIou(math.nan, math.nan)
        measures: dict[str, Any] = {
            **dict.fromkeys(("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"), math.nan),
            **dict.fromkeys(("miou", "miou_automatic"), unknown),
            **dict.fromkeys(("oracle", "score_oracle"), OracleIou(math.nan, unknown)),
            "score_fair": None,
            "image_auroc": auroc(self._column("score"), self._column("kind") != GOOD),
            "image_auroc_nfa": auroc(-self._column("log_nfa"), self._column("kind") != GOOD),
            "false_alarms": false_alarms,
            "false_regions": n_false / false_alarms.total if false_alarms.total else math.nan,
            "detected": rates,
            "sources": tuple(self._measures_of_sources()),
        }
        return {**measures, **self._outline_measures()} if self.knows_outlines else measures

    def _measures_of_sources(self) -> Iterator[SourceMeasures]:
        for name, pixels, highest in self._sources:
            curve = pixels.curve() if self.knows_outlines else None
            yield SourceMeasures(
                name, auroc(np.array(highest), self._column("kind") != GOOD),
                curve.auroc if curve else math.nan, curve.aupro() if curve else math.nan,
            )  # fmt: skip

    def _outline_measures(self) -> dict[str, Any]:
        curve, at_score = self._pixels.curve(), self._score_sweep.oracle()
        return {
            "pixel_auroc": curve.auroc,
            "pixel_ap": curve.average_precision,
            "pixel_f1_max": curve.f1_max,
            "aupro": curve.aupro(),
            "miou": self._mean_iou("iou"),
            "miou_automatic": self._mean_iou("iou_automatic"),
            "oracle": self._sweep.oracle(),
            "score_oracle": OracleIou(0.0 - at_score.threshold, at_score.miou),
            "score_fair": None if self._fair is None else OracleIou(self._fair, self._mean_iou("iou_fair")),
        }

    def nfa_sweep(self) -> NfaSweep:
        """Overlap and false alarms over all thresholds of the oracle."""
        thresholds = self._sweep.thresholds
        over_all, over_defective = self._sweep.means()
        if not self.knows_outlines:
            over_all = over_defective = np.full(len(thresholds), math.nan)
        lowest = np.sort([image.log_nfa for image in self._good])
        regions = np.sort(np.concatenate([np.empty(0), *(image.region_log_nfas for image in self._good)]))
        n = len(lowest) or math.nan
        return NfaSweep(
            thresholds=thresholds,
            miou_all=over_all,
            miou_defective=over_defective,
            flagged_good=np.searchsorted(lowest, thresholds, side="left") / n,
            false_regions=np.searchsorted(regions, thresholds, side="left") / n,
        )

    def intervals(self, *, n_resamples: int, seed: int) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals, good and defective images drawn anew each among themselves."""
        curves = self._pixels.curves_of_images() if self.knows_outlines else None
        defective, full = self._column("kind") != GOOD, self._column("has_mask")
        scores, log_nfas = self._column("score"), self._column("log_nfa")
        ious, automatic = self._column("iou"), self._column("iou_automatic")

        def statistics(i: NDArray[np.intp]) -> dict[str, float]:
            of_images = {
                "image_auroc": auroc(scores[i], defective[i]),
                "image_auroc_nfa": auroc(-log_nfas[i], defective[i]),
            }
            if curves is None:
                return of_images
            curve = curves(i)
            return {
                **of_images,
                "pixel_auroc": curve.auroc,
                "pixel_ap": curve.average_precision,
                "aupro": curve.aupro(),
                "miou": _mean(ious[i]),
                "miou_defective": _mean(ious[i][full[i]]),
                "miou_automatic": _mean(automatic[i]),
                "miou_automatic_defective": _mean(automatic[i][full[i]]),
            }

        return bootstrap_intervals(statistics, defective, seed=seed, n_resamples=n_resamples)

    @property
    def _good(self) -> list[_Measured]:
        return [image for image in self._images if image.kind == GOOD]

    def _column(self, name: str) -> NDArray[Any]:
        return np.array([getattr(image, name) for image in self._images])

    def _mean_iou(self, name: str) -> MeanIou:
        values = self._column(name)
        return MeanIou(_mean(values), _mean(values[self._column("has_mask")]))


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
