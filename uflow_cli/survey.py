"""Evaluation of many categories: each in a process of its own, so that one that dies takes nothing else with it."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from uflow_cli.config import DeviceChoice
from uflow_cli.datasets import Dataset, load_dataset
from uflow_cli.errors import UflowError
from uflow_cli.evaluation import Evaluation, evaluate_run, evaluation_from_dict, evaluation_to_dict
from uflow_cli.files import write_text
from uflow_cli.model import choose_device
from uflow_cli.report import EVALUATION_NAME, TableRow, table_csv, table_markdown, write_evaluation
from uflow_cli.run.record import CONFIG_NAME, Run, load_run
from uflow_cli.schema import VERSION


@dataclass(frozen=True)
class EvaluationSettings:
    """How every category is evaluated."""

    nfa_threshold: float | None = None
    false_alarm_rate: float | None = None
    fair: bool = False
    n_resamples: int = 0


@dataclass(frozen=True)
class Job:
    """One category: its run, where its images are, and where its result goes."""

    dataset: str
    category: str
    data_root: Path
    run: Path
    out: Path
    weights: Sequence[str] | None = None  # of the extractor, instead of the run's own


@dataclass(frozen=True)
class SurveyOutcome:
    """What became of a category: an evaluation, or one line that says why there is none."""

    category: str
    evaluation: Evaluation | None
    error: str = ""
    reused: bool = False  # the result of an earlier evaluation with the same inputs


def survey(
    jobs: Sequence[Job], settings: EvaluationSettings, *, device: DeviceChoice, n_workers: int = 1,
    on_done: Callable[[SurveyOutcome], None] = lambda _outcome: None,
) -> list[SurveyOutcome]:  # fmt: skip
    """Evaluate each of `jobs`, `n_workers` at a time, in the order of `jobs`.

    A category whose inputs (run, test images, settings) are those of the result in its folder is not done again.
    """
    outcomes: dict[str, SurveyOutcome] = {}

    def done(outcome: SurveyOutcome) -> None:
        outcomes[outcome.category] = outcome
        on_done(outcome)

    waiting: list[Job] = []
    for job in jobs:
        finished = finished_evaluation(job, settings)
        if finished is None:
            waiting.append(job)
        else:
            done(SurveyOutcome(job.category, finished, reused=True))
    running: dict[Connection, tuple[Job, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < n_workers:
                job = waiting.pop(0)
                connection, process = _start(job, settings, device=device, n_workers=n_workers)
                running[connection] = (job, process)
            ready = wait(list(running))
            for connection in [connection for connection in running if connection in ready]:
                job, process = running.pop(connection)
                done(_outcome(job, connection, process))
    finally:
        for _, process in running.values():
            process.terminate()
    return [outcomes[job.category] for job in jobs]


def survey_to_dict(rows: Sequence[TableRow], outcomes: Sequence[SurveyOutcome], *, dataset: str) -> dict[str, Any]:
    """JSON-ready mapping of a survey: each category's evaluation, the means, and what failed."""
    return {
        "version": VERSION,
        "dataset": dataset,
        "categories": {o.category: evaluation_to_dict(o.evaluation) for o in outcomes if o.evaluation},
        "means": {
            row.name: {
                "n_categories": row.n_categories, "ours": _without_nan(row.ours),
                "published": _without_nan(row.published),
            }
            for row in rows if row.n_categories > 1
        },
        "errors": {o.category: o.error for o in outcomes if o.evaluation is None},
    }  # fmt: skip


def write_table(folder: Path, rows: Sequence[TableRow], outcomes: Sequence[SurveyOutcome], *, dataset: str) -> None:
    """Write table.json, table.csv and table.md."""
    values = survey_to_dict(rows, outcomes, dataset=dataset)
    write_text(folder / "table.json", json.dumps(values, indent=1, allow_nan=False) + "\n")
    write_text(folder / "table.csv", table_csv(rows))
    write_text(folder / "table.md", table_markdown(rows, title=f"U-Flow on {dataset}"))


def _without_nan(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def finished_evaluation(job: Job, settings: EvaluationSettings) -> Evaluation | None:
    """The evaluation in the folder of `job`, if it has the same inputs; None where there is none or it is damaged."""
    try:
        values = json.loads((job.out / EVALUATION_NAME).read_text(encoding="utf-8"))
        data = load_dataset(job.dataset, root=job.data_root, category=job.category)
        return (
            evaluation_from_dict(values)
            if values["key"] == result_key(load_run(job.run, weights=job.weights), data, settings)
            else None
        )
    except (OSError, ValueError, KeyError, TypeError, UflowError):
        return None


def result_key(run: Run, data: Dataset, settings: EvaluationSettings) -> str:
    """Digest of what an evaluation depends on: the run, the settings, and the images by path, size and time."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update((run.folder / CONFIG_NAME).read_bytes())
    digest.update((run.folder / run.weights).read_bytes())
    for item in (*data.test, *(data.train if settings.fair else ())):
        for path in (item.path, item.mask_path):
            if path is not None and path.exists():
                found = path.stat()
                digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{item.defect}\n".encode())
    return digest.hexdigest()


def _start(
    job: Job, settings: EvaluationSettings, *, device: DeviceChoice, n_workers: int
) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    n_threads = max(1, (os.cpu_count() or 1) // n_workers)
    process = context.Process(target=_work, args=(job, settings, device, n_threads, sender), daemon=True)
    process.start()
    sender.close()  # so that the receiver sees the end when the worker dies
    return receiver, process


def _work(job: Job, settings: EvaluationSettings, device: DeviceChoice, n_threads: int, sender: Connection) -> None:
    """In the worker: evaluate, write the result, and send "" or what went wrong."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers
    torch.set_num_threads(n_threads)
    try:
        run, data = (
            load_run(job.run, weights=job.weights),
            load_dataset(job.dataset, root=job.data_root, category=job.category),
        )
        evaluation = evaluate_run(run, data, device=choose_device(device), **asdict(settings))
        write_evaluation(job.out, evaluation, key=result_key(run, data, settings))
    except UflowError as error:
        sender.send(str(error))
    else:
        sender.send("")


def _outcome(job: Job, connection: Connection, process: SpawnProcess) -> SurveyOutcome:
    try:
        message = str(connection.recv())
    except EOFError:
        message = None
    process.join()
    if message is None:
        code = process.exitcode or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = "; too little memory is a common cause" if code == -signal.SIGKILL else ""
        return SurveyOutcome(job.category, None, f"its worker process {how}{hint}")
    if message:
        return SurveyOutcome(job.category, None, message)
    values = json.loads((job.out / EVALUATION_NAME).read_text(encoding="utf-8"))
    return SurveyOutcome(job.category, evaluation_from_dict(values))
