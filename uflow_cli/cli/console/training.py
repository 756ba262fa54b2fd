"""The progress and the result of a training, of one category or of many."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from uflow_cli.cli.console.bars import progress_bars
from uflow_cli.cli.console.tables import Column, held_out_loss, table_of
from uflow_cli.cli.console.terminal import PlainLines, Rate, duration, err, note, out, plain, warn
from uflow_cli.text import first_of

if TYPE_CHECKING:
    from uflow_cli.calibration import Calibration
    from uflow_cli.categories import TrainingTask
    from uflow_cli.datasets import Dataset
    from uflow_cli.run.log import Epoch
    from uflow_cli.run.record import Run
    from uflow_cli.workers import Outcome

EPOCHS_SHOWN = 8
SUSPECTS_SHOWN = 5
UNITS = "losses in bits per dimension; mean z² of held-out images, 1 where the flow fits"
PAPER_PRESET = "paper"


class PlainTrainingDisplay:
    """Training as plain lines: one per epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.images = PlainLines("checking images")
        self.features, self.rate = PlainLines("computing features"), Rate()

    def on_images(self, done: int, total: int) -> None:
        self.images.show(done, total)

    def on_features(self, done: int, total: int) -> None:
        self.rate.update(done)
        if done < total:
            self.features.show(done, total, f", {self.rate}")
        else:
            self.console.print(features_line(self.rate, total))
            self.rate = Rate()

    def on_batch(self, done: int, total: int) -> None:
        """Nothing: a line per epoch is enough."""

    def on_epoch(self, record: Epoch) -> None:
        left = record.seconds / record.epoch * (record.n_epochs - record.epoch)
        self.console.print(
            f"epoch {record.epoch}/{record.n_epochs}  loss {record.loss:.4f}  "
            f"{_judged(record)}{'  best' if record.best else ''}  "
            f"mean z² {mean_squares(record.mean_squares)}  {record.images_per_second:.1f} images/s  "
            f"elapsed {duration(record.seconds)}  left {duration(left)}"
        )

    def on_flow(self, number: int, total: int) -> None:
        self.console.print(f"flow {number} of {total}, which lets the images calibrate that it has not seen")

    def on_warning(self, message: str) -> None:
        warn(message)


class LiveTrainingDisplay:
    """Training as a live table of the last epochs above progress bars."""

    def __init__(self, console: Console) -> None:
        self.records: list[Epoch] = []
        self.flow = "training"
        self.bars, self.rate = progress_bars(console), Rate()
        self.live = Live(console=console, transient=True, refresh_per_second=4, get_renderable=self._render)
        self.tasks: dict[str, Any] = {}

    def _render(self) -> Group:
        if not self.records:
            return Group(self.bars)
        table = epoch_table(self.records[-EPOCHS_SHOWN:], width=self.live.console.width)
        return Group(Text(UNITS, style="dim", no_wrap=True, overflow="ellipsis"), table, self.bars)

    def _show(self, name: str, done: int, total: int, note: str = "") -> None:
        for other, task in self.tasks.items():
            if other != name:
                self.bars.update(task, visible=False)
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total)
        self.bars.update(self.tasks[name], completed=done, total=total, visible=True, description=name + note)

    def on_images(self, done: int, total: int) -> None:
        self._show("checking images", done, total)

    def on_features(self, done: int, total: int) -> None:
        self.rate.update(done)
        if done < total:
            self._show("computing features", done, total, f", {self.rate}")
        else:
            self.live.console.print(features_line(self.rate, total))
            self.rate = Rate()

    def on_batch(self, done: int, total: int) -> None:
        self._show(self.flow, done, total)

    def on_epoch(self, record: Epoch) -> None:
        self.records.append(record)

    def on_flow(self, number: int, total: int) -> None:
        self.flow = f"training flow {number} of {total}, to calibrate"

    def on_warning(self, message: str) -> None:
        self.live.console.print(f"[yellow]warning:[/] {plain(message)}")


def features_line(rate: Rate, total: int) -> str:
    """A line that tells how many features of `total` images were computed, and how many the cache held."""
    at_hand = rate.at_hand or 0
    if at_hand == total:
        return f"features of {total} images: all from the cache"
    found = f"{at_hand} from the cache, " if at_hand else ""
    return f"features of {total} images: {found}{total - at_hand} computed at {rate}"


def epoch_table(records: Sequence[Epoch], *, width: int) -> Table:
    """The training log as a table; losses are in bits per dimension."""
    scored = [record for record in records if record.criterion != record.held_out_loss]
    columns = [
        Column("epoch", [f"{record.epoch}/{record.n_epochs}" for record in records]),
        Column("loss", [f"{record.loss:.4f}" for record in records]),
        Column("held-out loss", [_number(record.held_out_loss, 4) for record in records]),
        Column("criterion", [f"{record.criterion:.4f}" if scored else "" for record in records], rank=1),
        Column("", ["best" if record.best else "" for record in records], rank=2, justify="left"),
        Column("mean z² by scale", [mean_squares(record.mean_squares) for record in records], rank=3),
        Column("images/s", [f"{record.images_per_second:.1f}" for record in records], rank=4),
        Column("learning rate", [f"{record.learning_rate:.2g}" for record in records], rank=6),
        Column("elapsed", [duration(record.seconds) for record in records], rank=5),
    ]
    return table_of(columns, width=width, styles=["bold" if record.best else "dim" for record in records])


def _judged(record: Epoch) -> str:
    """The value that chooses the epoch, by its name: the held-out loss, or the criterion on the test set."""
    if math.isnan(record.held_out_loss):
        return f"test pixel AUROC {record.criterion:.4f}"
    return f"held-out loss {_number(record.held_out_loss, 4)} bits/dim"


def mean_squares(values: Sequence[float]) -> str:
    """Mean of z² per scale, the finest first; 1 where the flow fits."""
    return " ".join(_number(value, 2) for value in values)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


@contextlib.contextmanager
def training_display() -> Iterator[PlainTrainingDisplay | LiveTrainingDisplay]:
    """The display of a training: live on a terminal, plain lines elsewhere."""
    console = err()
    if not console.is_terminal:
        yield PlainTrainingDisplay(console)
        return
    display = LiveTrainingDisplay(console)
    with display.live:
        yield display


def print_training_start(
    dataset: str, category: str, n_images: int, *, preset: str, paper_exact: bool, run: Path, n_flows: int = 1
) -> None:
    """One line before training starts, another where `n_flows` are trained, and a warning where little is promised."""
    from uflow_cli.config import FEW_IMAGES
    from uflow_cli.run.record import PAPER_EXACT_CAVEAT

    hint = "" if preset == PAPER_PRESET else f" (the paper's: --preset {PAPER_PRESET})"
    note(f"training preset {preset}{hint} on {n_images} good images of {dataset}/{category}; run folder {run}")
    if n_flows > 1:
        note(f"{n_flows} flows take turns at holding images out, so that all of them calibrate; one is kept (--folds)")
    if paper_exact:
        warn(PAPER_EXACT_CAVEAT)
    elif n_images < FEW_IMAGES:
        warn(
            f"{n_images} good images are few: no false-alarm rate below {1 / (n_images // 2 + 1):.0%} can be "
            "promised, and defects may be missed; 50 or more do well"
        )


def print_training_result(run: Run, data: Dataset) -> None:
    """The result of a training: the epoch kept, its calibration on held-out images, and what to do next."""
    console = out()
    calibration, progress_ = run.calibration, run.progress
    stopped = (
        f", stopped after {progress_.epochs_done}" if progress_.state == "stopped" else f" of {progress_.epochs_done}"
    )
    origin = run.origin
    groups = f" of {len(origin.held_out_groups)} of {origin.n_groups} groups" if origin.n_groups else ""
    images = f" ({origin.n_selection} held-out images{groups})" if origin.n_selection else ""
    console.print(
        f"kept epoch {progress_.best_epoch}{stopped}: {progress_.criterion} {progress_.value:.4f}{images}",
        soft_wrap=True,
    )
    if calibration.n_images:
        _print_calibration(console, run, n_flows=origin.n_flows)
    _print_suspects(run)
    console.print(f"model in {plain(str(run.folder))}; next:", soft_wrap=True)
    for command in next_commands(run, data):
        console.print(f"  {plain(command)}", soft_wrap=True)


def print_import(run: Run) -> None:
    """Show what was imported, its calibration if it has one, and what to do next."""
    console, origin = out(), run.origin
    console.print(
        f"{plain(Path(origin.imported or '').name)}: {run.model.extractor}, {run.model.flow_steps} flow steps, of "
        f"{plain(origin.dataset)}/{plain(origin.category)}", soft_wrap=True,
    )  # fmt: skip
    if run.caveat:
        warn(run.caveat)
    if run.calibration.n_images:
        _print_calibration(console, run, n_flows=1)
    options = f"--dataset {shlex.quote(origin.dataset)} --category {shlex.quote(origin.category)}"
    console.print(f"model in {plain(str(run.folder))}; next:", soft_wrap=True)
    command = f"uflow evaluate --model {shlex.quote(str(run.folder))} {options}"
    console.print(f"  {plain(command)}", soft_wrap=True)


def next_commands(run: Run, data: Dataset) -> list[str]:
    """The commands for a trained run, ready for the shell."""
    model, images = shlex.quote(str(run.folder)), data.test or data.train
    folder = shlex.quote(os.path.commonpath([image.path.parent for image in images]))
    if not data.test:
        return [f"uflow detect {folder} --model {model}  # or any other images"]
    report = shlex.quote(str(run.folder / "report"))
    return [f"uflow detect {folder} --model {model}", f"uflow evaluate --model {model} --report {report}"]


def _print_suspects(run: Run) -> None:
    """The good images that look defective, the strangest first."""
    from uflow_cli.run.suspects import SUSPECTS_NAME, read_suspects

    suspects = read_suspects(run.folder)
    if not suspects:
        return
    shown = first_of([f"{one.path.name} ({one.log_nfa:.1f})" for one in suspects], SUSPECTS_SHOWN)
    file = run.folder / SUSPECTS_NAME
    warn(
        f"{len(suspects)} good image{'s look' if len(suspects) > 1 else ' looks'} defective (log NFA): {shown}; "
        f"look at them, take those that are good "
        f"out of {file}, and train again with --exclude {file}"
    )


def _print_calibration(console: Console, run: Run, *, n_flows: int) -> None:
    """The fit of the embeddings and the false alarms on held-out images."""
    calibration = run.calibration
    names = run.model.source_names(calibration.n_scales, len(calibration.background))
    table = Table(title="embeddings of held-out good images", title_justify="left", box=None, pad_edge=False)
    for name in ("source", "channels C", "v = mean U / C", "degrees of freedom k"):
        table.add_column(name, justify="right")
    for name, background, ratio, channels in zip(
        names, calibration.background, calibration.mean_ratio, calibration.n_channels, strict=True
    ):
        table.add_row(name, str(channels), f"{ratio:.3f}", f"{background.degrees_of_freedom:.1f}")
    console.print(table)
    console.print(_false_alarms(calibration))
    flagged = calibration.false_alarm_images(0.0)
    chosen = ", which also chose the epoch," if calibration.shared else ""
    chosen = f", judged by {n_flows} flows in turns," if n_flows > 1 and not chosen else chosen
    console.print(
        f"at log NFA < 0, one false detection expected in {10**calibration.log_lot:.0f} good images, {flagged} of "
        f"{calibration.n_images} held-out good images{chosen} are flagged; "
        f"the smallest false-alarm rate they can promise is {calibration.smallest_rate:.3f}", soft_wrap=True,
    )  # fmt: skip
    console.print(f"the promise is {calibration.scope}", soft_wrap=True)
    for warning in calibration.warnings():
        warn(warning)


def _false_alarms(calibration: Calibration) -> Table:
    """False alarms that thresholds promise, and those measured on held-out images by a calibration without them."""
    table = Table(title="false alarms on held-out good images", title_justify="left", box=None, pad_edge=False)
    for name in ("log NFA below", "promised per image", "measured per image", "images flagged"):
        table.add_column(name, justify="right")
    log_lot = calibration.log_lot
    for threshold in (2, 1, 0, -1) if log_lot else (1, 0, -1, -2):
        flagged = calibration.false_alarm_images(threshold)
        table.add_row(
            str(threshold), f"{10.0 ** (threshold - log_lot):g}", f"{calibration.false_detections(threshold):.3g}",
            f"{flagged} of {calibration.n_images}",
        )  # fmt: skip
    return table


STYLES = {"failed": "red", "stopped": "yellow", "not started": "dim", "done before": "dim"}


def print_task(task: TrainingTask) -> None:
    """Tell that a category begins or goes on."""
    note(f"category {task.number} of {task.n_tasks}: {task.data.category}")
    if task.resumed:
        note(f"going on with the unfinished training in {task.folder}")
        return
    data, model_config = task.data, task.model_config
    print_training_start(
        data.name, data.category, len(data.train), preset=task.config.preset, paper_exact=model_config.paper_exact,
        run=task.folder, n_flows=task.n_flows,
    )  # fmt: skip


def print_traceback(text: str) -> None:
    """The traceback of an error that is not the user's; the other categories go on."""
    err().print(escape(text), style="red")


def print_outcome(outcome: Outcome[Run]) -> None:
    """One line when a category is done with."""
    if outcome.state == "failed":
        err().print(f"[red]{plain(outcome.category)} failed:[/] {plain(outcome.message)}")
    elif outcome.result is not None:
        progress = outcome.result.progress
        note(
            f"{outcome.category} {outcome.state}: epoch {progress.best_epoch} of {progress.epochs_done} kept, "
            f"held-out loss {held_out_loss(outcome.result)}, {duration(outcome.seconds)}"
        )


def print_trainings(outcomes: Sequence[Outcome[Run]], *, folder: Path) -> None:
    """The outcomes of all categories as one table, and where the runs are."""
    console = out()
    styles = [STYLES.get(outcome.state, "") for outcome in outcomes]
    console.print(table_of(_columns(outcomes), width=console.width, styles=styles))
    n_of = Counter(outcome.state for outcome in outcomes)
    failed, left = n_of["failed"], n_of["stopped"] + n_of["not started"]
    console.print(
        f"{n_of['finished'] + n_of['done before']} of {len(outcomes)} categories are trained"
        f"{f', {failed} failed' if failed else ''}{f', {left} left for the same command' if left else ''}; "
        f"runs in {plain(str(folder))}", soft_wrap=True,
    )  # fmt: skip


def _columns(outcomes: Sequence[Outcome[Run]]) -> list[Column]:
    def cells(show: Callable[[Run], str]) -> list[str]:
        return [show(outcome.result) if outcome.result else "" for outcome in outcomes]

    return [
        Column("category", [outcome.category for outcome in outcomes], justify="left"),
        Column("state", [outcome.state for outcome in outcomes], justify="left"),
        Column("images", cells(lambda run: str(run.origin.n_images)), rank=5),
        Column("epochs", cells(lambda run: f"{run.progress.epochs_done}/{run.progress.n_epochs}"), rank=3),
        Column("best", cells(lambda run: str(run.progress.best_epoch)), rank=4),
        Column("held-out bits/dim", cells(held_out_loss), rank=1),
        Column("v by scale", cells(lambda run: mean_squares(run.calibration.mean_ratio)), rank=2),
        Column("flagged", cells(_flagged), rank=2),
        Column("seconds", [f"{outcome.seconds:.0f}" if outcome.seconds else "" for outcome in outcomes], rank=6),
        Column("message", [outcome.message for outcome in outcomes], justify="left", shortest=24, wraps=True),
    ]


def _flagged(run: Run) -> str:
    """Held-out good images below log NFA 0, of all that calibrate."""
    calibration = run.calibration
    return f"{calibration.false_alarm_images(0.0)}/{calibration.n_images}" if calibration.n_images else "-"
