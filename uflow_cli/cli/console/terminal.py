"""The two streams of a terminal: results go to stdout, warnings and notes to stderr."""

from __future__ import annotations

import json as json_module
import sys
from typing import Any

from rich.console import Console  # noqa: TID251
from rich.markup import escape  # noqa: TID251

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


def warn(message: str) -> None:
    """One warning line on stderr."""
    tell(f"[yellow]warning:[/] {escape(message)}")


def note(message: str) -> None:
    """One line on stderr that a user may want to know."""
    tell(escape(message))


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
    print(json_module.dumps(values, indent=1))


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
