"""Check a run on fresh good images: does its promise hold, and if not, why; and let them calibrate it anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uflow_cli.calibration import Calibration, calibrate, conformal_rank, kind_of_evidence, threshold_for_rate
from uflow_cli.check.judgement import (
    Judgement,
    ScaleDrift,
    Verdict,
    judge_count,
    judge_rate,
    likely_cause,
    measure_drift,
    worst,
)
from uflow_cli.config import MIN_HELD_OUT, DeviceChoice, Runtime
from uflow_cli.detection.detector import Detector
from uflow_cli.detection.fitted import EvidenceModel, FittedEvidence, stack_evidence
from uflow_cli.detection.stream import UnreadableImage, squared_norm_maps
from uflow_cli.errors import ImageError, UflowError
from uflow_cli.images import EVERYWHERE, Rois
from uflow_cli.run.graph import open_model
from uflow_cli.run.record import Run
from uflow_cli.schema import record

USUAL_RATE = 0.05  # judged where nothing else is asked for, or the smallest that the calibration can promise

Floats = NDArray[np.float32]


@record
class CheckResult:
    """The judgement of a run by fresh good images."""

    model: Path  # the run folder
    n_images: int
    verdict: Verdict  # the worst of all promises
    n_more_images: int  # further good images that would settle what cannot be told yet
    cause: str | None  # why a promise is broken, likely
    promises: tuple[Judgement, ...]
    scales: tuple[ScaleDrift, ...]  # finest first
    flagged: tuple[Path, ...]  # images below the threshold of the first promise, most anomalous first
    errors: tuple[UnreadableImage, ...]
    recalibrated: bool  # by these images
    scope: str = ""  # the images that the promises are for


def check_run(
    run: Run, paths: Sequence[Path], *, device: DeviceChoice = "auto", runtime: Runtime = "auto",
    nfa_threshold: float | None = None, false_alarm_rate: float | None = None, recalibrate: bool = False,
    on_progress: Callable[[int], None] = lambda _n: None,
) -> CheckResult:  # fmt: skip
    """Judge the promises of `run` by good images that it has never seen; `recalibrate` then lets them calibrate it.

    Without thresholds both promises are judged: expected false detections at log10 NFA 0, and the share of flagged
    images at 5 %, or at the smallest rate that the run can promise. UflowError for a run without calibration, a rate
    that it cannot promise, no readable image, and too few to recalibrate; nothing is changed then.
    """
    old = run.calibration
    if not old.references:
        raise UflowError(f"{run.folder} has no calibration to check: no good images were held out when it was trained")
    if false_alarm_rate is not None:
        conformal_rank(old, false_alarm_rate)
    model = open_model(run, device=device, runtime=runtime)
    norms, shares, read, errors = embed_images(model, paths, rois=run.rois(), on_progress=on_progress)
    if recalibrate and len(read) < MIN_HELD_OUT:
        raise UflowError(f"{len(read)} good images are too few to recalibrate; give at least {MIN_HELD_OUT}")
    judged, lowest = _judge(
        old, old.detector(model), norms, shares, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate
    )
    promises = tuple(judgement for judgement, _ in judged)
    verdict, is_flagged = worst(promises), lowest < judged[0][1]
    if recalibrate:
        run.recalibrate(calibrate(norms, shares=shares, **kind_of_evidence(model)))
    return CheckResult(
        model=run.folder,
        n_images=len(read),
        verdict=verdict,
        n_more_images=max(judgement.n_more for judgement in promises),
        cause=likely_cause(old, norms, is_flagged) if verdict is Verdict.BROKEN else None,
        promises=promises,
        scales=measure_drift(old, norms),
        flagged=tuple(read[i] for i in np.argsort(lowest, kind="stable") if is_flagged[i]),
        errors=tuple(errors),
        recalibrated=recalibrate,
        scope=old.scope,
    )


def embed_images(
    model: EvidenceModel, paths: Sequence[Path], *, rois: Rois = EVERYWHERE,
    on_progress: Callable[[int], None] = lambda _n: None,
) -> tuple[list[Floats], Floats | None, list[Path], list[UnreadableImage]]:  # fmt: skip
    """U maps per scale (N, H_s, W_s) of the images that can be read, how much each cell counts (N, H, W; None: all),
    the paths of these images, and the others with the reason.

    UflowError if there is none.
    """
    found: list[FittedEvidence] = []
    read: list[Path] = []
    errors: list[UnreadableImage] = []
    for path, maps in squared_norm_maps(model, paths, rois=rois):
        if isinstance(maps, ImageError):
            errors.append(UnreadableImage(path, str(maps)))
        else:
            found.append(maps)
            read.append(path)
        on_progress(1)
    if not read:
        raise UflowError(errors[0].message if errors else "no images to check; give a folder of good images")
    return *stack_evidence(found), read, errors


def _judge(
    calibration: Calibration, detector: Detector, norms: Sequence[Floats], shares: Floats | None, *,
    nfa_threshold: float | None, false_alarm_rate: float | None,
) -> tuple[list[tuple[Judgement, float]], NDArray[np.float64]]:  # fmt: skip
    """Judgements, each with its threshold on log NFA, and the lowest log NFA per image (N,)."""
    findings, n = detector.find(norms, shares=shares), len(norms[0])
    regions, lowest = findings.regions, findings.lowest_log_nfa
    both = nfa_threshold is None and false_alarm_rate is None
    judged: list[tuple[Judgement, float]] = []
    if both or nfa_threshold is not None:
        threshold = nfa_threshold or 0.0
        counts = np.bincount(regions.image[regions.log_nfa < threshold], minlength=n)
        promised = 10.0 ** min(
            threshold - calibration.log_lot, 300.0
        )  # more is no number, and no image has as many detections
        judged.append((judge_count(counts, promised=promised), threshold))
    if both or false_alarm_rate is not None:
        rate = max(USUAL_RATE, calibration.smallest_rate) if false_alarm_rate is None else false_alarm_rate
        threshold = threshold_for_rate(calibration, rate)
        judgement = judge_rate(
            int((lowest < threshold).sum()), n, rank=conformal_rank(calibration, rate),
            n_calibration=calibration.n_images, promised=rate,
        )  # fmt: skip
        judged.append((judgement, threshold))
    return judged, lowest
