"""`uflow backbones`: the extractors there are, and whether their weights are here."""

from __future__ import annotations

from typing import Annotated

import typer

from uflow_cli.cli.options import Json


def backbones(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Only these; also timm:NAME.", show_default="all")
    ] = None,
    scales: Annotated[
        str | None, typer.Option("--scales", help="Show them with these scales, as `uflow train` takes them.")
    ] = None,
    json: Json = False,
) -> None:
    """List the extractors that --extractor takes, and say where their weights come from and whether they are here."""
    from uflow_cli.cli import console
    from uflow_cli.features import EXTRACTORS, describe_extractor

    console.print_backbones([describe_extractor(name, scales=scales) for name in names or EXTRACTORS], as_json=json)
