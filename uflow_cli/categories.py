"""Training of many categories of a data set, each in a process of its own; what is finished is not done again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

import uflow_cli
from uflow_cli.cache import CacheFolder
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.datasets import Dataset, load_dataset
from uflow_cli.errors import TrainingError, UflowError
from uflow_cli.run.record import CONFIG_NAME, Origin, Run, load_run
from uflow_cli.run.state import has_state, read_state
from uflow_cli.training import Observer, criterion_of, resume, train
from uflow_cli.workers import Job, run_jobs

DIFFERENCES_SHOWN = 3
STOPPING = (
    "stopping after this epoch, keeping the best one and starting no other category; press Ctrl-C again to stop at once"
)

Settings = tuple[ModelConfig, TrainingConfig]
Observe = Callable[["Task"], AbstractContextManager[Observer]]
State = Literal["finished", "done before", "stopped", "failed", "not started"]


@dataclass(frozen=True)
class Outcome:
    """What became of one category; `run` is None where there is none, `message` says why it failed."""

    category: str
    state: State
    seconds: float = 0.0
    run: Run | None = None
    message: str = ""


@dataclass(frozen=True)
class Task:
    """A category before it is trained."""

    data: Dataset
    folder: Path
    model_config: ModelConfig
    config: TrainingConfig
    number: int  # from 1
    n_tasks: int
    resumed: bool  # goes on where it was stopped or killed


def train_categories(
    dataset: str, categories: Sequence[str], *, root: Path, out: Path, settings: Callable[[str, str], Settings],
    device: torch.device, observe: Observe, on_bug: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False, overwrite: bool = False, cache: CacheFolder | None = None,
) -> Iterator[Outcome]:  # fmt: skip
    """Train `categories` into folders of their name below `out`, and yield what became of each.

    A finished run of the same settings and version of uflow is left as it is, an unfinished one goes on, one of others
    fails unless `overwrite`. Once `should_stop` says so, the category in hand ends after its epoch and the others are
    not started. `observe` gives the observer of a category in its process, and so can be pickled. `on_bug` gets the
    traceback of an error that is not the user's; the others go on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("several processes train one category together; start torchrun once per category")
    for number, category in enumerate(categories, start=1):
        if should_stop():
            yield Outcome(category, "not started")
            continue
        start = time.monotonic()
        folder = out / category
        try:
            data = load_dataset(dataset, root=root, category=category)
            model_config, config = settings(data.name, data.category)
            standing = "new" if overwrite else find_standing(folder, model_config, config, n_images=len(data.train))
            if standing == "finished":
                yield Outcome(category, "done before", run=load_run(folder))
                continue
            task = Task(data, folder, model_config, config, number, len(categories), standing == "unfinished")
            work = partial(_train, task, root=root, device=device, observe=observe, cache=cache)
            ended = next(run_jobs([Job(category, work)], should_stop=should_stop), None)
            if ended is None:
                yield Outcome(category, "not started")
                continue
            if ended.traceback:
                on_bug(ended.traceback)
            if ended.message:
                yield Outcome(category, "failed", ended.seconds, message=ended.message)
                continue
            run = load_run(folder)
            state: State = "stopped" if run.progress.state == "stopped" else "finished"
            yield Outcome(category, state, ended.seconds, run)
        except UflowError as error:
            yield Outcome(category, "failed", time.monotonic() - start, message=str(error))


def _train(
    task: Task, stop: threading.Event, *, root: Path, device: torch.device, observe: Observe, cache: CacheFolder | None
) -> None:
    """Train the category of `task`, in its own process."""
    data, paths = task.data, [image.path for image in task.data.train]
    with observe(task) as observer:
        threading.Thread(target=_tell_of_stop, args=(stop, observer), daemon=True).start()
        criterion = criterion_of(task.model_config, data, cache=cache, on_progress=observer.on_features)
        if task.resumed:
            resume(
                task.folder, paths, device=device, observer=observer, should_stop=stop.is_set, criterion=criterion,
                cache=cache,
            )  # fmt: skip
            return
        train(
            paths, out=task.folder, dataset=data.name, category=data.category, root=root, cache=cache,
            model_config=task.model_config, config=task.config, device=device, observer=observer,
            should_stop=stop.is_set, criterion=criterion, overwrite=True,
        )  # fmt: skip


def _tell_of_stop(stop: threading.Event, observer: Observer) -> None:
    stop.wait()
    observer.on_warning(STOPPING)


def find_standing(
    folder: Path, model_config: ModelConfig, config: TrainingConfig, *, n_images: int
) -> Literal["new", "unfinished", "finished"]:
    """How far a run of these settings is in `folder`; TrainingError where the run there is of others."""
    if has_state(folder):
        state, _ = read_state(folder, with_tensors=False)
        _require_same(folder, state.origin, (state.model, state.training), (model_config, config))
        return "unfinished"
    if not (folder / CONFIG_NAME).is_file():
        return "new"
    run = load_run(folder)
    _require_same(folder, run.origin, (run.model, run.training), (model_config, config))
    if run.progress.state != "finished":
        return "new"
    if run.origin.n_images != n_images:
        raise TrainingError(
            f"{folder} holds a run trained on {run.origin.n_images} images and there are {n_images} now; "
            "replace it with --overwrite, or choose another folder with --out"
        )
    return "finished"


def _require_same(folder: Path, origin: Origin, there: Settings, wanted: Settings) -> None:
    wanted_model = wanted[0].located()
    if wanted_model.precision == "auto":  # a run says what it became
        wanted_model = replace(wanted_model, precision=there[0].precision)
    before, now = ({**asdict(model), **asdict(training)} for model, training in (there, (wanted_model, wanted[1])))
    before["uflow"], now["uflow"] = origin.version or "an unknown version", uflow_cli.__version__
    if before == now:
        return
    differences = [f"{name} = {before[name]} instead of {now[name]}" for name in now if before[name] != now[name]]
    more = f" and {len(differences) - DIFFERENCES_SHOWN} more" if len(differences) > DIFFERENCES_SHOWN else ""
    raise TrainingError(
        f"{folder} holds a run with {', '.join(differences[:DIFFERENCES_SHOWN])}{more}; "
        "replace it with --overwrite, or choose another folder with --out"
    )
