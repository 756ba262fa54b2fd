"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult  # noqa: TID251
from rich.progress import (  # noqa: TID251
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column  # noqa: TID251

from uflow_cli.cli.console.terminal import err

NARROW = 60  # columns, below which the time elapsed is left out
ROOM = 4  # columns
PLAIN_INTERVAL = 10.0  # seconds between progress lines where stderr is no terminal


@contextlib.contextmanager
def progress(title: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, or a line now and then where stderr is no terminal; yields advance(n)."""
    console = err()
    if console.is_terminal:
        with progress_bars(console) as shown:
            task = shown.add_task(title, total=total)
            yield lambda n: shown.advance(task, n)
    else:
        lines = PlainLines(console, title)
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            lines.show(done, total)

        yield advance


def progress_bars(console: Console) -> Progress:
    """Columns that all progress bars share."""
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1))  # narrowness shortens the bar first
    elapsed = [TimeElapsedColumn()] if console.width >= NARROW else []
    return _Bars(
        SpinnerColumn(), TextColumn("{task.description}"), bar, MofNCompleteColumn(), *elapsed,
        TextColumn("left"), TimeRemainingColumn(), console=console, transient=True, expand=True,
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
    """How fast work goes of which a part was done before."""

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
