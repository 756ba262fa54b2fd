"""`uflow evaluate`: measure models on labelled images."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uflow_cli.cli.options import (
    DEVICE,
    RUNTIME,
    Category,
    DataRoot,
    DatasetName,
    Device,
    FalseAlarmRate,
    Json,
    ModelFolder,
    NfaThreshold,
    Runtime,
    Strict,
    WeightsFiles,
    are_many,
    chosen_root,
    chosen_run,
    heed,
    require_one_threshold,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uflow_cli.categories import EvaluationSettings
    from uflow_cli.datasets import Dataset
    from uflow_cli.evaluation import EvaluatedImage
    from uflow_cli.run.record import Run

MAX_RESAMPLES = 100_000


def evaluate(
    dataset: DatasetName = None,
    category: Category = None,
    data_root: DataRoot = None,
    test: Annotated[
        Path | None,
        typer.Option("--test", help="Folder of test images, good/ and one per kind of defect, instead of --dataset."),
    ] = None,
    masks: Annotated[Path | None, typer.Option("--masks", help="Folder of the masks for --test.")] = None,
    good: Annotated[Path | None, typer.Option("--good", help="Folder of the training images, for --fair.")] = None,
    model: ModelFolder = None,
    nfa_threshold: NfaThreshold = None,
    false_alarm_rate: FalseAlarmRate = None,
    fair: Annotated[
        bool,
        typer.Option("--fair", help="Also the fair threshold of the anomaly score, by a pass over training images."),
    ] = False,
    sources: Annotated[
        bool, typer.Option("--sources", help="Also measure each source of the evidence alone: scales, witnesses.")
    ] = False,
    bootstrap: Annotated[
        int, typer.Option(min=0, max=MAX_RESAMPLES, help="Resamples for 95 % intervals; 0 gives none.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for JSON, CSV, Markdown and the sweep.  [default: evaluation/ in the run]"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Also write an HTML report with pictures to this folder or FILE.html."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Categories evaluated at a time, with --category all.")] = 1,
    strict: Strict = False,
    json: Json = False,
    weights: WeightsFiles = None,
    device: Device = DEVICE,
    runtime: Runtime = RUNTIME,
) -> None:
    """Measure a model on a data set's test images: ranking, outlines, and false alarms against the promise.

    With --category all or a,b,c, --model names the folder that holds one run per category; the result is one table.
    """
    require_one_threshold(nfa_threshold, false_alarm_rate)
    if (masks is not None or good is not None) and test is None:
        raise typer.BadParameter("--masks and --good belong to --test", param_hint="'--test'")
    if test is not None and (dataset is not None or category is not None):
        raise typer.BadParameter("give --test or --dataset, not both", param_hint="'--test'")

    from uflow_cli.categories import EvaluationSettings
    from uflow_cli.datasets import folder_dataset

    settings = EvaluationSettings(nfa_threshold, false_alarm_rate, fair, bootstrap, sources)
    if category is not None and are_many(category):
        if report is not None:
            raise typer.BadParameter("an HTML report is of one category", param_hint="'--report'")
        _evaluate_many(
            dataset, category, data_root, runs=model, out=out, settings=settings, device=device, runtime=runtime,
            n_workers=workers, weights=weights, strict=strict, as_json=json,
        )  # fmt: skip
        return
    run = chosen_run(model, weights=weights)
    if test is not None:
        data = folder_dataset(good, test=test, masks=masks)
    else:
        data = _data_of(run, dataset, category, data_root)
    _heed_labels(data, strict=strict)
    _evaluate_one(
        run,
        data,
        out=out or run.folder / "evaluation",
        report=report,
        settings=settings,
        device=device,
        runtime=runtime,
        as_json=json,
    )


def _data_of(run: Run, dataset: str | None, category: str | None, data_root: Path | None) -> Dataset:
    """The data set that was named, or that of the training, where it was then if it is there still."""
    from uflow_cli.datasets import load_dataset

    origin = run.origin
    name, product = dataset or origin.dataset, category or origin.category
    if data_root is None and name == origin.dataset and origin.root is not None and Path(origin.root).is_dir():
        return load_dataset(name, root=Path(origin.root), category=product)
    return load_dataset(name, root=chosen_root(name, product, data_root), category=product)


def _heed_labels(data: Dataset, *, strict: bool) -> None:
    """Say what was left out, how folders were read, and which labels cannot be right; an error where `strict`."""
    from uflow_cli.cli import console
    from uflow_cli.datasets import doubtful_masks, doubtful_split, folders_as_read, has_masks

    heed(data.left_out, [*doubtful_split(data.train, data.test), *doubtful_masks(data.test)], strict=strict)
    if sentence := folders_as_read(data.test):
        console.note(f"{data.category}: {sentence}")
    if data.test and not has_masks(data.test):
        console.note(f"{data.category}: no masks of defects: whole images are judged, not outlines")


def _evaluate_one(
    run: Run, data: Dataset, *, out: Path, report: Path | None, settings: EvaluationSettings, device: Device,
    runtime: Runtime, as_json: bool,
) -> None:  # fmt: skip
    from dataclasses import asdict

    from uflow_cli.categories import evaluation_key
    from uflow_cli.cli import console
    from uflow_cli.evaluation import evaluate_run
    from uflow_cli.report import report_image, report_summary, report_writer, write_evaluation

    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(report_writer(report)) if report else None
        n_images = len(data.test) + (len(data.train) if settings.fair else 0)
        advance = stack.enter_context(console.progress("evaluating", total=n_images))

        def on_image(evaluated: EvaluatedImage | None) -> None:
            if writer and evaluated:
                writer.add(report_image(evaluated))
            advance(1)

        evaluation = evaluate_run(
            run, data, device=device.value, runtime=runtime.value, on_image=on_image, **asdict(settings)
        )
        page = writer.finish(title=evaluation.title, summary=report_summary(run, evaluation)) if writer else None
    write_evaluation(out, evaluation, key=evaluation_key(run, data, settings))
    console.print_evaluation(evaluation, out_folder=out, report=page, as_json=as_json)


def _evaluate_many(
    dataset: str | None, category: str, data_root: Path | None, *, runs: Path | None, out: Path | None,
    settings: EvaluationSettings, device: Device, runtime: Runtime, n_workers: int,
    weights: Sequence[str] | None, strict: bool, as_json: bool,
) -> None:  # fmt: skip
    if dataset is None:
        raise typer.BadParameter("--category all needs --dataset", param_hint="'--dataset'")

    from uflow_cli.categories import EvaluationTask, evaluate_categories, write_table
    from uflow_cli.cli import console
    from uflow_cli.datasets import choose_categories, load_dataset
    from uflow_cli.errors import DatasetError
    from uflow_cli.report import table_rows

    root = chosen_root(dataset, category, data_root)
    names = choose_categories(dataset, category, root=root)
    for name in names:
        try:
            data = load_dataset(dataset, root=root, category=name)
        except DatasetError:  # said when its turn comes
            continue
        _heed_labels(data, strict=strict)
    runs = runs or Path("runs") / dataset
    out = out or runs / "evaluation"
    tasks = [EvaluationTask(dataset, name, root, runs / name, out / name, weights) for name in names]
    outcomes = []
    with console.progress("evaluating categories", total=len(tasks)) as advance:
        for outcome in evaluate_categories(
            tasks,
            settings,
            device=device.value,
            runtime=runtime.value,
            n_workers=n_workers,
            on_bug=console.print_traceback,
        ):
            outcomes.append(outcome)
            advance(1)
    outcomes.sort(key=lambda outcome: names.index(outcome.category))
    rows = table_rows([outcome.result for outcome in outcomes if outcome.result])
    write_table(out, rows, outcomes, dataset=dataset)
    console.print_evaluations(rows, outcomes, dataset=dataset, out_folder=out, as_json=as_json)
    if any(outcome.result is None for outcome in outcomes):
        raise typer.Exit(1)
