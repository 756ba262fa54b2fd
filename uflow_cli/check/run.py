"""Audit of a run on fresh good images: does its promise hold, and if not, why; and a new calibration from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from uflow_cli.calibration import Calibration, calibrate, conformal_rank, threshold_for_rate
from uflow_cli.check.drift import ScaleDrift, likely_cause, measure_drift
from uflow_cli.check.judgement import Judgement, Verdict, judge_count, judge_rate, worst
from uflow_cli.config import MIN_HELD_OUT
from uflow_cli.detection.detector import Detector
from uflow_cli.errors import ImageError, UflowError
from uflow_cli.flow.likelihood import squared_norms
from uflow_cli.images import read_image
from uflow_cli.model import Model
from uflow_cli.run.record import Run, load_model
from uflow_cli.schema import VERSION

BATCH = 8
USUAL_RATE = 0.05  # judged where nothing else is asked for, or the smallest that the calibration can promise


@dataclass(frozen=True)
class Audit:
    """What fresh good images say of a run."""

    run: Run
    n_images: int
    judgements: tuple[Judgement, ...]
    drifts: tuple[ScaleDrift, ...]  # per scale, finest first
    cause: str  # why a promise is broken, likely; "" where none is
    flagged: tuple[Path, ...]  # images below the threshold of the first judgement, most anomalous first
    errors: tuple[tuple[Path, str], ...] = ()  # images that could not be read, with the reason
    recalibrated: Calibration | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst of all judgements."""
        return worst(list(self.judgements))

    @property
    def n_more(self) -> int:
        """Further good images that would settle what cannot be told yet."""
        return max(judgement.n_more for judgement in self.judgements)


def audit_run(
    run: Run, paths: Sequence[Path], *, device: torch.device, nfa_threshold: float | None = None,
    false_alarm_rate: float | None = None, recalibrate: bool = False,
    on_progress: Callable[[int], None] = lambda _n: None,
) -> Audit:  # fmt: skip
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
    model = load_model(run, device=device)
    norms, read, errors = embed_images(model, paths, on_progress=on_progress)
    if recalibrate and len(read) < MIN_HELD_OUT:
        raise UflowError(f"{len(read)} good images are too few to recalibrate; give at least {MIN_HELD_OUT}")
    judged, lowest = _judge(
        old, old.detector(model), norms, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate
    )
    below = np.flatnonzero(lowest < judged[0][1])
    judgements = tuple(judgement for judgement, _ in judged)
    is_broken = worst(list(judgements)) is Verdict.BROKEN
    new = None
    if recalibrate:
        new = calibrate(norms, n_channels=old.n_channels, tests=run.model.tests, reach=model.flow.reach)
        run.recalibrate(new)
    return Audit(
        run=run,
        n_images=len(read),
        judgements=judgements,
        drifts=measure_drift(old, norms),
        cause=likely_cause(old, norms, lowest < judged[0][1]) if is_broken else "",
        flagged=tuple(read[i] for i in below[np.argsort(lowest[below], kind="stable")]),
        errors=tuple(errors),
        recalibrated=new,
    )


def embed_images(
    model: Model, paths: Sequence[Path], *, on_progress: Callable[[int], None] = lambda _n: None
) -> tuple[list[NDArray[np.float32]], list[Path], list[tuple[Path, str]]]:
    """U maps per scale (N, H_s, W_s) of the images that can be read, their paths, and the others with the reason.

    UflowError if there is none.
    """
    read: list[Path] = []
    errors: list[tuple[Path, str]] = []
    norms: list[list[NDArray[np.float32]]] = []
    for start in range(0, len(paths), BATCH):
        images = []
        for path in paths[start : start + BATCH]:
            try:
                images.append(read_image(path))
            except ImageError as error:
                errors.append((path, str(error)))
            else:
                read.append(path)
        if images:
            with torch.inference_mode():
                norms.append([u.cpu().numpy() for u in squared_norms(model.embeddings(images))])
        on_progress(min(BATCH, len(paths) - start))
    if not read:
        raise UflowError(errors[0][1] if errors else "no images to check; give a folder of good images")
    return [np.concatenate(maps) for maps in zip(*norms, strict=True)], read, errors


def _judge(
    calibration: Calibration, detector: Detector, norms: Sequence[NDArray[np.float32]], *,
    nfa_threshold: float | None, false_alarm_rate: float | None,
) -> tuple[list[tuple[Judgement, float]], NDArray[np.float64]]:  # fmt: skip
    """Judgements, each with its threshold on log NFA, and the lowest log NFA per image (N,)."""
    findings, n = detector.find(norms), len(norms[0])
    regions, lowest = findings.regions, findings.lowest_log_nfa
    both = nfa_threshold is None and false_alarm_rate is None
    judged: list[tuple[Judgement, float]] = []
    if both or nfa_threshold is not None:
        threshold = nfa_threshold or 0.0
        counts = np.bincount(regions.image[regions.log_nfa < threshold], minlength=n)
        judged.append((judge_count(counts, promised=10.0**threshold), threshold))
    if both or false_alarm_rate is not None:
        rate = max(USUAL_RATE, calibration.smallest_rate) if false_alarm_rate is None else false_alarm_rate
        threshold = threshold_for_rate(calibration, rate)
        judgement = judge_rate(
            int((lowest < threshold).sum()), n, rank=conformal_rank(calibration, rate),
            n_calibration=calibration.n_images, promised=rate,
        )  # fmt: skip
        judged.append((judgement, threshold))
    return judged, lowest


def audit_to_dict(audit: Audit) -> dict[str, Any]:
    """JSON-ready mapping of `audit`; `version` changes when a reader would have to."""
    return {
        "version": VERSION,
        "model": str(audit.run.folder),
        "n_images": audit.n_images,
        "verdict": str(audit.verdict),
        "n_more_images": audit.n_more,
        "cause": audit.cause or None,
        "promises": [{**asdict(j), "verdict": str(j.verdict)} for j in audit.judgements],
        "scales": [{"scale": s, **asdict(d), "moved": d.moved} for s, d in enumerate(audit.drifts, start=1)],
        "flagged": [str(path) for path in audit.flagged],
        "errors": [{"path": str(path), "message": message} for path, message in audit.errors],
        "recalibrated": audit.recalibrated is not None,
    }
