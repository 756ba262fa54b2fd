"""Options that several commands share, so that they read and behave alike."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from uflow_cli.checkpoint import Run


class DeviceName(StrEnum):
    """Where tensors live."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DATA_ROOT = Path("data")
DEVICE = DeviceName.auto

DatasetName = Annotated[str | None, typer.Option("--dataset", help="Layout of the data set: mvtec, btad, visa, ...")]
Category = Annotated[str | None, typer.Option("--category", help="Product within the data set, such as screw.")]
DataRoot = Annotated[Path, typer.Option("--data-root", help="Folder that holds the data set's categories.")]
Device = Annotated[DeviceName, typer.Option("--device", help="auto takes a CUDA GPU where there is one.")]
ModelFolder = Annotated[
    Path | None,
    typer.Option("--model", help="Run folder that `uflow train` wrote.  [default: the newest below ./runs]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
NfaThreshold = Annotated[
    float | None,
    typer.Option("--nfa-threshold", help="log10 of the false detections allowed per image.  [default: 0, at most one]"),
]
FalseAlarmRate = Annotated[
    float | None,
    typer.Option("--false-alarm-rate", help="Share of good images that may be flagged, instead of --nfa-threshold."),
]


def chosen_run(model: Path | None) -> Run:
    """The run that --model names, or the newest below ./runs, and then says which."""
    from uflow_cli.checkpoint import find_newest_run, load_run
    from uflow_cli.cli import console

    folder = model or find_newest_run(Path("runs"))
    run = load_run(folder)
    if model is None:
        console.note(f"using the newest run, {folder}")
    return run


def require_one_threshold(nfa_threshold: float | None, false_alarm_rate: float | None) -> None:
    """Wrong usage if both were given."""
    if nfa_threshold is not None and false_alarm_rate is not None:
        raise typer.BadParameter(
            "give --nfa-threshold or --false-alarm-rate, not both", param_hint="'--false-alarm-rate'"
        )
