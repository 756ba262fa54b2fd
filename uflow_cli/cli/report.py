"""`uflow report`: a page to decide with, from what a detection left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PAGE_FOLDER = "report"


def report(
    results: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that `uflow detect --out OUT` wrote.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder for the page, or FILE.html that holds all.", show_default="OUT/report"),
    ] = None,
    single: Annotated[bool, typer.Option("--single", help="Write one file with all pictures inside.")] = False,
) -> None:
    """Write an HTML page of a detection's results: every image, its regions, and a threshold to move."""
    from uflow_cli.cli import console
    from uflow_cli.report import report_stored, report_writer
    from uflow_cli.results import read_result

    found = read_result(results)
    place = to or results / PAGE_FOLDER
    if single and place.suffix.lower() != ".html":
        place = place.with_name(f"{place.name}.html")
    with (
        report_writer(place) as writer,
        console.progress("reporting", total=len(found.images)) as advance,
    ):
        page = report_stored(found, writer, on_progress=advance)
    console.print_text(f"{page}\n")
