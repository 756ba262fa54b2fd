"""`uflow watch`: inspect what a camera or a line writes into a folder."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uflow_cli.cli.options import (
    DEVICE,
    RESULTS,
    RUNTIME,
    STDOUT,
    Device,
    FalseAlarmRate,
    JsonLines,
    ModelFolder,
    NfaThreshold,
    Quiet,
    RegionOfInterest,
    ResultFolder,
    Runtime,
    WeightsFiles,
    WithMasks,
    WithOverlays,
    chosen_run,
    lines_to,
    require_one_threshold,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that images come into, and those inside it.")],
    model: ModelFolder = None,
    nfa_threshold: NfaThreshold = None,
    false_alarm_rate: FalseAlarmRate = None,
    out: ResultFolder = RESULTS,
    masks: WithMasks = True,
    overlays: WithOverlays = True,
    move_good: Annotated[
        Path | None, typer.Option("--move-good", metavar="DIR", help="Move images without a defect there.")
    ] = None,
    move_defect: Annotated[
        Path | None, typer.Option("--move-defect", metavar="DIR", help="Move images with a defect there.")
    ] = None,
    on_defect: Annotated[
        str | None,
        typer.Option("--on-defect", metavar="COMMAND", help="Run this for each defect, the image as last argument."),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="URL", help="Send each result there as JSON, until it is taken.")
    ] = None,
    webhook_key_file: Annotated[
        Path | None, typer.Option("--webhook-key-file", metavar="FILE", help="Sign what is sent with the key in it.")
    ] = None,
    poll: Annotated[
        float | None,
        typer.Option("--poll", metavar="SECONDS", min=0.01, help="List the folder so often; for network drives."),
    ] = None,
    settle: Annotated[
        float, typer.Option("--settle", metavar="SECONDS", min=0.0, help="A file is complete when unchanged so long.")
    ] = 1.0,
    roi: RegionOfInterest = None,
    jsonl: JsonLines = None,
    quiet: Quiet = False,
    weights: WeightsFiles = None,
    device: Device = DEVICE,
    runtime: Runtime = RUNTIME,
) -> None:
    """Inspect the images in a folder and all that come, each once, until Ctrl-C."""
    from uflow_cli.cli import console

    require_one_threshold(nfa_threshold, false_alarm_rate)
    if webhook_key_file and webhook is None:
        raise typer.BadParameter("a key signs what --webhook sends; give that too", param_hint="'--webhook-key-file'")

    for name, seconds in (("--poll", poll), ("--settle", settle)):
        if seconds is not None and not math.isfinite(seconds):
            raise typer.BadParameter(f"a number of seconds is needed, not {seconds}", param_hint=f"'{name}'")

    from uflow_cli.memory import keep_large_apart

    keep_large_apart()  # before the libraries fill the heap
    from uflow_cli.watch import Errand, Watched, command_of, watch_folder, webhook_of

    kinds: list[Errand] = [command_of(on_defect)] if on_defect is not None else []
    kinds += [webhook_of(webhook, webhook_key_file)] if webhook is not None else []
    run = chosen_run(model, weights=weights, quiet=quiet)
    watched = Watched(folder, out, move_good, move_defect, masks=masks, overlays=overlays)
    if not quiet:
        console.note(f"watching {folder}; Ctrl-C ends")
    show = (lambda _line: None) if quiet or jsonl == STDOUT else console.print_watched
    with _until_told() as is_over, lines_to(jsonl, go_on=True) as tell:
        n_images, n_defects = watch_folder(
            run, watched, device=device.value, runtime=runtime.value, nfa_threshold=nfa_threshold,
            false_alarm_rate=false_alarm_rate, roi=roi, poll=poll, settle=settle, kinds=kinds, is_over=is_over.is_set,
            on_line=lambda line: (tell(line), show(line)), on_trouble=console.warn,
        )  # fmt: skip
    if not quiet:
        console.note(f"{n_defects} of {n_images} images have a defect; results in {out}")


@contextlib.contextmanager
def _until_told() -> Iterator[threading.Event]:
    """An event that Ctrl-C or the system's wish to end sets; the second Ctrl-C ends at once."""
    event = threading.Event()

    def stop(number: int, _frame: object) -> None:
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
