"""Evaluation of a run on labelled images, by the paper's measures, all at 256 x 256 pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from uflow_cli.calibration import choose_threshold
from uflow_cli.config import DeviceChoice, Runtime
from uflow_cli.datasets import GOOD, Dataset, LabelledImage, has_masks, read_label_mask, require_mask
from uflow_cli.detection.fitted import EvidenceModel
from uflow_cli.detection.prediction import Prediction
from uflow_cli.detection.stream import predictions
from uflow_cli.errors import DatasetError, ImageError, UflowError
from uflow_cli.evaluation.measures import Evaluation
from uflow_cli.evaluation.tally import EvaluatedImage, Tally
from uflow_cli.metrics import PixelScores
from uflow_cli.run.graph import open_model
from uflow_cli.run.record import Run


def evaluate_images(
    model: EvidenceModel, run: Run, labelled: Sequence[LabelledImage], *, threshold: float = 0.0
) -> Iterator[EvaluatedImage]:
    """Predictions for `labelled` images, one after the other; DatasetError or ImageError for what cannot be read."""
    paths = [item.path for item in labelled]
    stream = predictions(model, run.calibration.detector(model), paths, threshold=threshold, rois=run.rois())
    for item, (_, prediction) in zip(labelled, stream, strict=True):
        if isinstance(prediction, ImageError):
            raise prediction
        size = (prediction.mask.shape[0], prediction.mask.shape[1])
        known = item.is_good or item.has_mask
        truth = read_label_mask(item, size, image_size=size) if known else None
        yield _within(item, truth, prediction)


def _within(item: LabelledImage, truth: NDArray[np.bool_] | None, prediction: Prediction) -> EvaluatedImage:
    """The image with the truth inside its region of interest: defects that lie outside all of it are none."""
    if truth is None or prediction.roi is None or not truth.any():
        return EvaluatedImage(item, truth, prediction)
    inside = truth & prediction.roi
    return EvaluatedImage(item if inside.any() else LabelledImage(item.path, GOOD), inside, prediction)


def evaluate_run(
    run: Run, data: Dataset, *, device: DeviceChoice = "auto", runtime: Runtime = "auto",
    nfa_threshold: float | None = None, false_alarm_rate: float | None = None, fair: bool = False, n_resamples: int = 0,
    sources: bool = False, on_image: Callable[[EvaluatedImage | None], None] = lambda _image: None,
) -> Evaluation:  # fmt: skip
    """Measure `run` on the test images of `data`.

    The threshold is chosen as `choose_threshold` does. `fair` also finds the fair threshold of the anomaly score, which
    takes a pass over the training images; `n_resamples` > 0 gives bootstrap intervals; `sources` also measures each
    source of fused evidence alone, UflowError where there is none. `on_image` hears of each test
    image as soon as it is done, and gets None for a training image. Where no defective image has a mask, what needs one
    is nan. DatasetError if there are no test images, or some defective ones lack the mask that others have, before
    anything is computed.
    """
    if not data.test:
        raise DatasetError(f"{data.name}/{data.category} has no test images to evaluate on")
    if has_masks(data.test):
        for item in data.test:
            require_mask(item)
    threshold, promise = choose_threshold(
        run.calibration, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate
    )
    model = open_model(run, device=device, runtime=runtime)
    names = source_names(model) if sources else []
    at_fair = fair_threshold(model, run, data.train, on_image=lambda: on_image(None)) if fair else None
    tally = Tally(fair_threshold=at_fair, for_bootstrap=n_resamples > 0, sources=names)
    start = time.monotonic()
    for evaluated in evaluate_images(model, run, data.test, threshold=threshold):
        tally.add(evaluated)
        on_image(evaluated)
    seconds = time.monotonic() - start
    return Evaluation(
        dataset=data.name, category=data.category, model=str(run.folder), selection=selection_note(run),
        threshold=threshold, promise=promise, seconds_per_image=seconds / len(data.test),
        intervals=tally.intervals(n_resamples=n_resamples, seed=0) if n_resamples else {},
        sweep=tally.nfa_sweep(), **tally.measures(),
    )  # fmt: skip


def source_names(model: EvidenceModel) -> list[str]:
    """What the sources of `model`'s fused evidence are called; UflowError where evidence is not fused."""
    if not model.config.is_fused:
        raise UflowError("sources are measured alone where their evidence is fused; this run was trained otherwise")
    return model.config.source_names(len(model.reach), len(model.source_channels), scale="flow, scale")


def fair_threshold(
    model: EvidenceModel, run: Run, good: Sequence[LabelledImage], *, on_image: Callable[[], None] = lambda: None
) -> float:
    """The anomaly score that one pixel per `good` image exceeds on average. DatasetError without images."""
    if not good:
        raise DatasetError("the fair threshold needs the training images, and there are none")
    pixels = PixelScores()
    paths = [item.path for item in good]
    for _, prediction in predictions(model, run.calibration.detector(model), paths, rois=run.rois()):
        if isinstance(prediction, ImageError):
            raise prediction
        nothing = np.zeros(prediction.score_map.shape, dtype=np.bool_)
        pixels.add(prediction.score_map, nothing, counted=prediction.counted)
        on_image()
    return pixels.threshold(len(good))


def selection_note(run: Run) -> str:
    """Say how the epoch and the threshold of `run` were chosen, for people."""
    origin = run.origin
    if run.caveat:
        return run.caveat
    if run.calibration.shared:
        return (
            f"{origin.n_selection} held-out good images chose the epoch and calibrated the false alarms; "
            "no test image was looked at"
        )
    if origin.n_flows > 1:
        return (
            f"{origin.n_selection} held-out good images chose the epoch; all {origin.n_images} calibrated the false "
            f"alarms, each by one of {origin.n_flows} flows that had not seen it; no test image was looked at"
        )
    return (
        f"{origin.n_selection} held-out good images chose the epoch, {origin.n_calibration} others calibrated the "
        "false alarms; no test image was looked at"
    )
