"""The two streams of a terminal, and progress: results go to stdout; progress, warnings and notes to stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import (
    Console,
    ConsoleOptions,
    RenderableType,
    RenderResult,
)
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from uflow_cli.text import printable

PLAIN_WIDTH = 120  # columns of tables where stdout is no terminal


def out(*, at_least: int = 0) -> Console:
    """Stdout; where it is no terminal, tables keep one width, or `at_least` that."""
    console = Console(highlight=False, soft_wrap=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, soft_wrap=False, width=max(PLAIN_WIDTH, at_least))


def err() -> Console:
    """Stderr; long lines are left to the terminal to break."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def plain(text: str) -> str:
    """Any text, such as a file name with control characters, as rich markup that shows it on one line."""
    return escape(printable(text))


def warn(message: str) -> None:
    """One warning line on stderr."""
    tell(f"[yellow]warning:[/] {plain(message)}")


def note(message: str) -> None:
    """One line on stderr that a user may want to know."""
    tell(plain(message))


def tell(markup: str) -> None:
    """A line of rich markup on stderr, above what is live there.

    A live display puts its own `sys.stderr` in place, which a console would go round, to print into the picture.
    """
    console = err()
    with console.capture() as capture:
        console.print(markup)
    sys.stderr.write(capture.get())
    sys.stderr.flush()


def print_json(values: dict[str, Any]) -> None:
    """`values` as JSON on stdout, and nothing else."""
    from uflow_cli.schema import json_text

    print(json_text(values), end="")


def print_text(text: str) -> None:
    """`text` as it is on stdout, for files and programs."""
    print(text, end="")


def duration(seconds: float) -> str:
    """`seconds` as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def amount(n_bytes: int) -> str:
    """`n_bytes` in the unit that people would choose."""
    value, units = float(n_bytes), ["KiB", "MiB", "GiB"]
    if value < 1024:
        return f"{n_bytes} B"
    while (value := value / 1024) >= 1024 and len(units) > 1:
        units.pop(0)
    return f"{value:.1f} {units[0]}"


NARROW = 60  # columns, below which the time elapsed is left out
ROOM = 4  # columns
PLAIN_INTERVAL = 10.0  # seconds between progress lines where stderr is no terminal


class Advance:
    """Counts what is done of `total` and has it shown, with its pace."""

    def __init__(self, total: int, show: Callable[[int, str], None]) -> None:
        self._total, self._show, self._done, self._rate = total, show, 0, Rate()
        self._rate.update(0)

    def __call__(self, n: int) -> None:
        """`n` more are done."""
        self._done += n
        self._rate.update(self._done)
        speed = self._rate.per_second
        pace = f"{speed:.3g}/s, {duration((self._total - self._done) / speed)} left" if speed else ""
        self._show(self._done, pace)

    def skip(self, n: int) -> None:
        """`n` more were done before, which took no time."""
        self._done, self._rate = self._done + n, Rate()
        self._rate.update(self._done)
        self._show(self._done, "")


@contextlib.contextmanager
def progress(title: str, *, total: int, quiet: bool = False) -> Iterator[Advance]:
    """A progress bar on stderr, or a line now and then where stderr is no terminal, or nothing; yields advance(n)."""
    console = err()
    if quiet:
        yield Advance(total, lambda _done, _pace: None)
    elif console.is_terminal:
        with progress_bars(console, TextColumn("{task.fields[pace]}")) as shown:
            task = shown.add_task(title, total=total, pace="")
            yield Advance(total, lambda done, pace: shown.update(task, completed=done, pace=pace))
    else:
        lines = PlainLines(console, title)
        yield Advance(total, lambda done, pace: lines.show(done, total, f", {pace}" if pace else ""))


@contextlib.contextmanager
def byte_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar of bytes on stderr, or a line now and then; yields show(what is done, bytes done, bytes in all or 0)."""
    console = err()
    if not console.is_terminal:
        lines: dict[str, PlainLines] = {}

        def say(what: str, done: int, total: int) -> None:
            lines.setdefault(what, PlainLines(console, what)).show(done, total or done + 1, " bytes")

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, expand=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield show


def progress_bars(console: Console, *pace: ProgressColumn) -> Progress:
    """Columns that all progress bars share, the last ones being `pace` or the time left."""
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1))  # narrowness shortens the bar first
    elapsed = [TimeElapsedColumn()] if console.width >= NARROW else []
    return _Bars(
        SpinnerColumn(), TextColumn("{task.description}"), bar, MofNCompleteColumn(), *elapsed,
        *(pace or (TextColumn("left"), TimeRemainingColumn())), console=console, transient=True, expand=True,
    )  # fmt: skip


class _Bars(Progress):
    """Progress bars that leave room at the right, where a terminal writes ^C: by a line more, all would slip."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars."""
        for shown in super().get_renderables():
            yield _Narrower(shown)


@dataclass(frozen=True)
class _Narrower:
    """A renderable with some columns less, which stay unwritten."""

    shown: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.shown, options.update_width(max(1, options.max_width - ROOM)))


class PlainLines:
    """`title done/total` lines, at most one every few seconds, and one at the end."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title, self.last = console, title, time.monotonic()

    def show(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` are done, and `note` after it."""
        now = time.monotonic()
        if done >= total or now - self.last >= PLAIN_INTERVAL:
            self.last = now
            self.console.print(f"{self.title} {done}/{total}{note}")


class Rate:
    """The speed of work of which a part was done before."""

    def __init__(self) -> None:
        self.at_hand: int | None = None  # done before; what the first `update` says

    def update(self, done: int) -> None:
        """`done` is done now."""
        if self.at_hand is None:
            self.at_hand, self.start = done, time.monotonic()
        self.done, self.seconds = done, time.monotonic() - self.start

    @property
    def per_second(self) -> float:
        """Done per second, what was at hand left out."""
        return (self.done - (self.at_hand or 0)) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        return f"{self.per_second:.3g} images/s"
