"""Everything the terminal shows; the only importer of rich. Results go to stdout, progress and warnings to stderr."""

from __future__ import annotations

import contextlib
import json as json_module
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group  # noqa: TID251
from rich.live import Live  # noqa: TID251
from rich.markup import escape  # noqa: TID251
from rich.progress import (  # noqa: TID251
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table  # noqa: TID251

if TYPE_CHECKING:
    from uflow_cli.bench import Bench
    from uflow_cli.evaluation import Evaluation
    from uflow_cli.inspection import Inspection
    from uflow_cli.training import Epoch, TrainingResult

PLAIN_INTERVAL = 10.0  # seconds between progress lines where stderr is no terminal
PLAIN_WIDTH = 120  # columns of tables where stdout is no terminal
EPOCHS_SHOWN = 8
REGIONS_SHOWN = 5


def _out() -> Console:
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=False, width=PLAIN_WIDTH)


def _err() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """One warning line on stderr."""
    _err().print(f"[yellow]warning:[/] {escape(message)}")


def note(message: str) -> None:
    """One line on stderr that a user may want to know."""
    _err().print(escape(message))


def print_json(values: dict[str, Any]) -> None:
    """`values` as JSON on stdout, and nothing else."""
    print(json_module.dumps(values, indent=1))


@contextlib.contextmanager
def progress(title: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, or a line now and then where stderr is no terminal; yields advance(n)."""
    console = _err()
    if console.is_terminal:
        with _bars(console) as bars:
            task = bars.add_task(title, total=total)
            yield lambda n: bars.advance(task, n)
    else:
        lines = _PlainLines(console, title)
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            lines.show(done, total)

        yield advance


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
    )  # fmt: skip


class _PlainLines:
    """`title done/total` lines, at most one every few seconds, and one at the end."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title, self.last = console, title, time.monotonic()

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self.last >= PLAIN_INTERVAL:
            self.last = now
            self.console.print(f"{self.title} {done}/{total}")


class PlainTrainingDisplay:
    """Training as plain lines: one per epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.images = _PlainLines(console, "checking images")
        self.features = _PlainLines(console, "computing features")
        self.seconds = 0.0

    def on_images(self, done: int, total: int) -> None:
        self.images.show(done, total)

    def on_features(self, done: int, total: int) -> None:
        self.features.show(done, total)

    def on_batch(self, done: int, total: int) -> None:
        """Nothing: a line per epoch is enough."""

    def on_epoch(self, record: Epoch) -> None:
        left = record.seconds / record.epoch * (record.n_epochs - record.epoch)
        self.console.print(
            f"epoch {record.epoch}/{record.n_epochs}  loss {record.loss:.4f}  held-out loss {record.held_out_loss:.4f}"
            f"{'  best' if record.best else ''}  elapsed {_duration(record.seconds)}  left {_duration(left)}"
        )


class LiveTrainingDisplay:
    """Training as a live table of the last epochs above progress bars."""

    def __init__(self, console: Console) -> None:
        self.records: list[Epoch] = []
        self.bars = _bars(console)
        self.live = Live(console=console, transient=True, refresh_per_second=4, get_renderable=self._render)
        self.tasks: dict[str, Any] = {}

    def _render(self) -> Group:
        return Group(*([epoch_table(self.records[-EPOCHS_SHOWN:])] if self.records else []), self.bars)

    def _show(self, name: str, done: int, total: int) -> None:
        for other, task in self.tasks.items():
            if other != name:
                self.bars.update(task, visible=False)
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total)
        self.bars.update(self.tasks[name], completed=done, total=total, visible=True)

    def on_images(self, done: int, total: int) -> None:
        self._show("checking images", done, total)

    def on_features(self, done: int, total: int) -> None:
        self._show("computing features", done, total)

    def on_batch(self, done: int, total: int) -> None:
        self._show("training", done, total)

    def on_epoch(self, record: Epoch) -> None:
        self.records.append(record)


def epoch_table(records: list[Epoch]) -> Table:
    """The training log as a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("epoch", "loss", "held-out loss", "", "elapsed"):
        table.add_column(name, justify="right")
    for record in records:
        table.add_row(
            f"{record.epoch}/{record.n_epochs}", f"{record.loss:.4f}", f"{record.held_out_loss:.4f}",
            "best" if record.best else "",
            _duration(record.seconds), style="bold" if record.best else "dim",
        )  # fmt: skip
    return table


@contextlib.contextmanager
def training_display() -> Iterator[PlainTrainingDisplay | LiveTrainingDisplay]:
    """What shows a training: live on a terminal, plain lines elsewhere."""
    console = _err()
    if not console.is_terminal:
        yield PlainTrainingDisplay(console)
        return
    display = LiveTrainingDisplay(console)
    with display.live:
        yield display


def print_sample(folder: Path, *, category: str) -> None:
    """Where the sample data set is, and what to do with it."""
    console = _out()
    console.print(f"sample data set written to {escape(str(folder))}", soft_wrap=True)
    console.print(
        f"train on it: uflow train --dataset mvtec --data-root {escape(str(folder.parent))} --category {category}",
        soft_wrap=True,
    )


def print_training_start(dataset: str, category: str, n_images: int, *, run: Path) -> None:
    """One line before training starts, and a warning where there are too few images to promise much."""
    from uflow_cli.config import FEW_IMAGES

    note(f"training the lite preset on {n_images} good images of {dataset}/{category}; run folder {run}")
    if n_images < FEW_IMAGES:
        warn(
            f"{n_images} good images are few: no false-alarm rate below {1 / (n_images // 2 + 1):.0%} can be "
            "promised, and defects may be missed; 50 or more do well"
        )


def print_training_result(result: TrainingResult) -> None:
    """What training left: the epoch kept, and what the held-out images say of it."""
    console = _out()
    kept, progress_ = result.calibration, result.progress
    stopped = (
        f", stopped after {progress_.epochs_done}" if progress_.state == "stopped" else f" of {progress_.epochs_done}"
    )
    console.print(
        f"kept epoch {progress_.best_epoch}{stopped}: held-out loss {progress_.held_out_loss:.4f} bits per dimension "
        f"({result.origin.n_selection} held-out images chose it)", soft_wrap=True,
    )  # fmt: skip
    table = Table(title="embeddings of held-out good images", title_justify="left", box=None, pad_edge=False)
    for name in ("scale", "channels C", "v = mean U / C", "degrees of freedom k"):
        table.add_column(name, justify="right")
    for scale, (background, ratio, channels) in enumerate(
        zip(kept.background, kept.mean_ratio, kept.n_channels, strict=True), 1
    ):
        table.add_row(str(scale), str(channels), f"{ratio:.3f}", f"{background.degrees_of_freedom:.1f}")
    console.print(table)
    flagged = kept.false_alarm_images(0.0)
    shared = ", which also chose the epoch," if kept.shared else ""
    console.print(
        f"at log NFA < 0, {flagged} of {kept.n_images} held-out good images{shared} are flagged; "
        f"the smallest false-alarm rate they can promise is {kept.smallest_rate:.3f}", soft_wrap=True,
    )  # fmt: skip
    for warning in kept.warnings():
        warn(warning)
    console.print(
        f"model in {escape(str(result.folder))}; use it: uflow detect IMAGE --model {escape(str(result.folder))}",
        soft_wrap=True,
    )


def print_inspection(inspection: Inspection, *, as_json: bool) -> None:
    """Verdict and regions of every image as a table, or all of it as JSON; unreadable images on stderr."""
    if as_json:
        from uflow_cli.inspection import inspection_to_dict

        print_json(inspection_to_dict(inspection))
    elif inspection.images:
        _print_inspection_table(inspection)
    for _, message in inspection.errors:
        _err().print(f"uflow: {escape(message)}")


def _print_inspection_table(inspection: Inspection) -> None:
    console = _out()
    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="ellipsis", no_wrap=True)
    table.add_column("verdict", no_wrap=True, min_width=7)
    widths = {"log NFA": 8, "area px": 7, "bounding box": 15, "centroid": 9, "scale": 5}
    for name, width in widths.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    names = _short_names([image.path for image in inspection.images])
    for name, image in zip(names, inspection.images, strict=True):
        if not image.is_defect:
            table.add_row(escape(name), "[green]good[/]", _log_nfa(image.log_nfa), "", "", "", "")
        for i, region in enumerate(image.detections[:REGIONS_SHOWN]):
            left, top, right, bottom = region.bounding_box
            table.add_row(
                "" if i else escape(name), "" if i else "[bold red]defect[/]", _log_nfa(region.log_nfa),
                f"{region.area:.0f}", f"{left},{top}-{right},{bottom}",
                f"{region.centroid[0]:.0f},{region.centroid[1]:.0f}", str(region.scale),
            )  # fmt: skip
        if len(image.detections) > REGIONS_SHOWN:
            table.add_row(f"  and {len(image.detections) - REGIONS_SHOWN} more", "", "", "", "", "", "")
    console.print(table)
    console.print(
        f"{inspection.n_defects} of {len(inspection.images)} images have a defect at log NFA < {inspection.threshold:g}"
    )
    console.print(f"the threshold allows {inspection.promise}", soft_wrap=True)
    console.print(f"masks, overlays and detections.json in {escape(str(inspection.out))}", soft_wrap=True)


def _short_names(paths: list[Path]) -> list[str]:
    """Paths without the folders that they all share."""
    folders = [str(path.parent) for path in paths]
    shared = os.path.commonpath(folders) if folders and len({path.is_absolute() for path in paths}) == 1 else ""
    return [os.path.relpath(path, shared) if shared else str(path) for path in paths]


def print_evaluation(evaluation: Evaluation, *, report: Path | None, as_json: bool) -> None:
    """The measures as a table, or as JSON; and where the report is."""
    from uflow_cli.evaluation import evaluation_to_dict

    if as_json:
        print_json({**evaluation_to_dict(evaluation), "report": None if report is None else str(report)})
        return
    console = _out()
    table = Table(title=evaluation.title,
                  title_justify="left", box=None, pad_edge=False, show_header=False)  # fmt: skip
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in evaluation.rows():
        table.add_row(name, value)
    console.print(table)
    console.print(f"the threshold allows {evaluation.promise}", soft_wrap=True)
    if report is not None:
        console.print(f"report to look at: {escape(str(report))}", soft_wrap=True)


def print_bench(bench: Bench) -> None:
    """All timings as one table, and what they were taken on."""
    from uflow_cli.bench import NO_CHANGE

    console = _out()
    table = Table(box=None, pad_edge=False)
    table.add_column("job")
    table.add_column("by")
    for name in ("ms", "quartiles", "per", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = ""
    for timing in bench.timings:
        is_first = timing.comparison != previous
        ratio = "=" if abs(timing.ratio - 1) < NO_CHANGE else f"{timing.ratio:.2f}x"
        table.add_row(
            timing.comparison if is_first else "", timing.contender, f"{timing.milliseconds:.3f}",
            f"{timing.lower:.3f}-{timing.upper:.3f}", timing.unit, "" if is_first else ratio,
        )  # fmt: skip
        previous = timing.comparison
    console.print(table)
    facts = ", ".join(f"{name} {value}" for name, value in bench.machine.items())
    console.print(f"peak memory {bench.peak_memory_mib:.0f} MiB; {escape(facts)}", style="dim", soft_wrap=True)


def _log_nfa(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 1e5 else f"{value:.1e}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
