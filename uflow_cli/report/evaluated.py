"""A report of an evaluation: from measures, runs and evaluated images to what a report says."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

from uflow_cli.calibration import calibration_chart
from uflow_cli.charts import LossPoint
from uflow_cli.evaluation import ABSENT, EvaluatedImage, Evaluation
from uflow_cli.metrics import iou
from uflow_cli.report.contents import Drawing, Fact, ReportImage, ReportSummary
from uflow_cli.report.detected import detected_image
from uflow_cli.report.drawings import sweep_chart
from uflow_cli.run.log import LOG_NAME
from uflow_cli.run.record import Run
from uflow_cli.run.suspects import read_suspects


def report_image(evaluated: EvaluatedImage) -> ReportImage:
    """The image of a report for an evaluated image."""
    labelled, true_mask = evaluated.labelled, None if evaluated.labelled.is_good else evaluated.true_mask
    return replace(
        detected_image(labelled.path, evaluated.prediction),
        kind=labelled.defect,
        truly_defective=not labelled.is_good,
        true_mask=true_mask,
        overlap=None if true_mask is None else iou(evaluated.prediction.mask, true_mask),
    )


def report_summary(run: Run, evaluation: Evaluation) -> ReportSummary:
    """The summary of a report over all images of an evaluation."""
    calibration, origin = run.calibration, run.origin
    laws = zip(calibration.background, calibration.mean_ratio, calibration.n_channels, strict=True)
    names = run.model.source_names(calibration.n_scales, len(calibration.background), scale="background, scale")
    facts = (
        Fact("model", str(run.folder)),
        Fact("data set", f"{evaluation.dataset}/{evaluation.category}"),
        Fact("extractor", f"{run.model.extractor} at {run.model.input_size[0]} x {run.model.input_size[1]}"),
        Fact("training images", str(origin.n_training), "good ones only"),
        Fact("held-out images", _held_out(run), "good ones that never trained the flow"),
        Fact("epoch kept", f"{run.progress.best_epoch} of {run.progress.epochs_done}", evaluation.selection),
        *(
            Fact(
                name,
                f"v = {v:.3f}, k = {b.degrees_of_freedom:.1f} of {c}",
                "1 and C for perfect noise",
            )
            for name, (b, v, c) in zip(names, laws, strict=True)
        ),
    )
    figures = (
        Fact("image AUROC", _share(evaluation.image_auroc), "by the anomaly score"),
        Fact("pixel AUROC", _share(evaluation.pixel_auroc)),
        Fact("AUPRO", _share(evaluation.aupro), "to a false-positive rate of 0.3"),
        Fact(
            "mIoU, defective images",
            _share(evaluation.miou.defective_images),
            f"at log NFA < {evaluation.threshold:.3g}",
        ),
        Fact("mIoU, all images", _share(evaluation.miou.all_images), "a good image without detection counts 1"),
    )
    return ReportSummary(
        threshold=evaluation.threshold,
        promise=f"The threshold allows {evaluation.promise}.",
        facts=facts,
        figures=tuple(figure for figure in figures if figure.value != ABSENT),
        warnings=(*([run.caveat] if run.caveat else []), *calibration.warnings(), *_suspicion(run)),
        losses=read_losses(run.folder / LOG_NAME),
        best_epoch=run.progress.best_epoch,
        drawings=_drawings(run, evaluation),
        log_lot=calibration.log_lot,
        held_out=calibration.held_out_log_nfas,
    )


def _drawings(run: Run, evaluation: Evaluation) -> tuple[Drawing, ...]:
    drawings = []
    if evaluation.sweep is not None:
        chart = sweep_chart(evaluation.sweep, threshold=evaluation.threshold, oracle=evaluation.oracle.threshold)
        hint = "“best” was chosen on these very test images."
        drawings.append(Drawing("What other thresholds would give", chart, hint))
    calibration = calibration_chart(run.calibration)
    if calibration:
        drawings.append(Drawing("Calibration on held-out good images", calibration))
    return tuple(drawings)


def read_losses(path: Path) -> tuple[LossPoint, ...]:
    """The losses of a training log; none where there is no log or it is damaged."""
    if not path.is_file():
        return ()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return tuple(LossPoint(int(row["epoch"]), float(row["loss"]), float(row["held_out_loss"])) for row in rows)
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        return ()


def _held_out(run: Run) -> str:
    origin = run.origin
    if not origin.n_selection:
        return "none"
    groups = f" of {len(origin.held_out_groups)} of {origin.n_groups} groups" if origin.n_groups else ""
    if run.calibration.shared:
        return f"{origin.n_calibration}{groups}, which chose the epoch and calibrated"
    if origin.n_flows > 1:
        return f"{origin.n_selection}{groups} chose the epoch, all calibrated by {origin.n_flows} flows in turns"
    return f"{origin.n_selection} chose the epoch, {origin.n_calibration} calibrated{groups}"


def _suspicion(run: Run) -> list[str]:
    """A sentence that names the training images that look defective, if there are any."""
    suspects = read_suspects(run.folder)
    named = ", ".join(f"{suspect.path} (log NFA {suspect.log_nfa:.1f})" for suspect in suspects)
    return [f"{len(suspects)} good images of the training look defective: {named}"] if suspects else []


def _share(value: float) -> str:
    return ABSENT if math.isnan(value) else f"{value:.3f}"
