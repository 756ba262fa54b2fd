"""Commands of the `uflow` program, one file each. Nothing here imports torch: commands import what they call inside."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import uflow_cli
from uflow_cli.cli.backbones import backbones
from uflow_cli.cli.bench import bench
from uflow_cli.cli.cache import cache
from uflow_cli.cli.check import check
from uflow_cli.cli.detect import detect
from uflow_cli.cli.evaluate import evaluate
from uflow_cli.cli.runs import runs
from uflow_cli.cli.sample import sample
from uflow_cli.cli.train import train
from uflow_cli.errors import UflowError

app = typer.Typer(
    name="uflow",
    help="Find defects in images after seeing only good ones, and say how sure it is.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # a bug keeps its plain traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"uflow {uflow_cli.__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


app.command()(sample)
app.command()(train)
app.command()(detect)
app.command()(check)
app.command()(evaluate)
app.command()(runs)
app.command()(backbones)
app.command()(bench)
app.command()(cache)


def main() -> None:
    """Run the program: 0 when it ran, 1 with one line on stderr for what a user can fix, 2 for wrong usage."""
    # Threads spin while they wait; too long, and training takes many times as long beside another program.
    # Of 0, 3000, 30000 and the default of 300000 turns, 3000 did well both alone and beside another.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        app()
    except UflowError as error:
        print(f"uflow: {error}", file=sys.stderr)
        sys.exit(1)
