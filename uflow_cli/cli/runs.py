"""`uflow runs`: what was trained, how far, and how well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uflow_cli.cli.options import Json

RUNS = Path("runs")


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders to look in, and below.", show_default="runs")
    ] = None,
    json: Json = False,
) -> None:
    """List runs with their state and key figures, the newest first; damaged ones with what is wrong."""
    from uflow_cli.cli import console
    from uflow_cli.run.listing import list_runs

    roots = folders or [RUNS]
    found = list_runs(roots) if folders or RUNS.is_dir() else []
    console.print_runs(found, roots=roots, as_json=json)
