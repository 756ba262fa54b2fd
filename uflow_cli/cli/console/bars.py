"""Progress bars for a terminal, with libraries that nobody else waits for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
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

from uflow_cli.cli.console.terminal import err

NARROW = 60  # columns, below which the time elapsed is left out
ROOM = 4  # columns


@contextlib.contextmanager
def bar_with_pace(title: str, *, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on stderr; yields show(done, pace)."""
    with progress_bars(err(), TextColumn("{task.fields[pace]}")) as shown:
        task = shown.add_task(title, total=total, pace="")
        yield lambda done, pace: shown.update(task, completed=done, pace=pace)


@contextlib.contextmanager
def bars_of_bytes() -> Iterator[Callable[[str, int, int], None]]:
    """Bars of bytes on stderr; yields show(what is done, bytes done, bytes in all or 0)."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err(), transient=True, expand=True) as bars:
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
