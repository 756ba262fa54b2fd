"""Training and evaluation of many categories of a data set, each in a process of its own.

What is finished from the same inputs, by the same version of uflow, is not done again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import uflow_cli
from uflow_cli.cache import CacheFolder
from uflow_cli.config import DeviceChoice, ModelConfig, Runtime, TrainingConfig
from uflow_cli.datasets import Dataset, groups_of, load_dataset, without
from uflow_cli.errors import TrainingError, UflowError
from uflow_cli.evaluation import Evaluation, evaluate_run, evaluation_from_dict, evaluation_to_dict
from uflow_cli.files import write_text
from uflow_cli.images import page_of
from uflow_cli.report import EVALUATION_NAME, TableRow, table_csv, table_markdown, write_evaluation
from uflow_cli.run.record import CONFIG_NAME, GRAPH_NAME, Origin, Run, load_run
from uflow_cli.run.state import has_state, read_state
from uflow_cli.schema import json_text
from uflow_cli.text import first_of
from uflow_cli.training import Observer, criterion_of, resume, train_product
from uflow_cli.training.proportions import with_fit
from uflow_cli.workers import Job, Outcome, Work, run_jobs

DIFFERENCES_SHOWN = 3
STOPPING = (
    "stopping after this epoch, keeping the best one and starting no other category; press Ctrl-C again to stop at once"
)

RunSettings = tuple[ModelConfig, TrainingConfig]
Observe = Callable[["TrainingTask"], AbstractContextManager[Observer]]


@dataclass(frozen=True)
class TrainingTask:
    """A category before it is trained."""

    data: Dataset
    folder: Path
    model_config: ModelConfig
    config: TrainingConfig
    number: int  # from 1
    n_tasks: int
    resumed: bool  # goes on where it was stopped or killed
    excluded: tuple[str, ...] = ()  # absolute paths of images that are not in `data`

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each image, see `groups_of`."""
        return groups_of(self.data.train, self.config.groups)

    @property
    def n_flows(self) -> int:
        """Flows to be trained, of which one is kept."""
        return self.config.n_folds(len(self.data.train), n_groups=len(set(self.groups)))


def train_categories(
    dataset: str, categories: Sequence[str], *, root: Path, out: Path, settings: Callable[[str, str, int], RunSettings],
    device: torch.device, observe: Observe, on_bug: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False, overwrite: bool = False, cache: CacheFolder | None = None,
    compile_graph: bool = False, exclude: Sequence[str] = (),
) -> Iterator[Outcome[Run]]:  # fmt: skip
    """Train `categories` into folders of their name below `out`, and yield the outcome of each.

    A finished run of the same settings and version of uflow is left as it is, an unfinished one goes on, one of others
    fails unless `overwrite`. Once `should_stop` says so, the category in hand ends after its epoch and the others are
    not started. `observe` gives the observer of a category in its process, and so can be pickled. `on_bug` gets the
    traceback of an error that is not the user's; the others go on. What `exclude` names is not trained on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("several processes train one category together; start torchrun once per category")

    def prepare(number: int, category: str) -> Work | None:
        folder, data = out / category, load_dataset(dataset, root=root, category=category)
        data, excluded = without(data, exclude, strict=False)
        model_config, config = settings(data.name, data.category, len(data.train))
        standing = (
            "new" if overwrite else find_standing(folder, model_config, config, [image.path for image in data.train])
        )
        if standing == "finished":
            return None
        task = TrainingTask(
            data,
            folder,
            model_config,
            config,
            number,
            len(categories),
            resumed=standing == "unfinished",
            excluded=excluded,
        )
        return partial(
            _train, task, root=root, device=device, observe=observe, cache=cache, compile_graph=compile_graph
        )

    jobs = [
        Job(category, partial(prepare, number, category), partial(load_run, out / category))
        for number, category in enumerate(categories, start=1)
    ]
    for outcome in run_jobs(jobs, should_stop=should_stop, on_bug=on_bug):
        is_stopped = outcome.result is not None and outcome.result.progress.state == "stopped"
        yield replace(outcome, state="stopped") if is_stopped else outcome


def _train(
    task: TrainingTask, stop: threading.Event, *, root: Path, device: torch.device, observe: Observe,
    cache: CacheFolder | None, compile_graph: bool,
) -> None:  # fmt: skip
    """Train the category of `task`, in its own process."""
    data = task.data
    with observe(task) as observer:
        threading.Thread(target=_tell_of_stop, args=(stop, observer), daemon=True).start()
        if task.resumed:
            criterion = criterion_of(task.model_config, data, cache=cache, on_progress=observer.on_features)
            resume(
                task.folder, [image.path for image in data.train], device=device, observer=observer,
                should_stop=stop.is_set, criterion=criterion, cache=cache, compile_graph=compile_graph,
            )  # fmt: skip
            return
        train_product(
            data, out=task.folder, root=root, cache=cache, excluded=task.excluded, model_config=task.model_config,
            config=task.config, device=device, observer=observer, should_stop=stop.is_set, overwrite=True,
            compile_graph=compile_graph,
        )  # fmt: skip


def _tell_of_stop(stop: threading.Event, observer: Observer) -> None:
    stop.wait()
    observer.on_warning(STOPPING)


def find_standing(
    folder: Path, model_config: ModelConfig, config: TrainingConfig, paths: Sequence[Path]
) -> Literal["new", "unfinished", "finished"]:
    """The progress of the training of these settings in `folder`; TrainingError where other settings were used.

    `paths` are those of the good images there are now.
    """
    if not has_state(folder) and not (folder / CONFIG_NAME).is_file():
        return "new"
    model_config, _ = with_fit(model_config, paths)
    if has_state(folder):
        state, _ = read_state(folder, with_tensors=False)
        _require_same(folder, state.origin, (state.model, state.training), (model_config, config))
        return "unfinished"
    run = load_run(folder)
    _require_same(folder, run.origin, (run.model, run.training), (model_config, config))
    if run.progress.state != "finished":
        return "new"
    if run.origin.n_images != len(paths):
        raise TrainingError(
            f"{folder} holds a run trained on {run.origin.n_images} images and there are {len(paths)} now; "
            "replace it with --overwrite, or choose another folder with --out"
        )
    return "finished"


def _require_same(folder: Path, origin: Origin, there: RunSettings, wanted: RunSettings) -> None:
    wanted_model = wanted[0].located()
    if wanted_model.precision == "auto":  # a run says what it became
        wanted_model = replace(wanted_model, precision=there[0].precision)
    before, now = ({**asdict(model), **asdict(training)} for model, training in (there, (wanted_model, wanted[1])))
    before["uflow"], now["uflow"] = origin.version or "an unknown version", uflow_cli.__version__
    if before == now:
        return
    differences = [f"{name} = {before[name]} instead of {now[name]}" for name in now if before[name] != now[name]]
    raise TrainingError(
        f"{folder} holds a run with {first_of(differences, DIFFERENCES_SHOWN)}; "
        "replace it with --overwrite, or choose another folder with --out"
    )


@dataclass(frozen=True)
class EvaluationSettings:
    """The options of an evaluation."""

    nfa_threshold: float | None = None
    false_alarm_rate: float | None = None
    fair: bool = False
    n_resamples: int = 0
    sources: bool = False


@dataclass(frozen=True)
class EvaluationTask:
    """A category before it is evaluated: its run, where its images are, and where its result goes."""

    dataset: str
    category: str
    root: Path
    run: Path
    out: Path
    weights: Sequence[str] | None = None  # of the extractor, instead of the run's own

    def load(self) -> tuple[Run, Dataset]:
        """The run and the images."""
        data = load_dataset(self.dataset, root=self.root, category=self.category)
        return load_run(self.run, weights=self.weights), data


def evaluate_categories(
    tasks: Sequence[EvaluationTask], settings: EvaluationSettings, *, device: DeviceChoice, runtime: Runtime = "auto",
    n_workers: int = 1, on_bug: Callable[[str], None] = lambda _traceback: None,
) -> Iterator[Outcome[Evaluation]]:  # fmt: skip
    """Evaluate each of `tasks`, `n_workers` at a time, and yield the outcome of each when it has ended."""

    def prepare(task: EvaluationTask) -> Work | None:
        return None if is_evaluated(task, settings) else partial(_evaluate, task, settings, device, runtime)

    jobs = [Job(task.category, partial(prepare, task), partial(_read_evaluation, task.out)) for task in tasks]
    return run_jobs(jobs, n_workers=n_workers, on_bug=on_bug)


def _evaluate(
    task: EvaluationTask, settings: EvaluationSettings, device: DeviceChoice, runtime: Runtime, _stop: threading.Event
) -> None:
    """Evaluate the category of `task` and write the result, in its own process."""
    run, data = task.load()
    evaluation = evaluate_run(run, data, device=device, runtime=runtime, **asdict(settings))
    write_evaluation(task.out, evaluation, key=evaluation_key(run, data, settings))


def _read_evaluation(folder: Path) -> Evaluation:
    return evaluation_from_dict(json.loads((folder / EVALUATION_NAME).read_text(encoding="utf-8")))


def is_evaluated(task: EvaluationTask, settings: EvaluationSettings) -> bool:
    """Whether the folder of `task` holds a sound result from the same inputs."""
    try:
        key = json.loads((task.out / EVALUATION_NAME).read_text(encoding="utf-8"))["key"]
        _read_evaluation(task.out)
        return bool(key == evaluation_key(*task.load(), settings))
    except (OSError, ValueError, KeyError, TypeError, UflowError):
        return False


def evaluation_key(run: Run, data: Dataset, settings: EvaluationSettings) -> str:
    """Digest of all that an evaluation depends on: uflow, run, settings, and the images by path, size and time."""
    inputs = {"uflow": uflow_cli.__version__, **asdict(settings)}
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    digest.update((run.folder / CONFIG_NAME).read_bytes())
    for name in (run.weights, GRAPH_NAME):
        if (run.folder / name).is_file():
            digest.update((run.folder / name).read_bytes())
    for item in (*data.test, *(data.train if settings.fair else ())):
        for path in (item.path, item.mask_path):
            if path is not None and page_of(path)[0].exists():
                found = page_of(path)[0].stat()
                digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{item.defect}\n".encode())
    return digest.hexdigest()


def table_to_dict(rows: Sequence[TableRow], outcomes: Sequence[Outcome[Evaluation]], *, dataset: str) -> dict[str, Any]:
    """JSON-ready mapping without version: each category's evaluation, the means, and the failures."""
    return {
        "dataset": dataset,
        "categories": {o.category: evaluation_to_dict(o.result) for o in outcomes if o.result},
        "means": {
            row.name: {
                "n_categories": row.n_categories, "ours": _without_nan(row.ours),
                "published": _without_nan(row.published),
            }
            for row in rows if row.n_categories > 1
        },
        "errors": {o.category: o.message for o in outcomes if o.result is None},
    }  # fmt: skip


def write_table(
    folder: Path, rows: Sequence[TableRow], outcomes: Sequence[Outcome[Evaluation]], *, dataset: str
) -> None:
    """Write table.json, table.csv and table.md."""
    write_text(folder / "table.json", json_text(table_to_dict(rows, outcomes, dataset=dataset)))
    write_text(folder / "table.csv", table_csv(rows))
    write_text(folder / "table.md", table_markdown(rows, title=f"U-Flow on {dataset}"))


def _without_nan(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
