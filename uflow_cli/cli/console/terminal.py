"""The two streams of a terminal, and progress: results go to stdout; progress, warnings and notes to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from uflow_cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 120  # columns of tables where stdout is no terminal


def out(*, at_least: int = 0) -> Console:
    """Stdout; where it is no terminal, tables keep one width, or `at_least` that."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, soft_wrap=False, width=max(PLAIN_WIDTH, at_least))


def err() -> Console:
    """Stderr; long lines are left to the terminal to break."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def plain(text: str) -> str:
    """Any text, such as a file name with control characters, as rich markup that shows it on one line."""
    from rich.markup import escape

    return escape(printable(text))


def warn(message: str) -> None:
    """One warning line on stderr."""
    _tell(message, head="warning: ", style="yellow")


def note(message: str) -> None:
    """One line on stderr that a user may want to know."""
    _tell(message)


def _tell(message: str, *, head: str = "", style: str = "") -> None:
    """A line on stderr, above what is live there.

    A live display puts its own `sys.stderr` in place, which a console would go round, to print into the picture.
    """
    line = f"{head}{printable(message)}\n"
    if is_live(sys.stderr):
        console = err()
        with console.capture() as capture:
            console.print(head, style=style, end="")
            console.print(plain(message))
        line = capture.get()
    sys.stderr.write(line)
    sys.stderr.flush()


def is_live(stream: TextIO) -> bool:
    """Whether somebody looks at `stream`, who gets colours and bars; for all others rich need not be loaded."""
    return stream.isatty() or any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))


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
    if quiet:
        yield Advance(total, lambda _done, _pace: None)
    elif is_live(sys.stderr):
        from uflow_cli.cli.console.bars import bar_with_pace

        with bar_with_pace(title, total=total) as show:
            yield Advance(total, show)
    else:
        lines = PlainLines(title)
        yield Advance(total, lambda done, pace: lines.show(done, total, f", {pace}" if pace else ""))


@contextlib.contextmanager
def byte_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar of bytes on stderr, or a line now and then; yields show(what is done, bytes done, bytes in all or 0)."""
    if is_live(sys.stderr):
        from uflow_cli.cli.console.bars import bars_of_bytes

        with bars_of_bytes() as show:
            yield show
        return
    lines: dict[str, PlainLines] = {}

    def say(what: str, done: int, total: int) -> None:
        lines.setdefault(what, PlainLines(what)).show(done, total or done + 1, " bytes")

    yield say


class PlainLines:
    """`title done/total` lines, at most one every few seconds, and one at the end."""

    def __init__(self, title: str) -> None:
        self.title, self.last = title, time.monotonic()

    def show(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` are done, and `note` after it."""
        now = time.monotonic()
        if done >= total or now - self.last >= PLAIN_INTERVAL:
            self.last = now
            print(f"{self.title} {done}/{total}{note}", file=sys.stderr, flush=True)


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
