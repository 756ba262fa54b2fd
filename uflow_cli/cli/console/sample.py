"""What `uflow sample` wrote."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape  # noqa: TID251

from uflow_cli.cli.console.terminal import out


def print_sample(folder: Path, *, category: str) -> None:
    """Where the sample data set is, and what to do with it."""
    console = out()
    console.print(f"sample data set written to {escape(str(folder))}", soft_wrap=True)
    console.print(
        f"train on it: uflow train --dataset mvtec --data-root {escape(str(folder.parent))} --category {category}",
        soft_wrap=True,
    )
