"""`uflow sample`: write the built-in sample data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sample(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; the data set becomes its sub-folder.")],
    category: Annotated[
        str, typer.Option(help="Product to make: fabric, label, metal or strip (500 x 1250).")
    ] = "fabric",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    lots: Annotated[
        int, typer.Option(min=1, help="Production lots that take turns; with several, file names begin with lot1_ ...")
    ] = 1,
) -> None:
    """Write a small synthetic data set in MVTec layout: good parts, defects of several kinds, exact masks."""
    from uflow_cli.cli import console
    from uflow_cli.sample import write_sample

    folder = write_sample(out, category=category, seed=seed, lots=lots)
    console.print_sample(folder, category=category)
