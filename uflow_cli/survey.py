"""Evaluation of many categories: each in a process of its own, so that one that dies takes nothing else with it."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from uflow_cli import workers
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
    on_bug: Callable[[str], None] = lambda _traceback: None,
) -> list[SurveyOutcome]:  # fmt: skip
    """Evaluate each of `jobs`, `n_workers` at a time, in the order of `jobs`.

    A category whose inputs (run, test images, settings) are those of the result in its folder is not done again.
    """
    outcomes: dict[str, SurveyOutcome] = {}

    def done(outcome: SurveyOutcome) -> None:
        outcomes[outcome.category] = outcome
        on_done(outcome)

    waiting: dict[str, Job] = {}
    for job in jobs:
        finished = finished_evaluation(job, settings)
        if finished is None:
            waiting[job.category] = job
        else:
            done(SurveyOutcome(job.category, finished, reused=True))
    works = [workers.Job(name, partial(_evaluate, job, settings, device)) for name, job in waiting.items()]
    for ended in workers.run_jobs(works, n_workers=n_workers):
        if ended.traceback:
            on_bug(ended.traceback)
        done(_outcome(waiting[ended.category], ended.message))
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


def _evaluate(job: Job, settings: EvaluationSettings, device: DeviceChoice, _stop: threading.Event) -> None:
    """In a process of its own: evaluate, and write the result."""
    run = load_run(job.run, weights=job.weights)
    data = load_dataset(job.dataset, root=job.data_root, category=job.category)
    evaluation = evaluate_run(run, data, device=choose_device(device), **asdict(settings))
    write_evaluation(job.out, evaluation, key=result_key(run, data, settings))


def _outcome(job: Job, message: str) -> SurveyOutcome:
    if message:
        return SurveyOutcome(job.category, None, message)
    values = json.loads((job.out / EVALUATION_NAME).read_text(encoding="utf-8"))
    return SurveyOutcome(job.category, evaluation_from_dict(values))
