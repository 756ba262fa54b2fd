"""The list of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape  # noqa: TID251

from uflow_cli.cli.console.columns import Column, table_of, whole_width
from uflow_cli.cli.console.terminal import amount, out, print_json

if TYPE_CHECKING:
    from uflow_cli.run.listing import ListedRun
    from uflow_cli.run.record import Run

SHORTEST_PATH = 40
STYLES = {"damaged": "red", "failed": "red", "training": "green", "interrupted": "yellow", "stopped": "yellow"}


def print_runs(runs: Sequence[ListedRun], *, roots: Sequence[Path], as_json: bool) -> None:
    """A line per run, then what is wrong with the damaged ones; or all of it as JSON."""
    from uflow_cli.run.listing import runs_to_dict

    if as_json:
        print_json(runs_to_dict(runs))
        return
    columns = runs_columns(runs)
    console = out(at_least=whole_width(columns))
    if not runs:
        where = " or ".join(str(root) for root in roots)
        console.print(f"no run below {escape(where)}; train one with `uflow train`", soft_wrap=True)
        return
    styles = [STYLES.get(listed.state, "") for listed in runs]
    console.print(table_of(columns, width=console.width, styles=styles))
    for listed in runs:
        if listed.problem:
            console.print(f"damaged: {escape(listed.problem)}", soft_wrap=True)


def runs_columns(runs: Sequence[ListedRun]) -> list[Column]:
    """The key figures of runs; a narrow terminal keeps the first ones."""

    def cells(show: Callable[[Run], str]) -> list[str]:
        return [show(listed.run) if listed.run else "" for listed in runs]

    return [
        Column("run", [str(listed.folder) for listed in runs], justify="left", shortest=SHORTEST_PATH),
        Column("state", [listed.state for listed in runs], justify="left"),
        Column("data set", cells(lambda run: f"{run.origin.dataset}/{run.origin.category}"), rank=6, justify="left"),
        Column("preset", cells(preset), rank=7, justify="left"),
        Column("extractor", cells(lambda run: run.model.extractor), rank=10, justify="left"),
        Column("images", cells(lambda run: str(run.origin.n_images)), rank=4),
        Column("epochs", cells(lambda run: f"{run.progress.epochs_done}/{run.progress.n_epochs}"), rank=1),
        Column("best", cells(lambda run: str(run.progress.best_epoch)), rank=3),
        Column("held-out bits/dim", cells(held_out), rank=2),
        Column("smallest rate", cells(smallest_rate), rank=5),
        Column("trained", [f"{listed.modified.astimezone():%Y-%m-%d %H:%M}" for listed in runs], rank=8),
        Column("size", [amount(listed.n_bytes) for listed in runs], rank=9),
    ]


def held_out(run: Run) -> str:
    """Held-out loss of the best epoch, where images were held out."""
    loss = run.progress.held_out_loss
    return "-" if loss is None else f"{loss:.4f}"


def preset(run: Run) -> str:
    """The preset, and whether the run is one for comparisons only."""
    return f"{run.training.preset}, paper-exact" if run.model.paper_exact else run.training.preset


def smallest_rate(run: Run) -> str:
    """The smallest false-alarm rate that the held-out images can promise."""
    return f"{run.calibration.smallest_rate:.3f}" if run.calibration.n_images else "-"
