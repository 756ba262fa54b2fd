"""`uflow train --category all`: one category after another, and one table at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from uflow_cli.cli.interrupt import stop_on_interrupt
from uflow_cli.cli.options import DeviceName, heed

if TYPE_CHECKING:
    from uflow_cli.cache import CacheFolder
    from uflow_cli.categories import Task
    from uflow_cli.config import ModelConfig, TrainingConfig
    from uflow_cli.training import Observer


def train_many(
    dataset: str, category: str, *, data_root: Path, out: Path | None,
    settings: Callable[[str, str], tuple[ModelConfig, TrainingConfig]], device: DeviceName,
    cache: CacheFolder | None, overwrite: bool, tensorboard: bool,
) -> None:  # fmt: skip
    """Train the categories that `category` names; exit code 1 if one of them failed."""
    from uflow_cli.categories import train_categories
    from uflow_cli.cli import console
    from uflow_cli.datasets import choose_categories
    from uflow_cli.model import choose_device
    from uflow_cli.training import require_tensorboard

    if tensorboard:
        require_tensorboard()
    names = choose_categories(dataset, category, root=data_root)
    folder = out or Path("runs") / dataset
    observe = partial(_observed, tensorboard=tensorboard)
    outcomes = []
    with stop_on_interrupt(lambda _message: None) as interrupt:  # the process of the category in hand says so
        trainings = train_categories(
            dataset, names, root=data_root, out=folder, settings=settings, device=choose_device(device.value),
            cache=cache, observe=observe, on_bug=console.print_traceback, should_stop=interrupt.is_set,
            overwrite=overwrite,
        )  # fmt: skip
        for outcome in trainings:
            console.print_outcome(outcome)
            outcomes.append(outcome)
    console.print_series(outcomes, folder=folder)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)


@contextlib.contextmanager
def _observed(task: Task, *, tensorboard: bool) -> Iterator[Observer]:
    from uflow_cli.cli import console

    console.print_task(task)
    heed(task.data.left_out, strict=False)
    with observed(task.folder, tensorboard=tensorboard) as observer:
        yield observer


@contextlib.contextmanager
def observed(run: Path, *, tensorboard: bool) -> Iterator[Observer]:
    """What shows a training on the terminal and, if wanted, writes its log for TensorBoard into the folder `run`."""
    from uflow_cli.cli import console
    from uflow_cli.training import TensorBoardLog, Together

    if not tensorboard:
        with console.training_display() as display:
            yield display
        return
    with contextlib.closing(TensorBoardLog(run)) as log, console.training_display() as display:
        yield Together(display, log)
