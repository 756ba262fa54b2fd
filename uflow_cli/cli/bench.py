"""`uflow bench`: how fast this machine is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from uflow_cli.cli.options import DEVICE, Device


class PartName(StrEnum):
    """The work to time."""

    all = "all"
    nfa = "nfa"
    pipeline = "pipeline"


def bench(
    part: Annotated[PartName, typer.Argument(help="The NFA engine, the pipeline around it, or all.")] = PartName.all,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds and smaller maps.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="Also write timings, machine and versions to this file.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random inputs.")] = 0,
    device: Device = DEVICE,
) -> None:
    """Time every part of the work on this machine; no data is needed."""
    from uflow_cli.bench import Part, n_comparisons, run_bench
    from uflow_cli.cli import console
    from uflow_cli.files import write_text
    from uflow_cli.model import choose_device
    from uflow_cli.schema import to_json

    parts: list[Part] = ["nfa", "pipeline"] if part is PartName.all else ["nfa" if part is PartName.nfa else "pipeline"]
    with console.progress("timing", total=n_comparisons(parts, quick=quick)) as advance:
        result = run_bench(parts, quick=quick, seed=seed, device=choose_device(device.value), on_progress=advance)
    console.print_bench(result)
    if json is not None:
        write_text(json, to_json(result))
