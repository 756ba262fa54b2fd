"""`uflow import`: make a run of a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uflow_cli.cli.options import DEVICE, Device, Strict, heed


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT.ckpt", help="File that the authors of U-Flow published.")
    ],
    category: Annotated[
        str | None, typer.Option("--category", help="Its product.", show_default="as the file's name says")
    ] = None,
    dataset: Annotated[str, typer.Option("--dataset", help="Data set that the product is of.")] = "mvtec",
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder.", show_default="runs/<dataset>/<category>")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate", help="Folder of good images that did not train it: they calibrate its false alarms."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out already holds.")] = False,
    strict: Strict = False,
    device: Device = DEVICE,
) -> None:
    """Make a run of a model that the authors of the paper published; no code in the file is run.

    Without --calibrate it judges as published, for comparisons (--paper-exact). With good images its log NFA counts
    what they showed, and they promise a false-alarm rate.
    """
    from uflow_cli.checkpoints import guess_category, import_published
    from uflow_cli.cli import console
    from uflow_cli.inputs import find_images
    from uflow_cli.model import choose_device

    given = find_images([calibrate]) if calibrate else None
    images = given.images if given else []
    heed(given.left_out if given else [], strict=strict)
    product = category or guess_category(checkpoint)
    with console.progress("calibrating", total=len(images)) as advance:
        run = import_published(
            checkpoint, out=out or Path("runs") / dataset / product, dataset=dataset, category=product,
            device=choose_device(device.value), calibration_images=images, overwrite=overwrite, on_progress=advance,
        )  # fmt: skip
    console.print_import(run)
