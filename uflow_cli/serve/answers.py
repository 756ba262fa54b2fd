"""What a server says of an image: the entry of `detections.json`, with the mask where it was asked for."""

from __future__ import annotations

import base64
from typing import Literal

from uflow_cli.detection.detector import Detection
from uflow_cli.detection.prediction import Prediction
from uflow_cli.images import encode_png
from uflow_cli.results import RunLengths, run_lengths
from uflow_cli.run.detector import TrainedDetector
from uflow_cli.schema import VERSION, record

MaskForm = Literal["none", "rle", "png"]


@record
class Answer:
    """What was found in one image."""

    model: str
    nfa_threshold: float  # log10
    promise: str  # what the threshold means, for people
    caveat: str | None
    verdict: Literal["defect", "good"]
    log_nfa: float
    anomaly_score: float
    height: int
    width: int
    regions: tuple[Detection, ...]
    rle: RunLengths | None = None  # the mask, where asked for
    mask_png: str | None = None  # the same, in base64
    version: int = VERSION


@record
class ModelEntry:
    """A model that the server has."""

    name: str
    nfa_threshold: float  # log10; a request may ask for another one
    promise: str
    caveat: str | None


@record
class Models:
    """The models of a server."""

    models: tuple[ModelEntry, ...]
    version: int = VERSION


@record
class Health:
    """Whether the server answers, and how many images it has in hand."""

    status: Literal["ok"]
    models: tuple[str, ...]
    in_hand: int
    version: int = VERSION


@record
class Problem:
    """Why a request was not answered."""

    error: str
    version: int = VERSION


def answer_of(name: str, detector: TrainedDetector, prediction: Prediction, *, mask: MaskForm) -> Answer:
    """The answer that `detector`, known as `name`, gives by its own threshold."""
    return Answer(
        model=name, nfa_threshold=detector.threshold, promise=detector.promise, caveat=detector.run.caveat,
        verdict=prediction.verdict, log_nfa=prediction.log_nfa, anomaly_score=prediction.anomaly_score,
        height=prediction.size[0], width=prediction.size[1], regions=prediction.detections,
        rle=run_lengths(prediction.mask) if mask == "rle" else None,
        mask_png=base64.b64encode(encode_png(prediction.mask)).decode() if mask == "png" else None,
    )  # fmt: skip
