"""`uflow evaluate`: measure a model on labelled images."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from uflow_cli.cli.options import (
    DATA_ROOT,
    DEVICE,
    Category,
    DataRoot,
    DatasetName,
    Device,
    FalseAlarmRate,
    Json,
    ModelFolder,
    NfaThreshold,
    chosen_run,
    require_one_threshold,
)


def evaluate(
    dataset: DatasetName = None,
    category: Category = None,
    data_root: DataRoot = DATA_ROOT,
    model: ModelFolder = None,
    nfa_threshold: NfaThreshold = None,
    false_alarm_rate: FalseAlarmRate = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write an HTML report with pictures to this folder.")
    ] = None,
    json: Json = False,
    device: Device = DEVICE,
) -> None:
    """Measure a model on a data set's test images: ranking, outlines, and false alarms against the promise."""
    require_one_threshold(nfa_threshold, false_alarm_rate)

    from uflow_cli.cli import console
    from uflow_cli.datasets import load_dataset
    from uflow_cli.evaluation import EvaluatedImage, evaluate_run
    from uflow_cli.model import choose_device
    from uflow_cli.report import report_image, report_summary, report_writer

    run = chosen_run(model)
    data = load_dataset(dataset or run.origin.dataset, root=data_root, category=category or run.origin.category)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(report_writer(report)) if report else None
        advance = stack.enter_context(console.progress("evaluating", total=len(data.test)))

        def on_image(evaluated: EvaluatedImage) -> None:
            if writer:
                writer.add(report_image(evaluated))
            advance(1)

        evaluation = evaluate_run(
            run, data, device=choose_device(device.value), nfa_threshold=nfa_threshold,
            false_alarm_rate=false_alarm_rate, on_image=on_image,
        )  # fmt: skip
        page = writer.finish(title=evaluation.title, summary=report_summary(run, evaluation)) if writer else None
    console.print_evaluation(evaluation, report=page, as_json=json)
