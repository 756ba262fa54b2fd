"""A series of trainings: a line when a category begins and ends, one table when all are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape  # noqa: TID251

from uflow_cli.cli.console.columns import Column, table_of
from uflow_cli.cli.console.runs import held_out
from uflow_cli.cli.console.terminal import duration, err, note, out
from uflow_cli.cli.console.training import mean_squares, print_training_start

if TYPE_CHECKING:
    from uflow_cli.run.record import Run
    from uflow_cli.series import Outcome, Task

STYLES = {"failed": "red", "stopped": "yellow", "not started": "dim", "done before": "dim"}


def print_task(task: Task) -> None:
    """Which category begins or goes on."""
    note(f"category {task.number} of {task.n_tasks}: {task.data.category}")
    if task.resumed:
        note(f"going on with the unfinished training in {task.folder}")
        return
    data, model_config = task.data, task.model_config
    print_training_start(
        data.name, data.category, len(data.train), preset=task.config.preset, paper_exact=model_config.paper_exact,
        run=task.folder,
    )  # fmt: skip


def print_traceback(text: str) -> None:
    """The traceback of an error that should not be; the series goes on."""
    err().print(escape(text), style="red")


def print_outcome(outcome: Outcome) -> None:
    """One line when a category is done with."""
    if outcome.state == "failed":
        err().print(f"[red]{escape(outcome.category)} failed:[/] {escape(outcome.message)}")
    elif outcome.run is not None:
        progress = outcome.run.progress
        note(
            f"{outcome.category} {outcome.state}: epoch {progress.best_epoch} of {progress.epochs_done} kept, "
            f"held-out loss {held_out(outcome.run)}, {duration(outcome.seconds)}"
        )


def print_series(outcomes: Sequence[Outcome], *, folder: Path) -> None:
    """What became of every category as one table, and where the runs are."""
    console = out()
    styles = [STYLES.get(outcome.state, "") for outcome in outcomes]
    console.print(table_of(_columns(outcomes), width=console.width, styles=styles))
    n_of = Counter(outcome.state for outcome in outcomes)
    failed, left = n_of["failed"], n_of["stopped"] + n_of["not started"]
    console.print(
        f"{n_of['finished'] + n_of['done before']} of {len(outcomes)} categories are trained"
        f"{f', {failed} failed' if failed else ''}{f', {left} left for the same command' if left else ''}; "
        f"runs in {escape(str(folder))}", soft_wrap=True,
    )  # fmt: skip


def _columns(outcomes: Sequence[Outcome]) -> list[Column]:
    def cells(show: Callable[[Run], str]) -> list[str]:
        return [show(outcome.run) if outcome.run else "" for outcome in outcomes]

    return [
        Column("category", [outcome.category for outcome in outcomes], justify="left"),
        Column("state", [outcome.state for outcome in outcomes], justify="left"),
        Column("images", cells(lambda run: str(run.origin.n_images)), rank=5),
        Column("epochs", cells(lambda run: f"{run.progress.epochs_done}/{run.progress.n_epochs}"), rank=3),
        Column("best", cells(lambda run: str(run.progress.best_epoch)), rank=4),
        Column("held-out bits/dim", cells(held_out), rank=1),
        Column("v by scale", cells(lambda run: mean_squares(run.calibration.mean_ratio)), rank=2),
        Column("flagged", cells(_flagged), rank=2),
        Column("seconds", [f"{outcome.seconds:.0f}" if outcome.seconds else "" for outcome in outcomes], rank=6),
        Column("message", [outcome.message for outcome in outcomes], justify="left", shortest=24, wraps=True),
    ]


def _flagged(run: Run) -> str:
    """Held-out good images below log NFA 0, of all that calibrate."""
    kept = run.calibration
    return f"{kept.false_alarm_images(0.0)}/{kept.n_images}" if kept.n_images else "-"
