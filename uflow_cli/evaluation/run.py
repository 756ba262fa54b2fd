"""How well a model does on labelled images, by the paper's measures (METHOD 5), all at 256 x 256 pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from uflow_cli.calibration import choose_threshold
from uflow_cli.checkpoint import Run, load_model
from uflow_cli.datasets import GOOD, Dataset, LabelledImage, read_label_mask, require_mask
from uflow_cli.errors import DatasetError
from uflow_cli.evaluation.measures import Evaluation
from uflow_cli.images import read_image, resize_mask
from uflow_cli.metrics import (
    IouSweep,
    MeanIou,
    PixelScores,
    auroc,
    iou,
    oracle_thresholds,
    rate,
    rates_by_kind,
)
from uflow_cli.model import Model
from uflow_cli.prediction import SCORE_SIZE, Prediction, predict

PREDICTION_BATCH = 8


@dataclass(frozen=True)
class EvaluatedImage:
    """A labelled image as the model sees it; `true_mask` is (H, W) at the image's own size."""

    labelled: LabelledImage
    image: NDArray[np.uint8]
    true_mask: NDArray[np.bool_]
    prediction: Prediction


def evaluate_images(
    model: Model, run: Run, labelled: Sequence[LabelledImage], *, threshold: float = 0.0
) -> Iterator[EvaluatedImage]:
    """Predictions for `labelled` images, one after the other; DatasetError or ImageError for what cannot be read."""
    for start in range(0, len(labelled), PREDICTION_BATCH):
        batch = labelled[start : start + PREDICTION_BATCH]
        images = [read_image(item.path) for item in batch]
        predictions = predict(model, run.calibration, images, threshold=threshold)
        for item, image, prediction in zip(batch, images, predictions, strict=True):
            size = (image.shape[0], image.shape[1])
            yield EvaluatedImage(item, image, read_label_mask(item, size, image_size=size), prediction)


def evaluate_run(
    run: Run, data: Dataset, *, device: torch.device, nfa_threshold: float | None = None,
    false_alarm_rate: float | None = None,
    on_image: Callable[[EvaluatedImage], None] = lambda _image: None,
) -> Evaluation:  # fmt: skip
    """Measure `run` on the test images of `data`. `on_image` hears of each image as soon as it is done.

    The threshold is chosen as `choose_threshold` does. DatasetError if there are no test images or a defective one has
    no mask, before anything is computed.
    """
    if not data.test:
        raise DatasetError(f"{data.name}/{data.category} has no test images to evaluate on")
    for item in data.test:
        require_mask(item)
    threshold, promise = choose_threshold(
        run.calibration, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate
    )
    model = load_model(run, device=device)
    tally, start = _Tally(), time.monotonic()
    for evaluated in evaluate_images(model, run, data.test, threshold=threshold):
        tally.add(evaluated)
        on_image(evaluated)
    return tally.result(run, data, threshold=threshold, promise=promise, seconds=time.monotonic() - start)


class _Tally:
    """Sums over images from which the measures follow."""

    def __init__(self) -> None:
        self.pixels = PixelScores()
        self.sweep = IouSweep(oracle_thresholds())
        self.scores: list[float] = []
        self.log_nfas: list[float] = []
        self.kinds: list[str] = []
        self.flagged: list[bool] = []
        self.ious: list[float] = []
        self.is_empty: list[bool] = []
        self.false_regions = 0

    def add(self, evaluated: EvaluatedImage) -> None:
        prediction = evaluated.prediction
        mask = resize_mask(evaluated.true_mask, SCORE_SIZE)
        log_nfa_map = prediction.log_nfa_map
        self.pixels.add(prediction.score_map, mask)
        self.sweep.add(log_nfa_map, mask)
        self.scores.append(prediction.score)
        self.log_nfas.append(prediction.log_nfa)
        self.kinds.append(evaluated.labelled.defect)
        self.flagged.append(prediction.is_defect)
        self.ious.append(iou(log_nfa_map < prediction.threshold, mask))
        self.is_empty.append(not mask.any())
        self.false_regions += len(prediction.detections) if evaluated.labelled.is_good else 0

    def result(self, run: Run, data: Dataset, *, threshold: float, promise: str, seconds: float) -> Evaluation:
        rates = rates_by_kind(self.flagged, self.kinds)
        false_alarms = rates.pop(GOOD, None) or rate([])
        is_defective = [kind != GOOD for kind in self.kinds]
        curve = self.pixels.curve()
        return Evaluation(
            dataset=data.name,
            category=data.category,
            model=str(run.folder),
            threshold=threshold,
            promise=promise,
            image_auroc=auroc(self.scores, is_defective),
            image_auroc_nfa=auroc([-value for value in self.log_nfas], is_defective),
            pixel_auroc=curve.auroc,
            aupro=curve.aupro(),
            miou=MeanIou(
                _mean(self.ious), _mean([v for v, empty in zip(self.ious, self.is_empty, strict=True) if not empty])
            ),
            oracle=self.sweep.oracle(),
            false_alarms=false_alarms,
            false_regions=self.false_regions / false_alarms.total if false_alarms.total else math.nan,
            detected=rates,
            seconds_per_image=seconds / len(self.kinds),
        )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
