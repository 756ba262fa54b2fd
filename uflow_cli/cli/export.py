"""`uflow export`: a run as a compiled graph."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uflow_cli.cli.options import Json, ModelFolder, WeightsFiles, chosen_run, data_of

if TYPE_CHECKING:
    from uflow_cli.run.record import Run


class FormatName(StrEnum):
    """The form of a compiled graph."""

    onnx = "onnx"


def export(
    model: ModelFolder = None,
    format: Annotated[FormatName, typer.Option("--format", help="Form of the graph.")] = FormatName.onnx,  # noqa: A002
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder that is all another machine needs to detect.  [default: the graph joins the run]"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", help="Folder of images to compare the graph on, instead of those that training held out."
        ),
    ] = None,
    json: Json = False,
    weights: WeightsFiles = None,
) -> None:
    """Make the graph of a run, which detects on a CPU in less time and without PyTorch; it must give the same U."""
    from uflow_cli.cli import console
    from uflow_cli.export import export_run
    from uflow_cli.images import list_images

    assert format is FormatName.onnx
    run = chosen_run(model, weights=weights)
    paths, which = (list_images(images, recursive=True), "given images") if images else _held_out(run)
    graph = export_run(run, paths, which=which, out=out)
    console.print_graph(graph, folder=out or run.folder, as_json=json)


def _held_out(run: Run) -> tuple[list[Path], str]:
    """The images of `run` that never trained its flow, and in words which these are."""
    from uflow_cli.datasets import groups_of
    from uflow_cli.errors import ExportError, UflowError
    from uflow_cli.training import split_images

    try:
        images = data_of(run.origin).train
    except UflowError as error:
        raise ExportError(f"the images that training held out are gone ({error}); name others with --images") from error
    paths, settings = [image.path for image in images], run.training
    split = split_images(
        len(paths), held_out_fraction=settings.held_out_fraction, seed=settings.seed,
        groups=groups_of(images, settings.groups),
    )  # fmt: skip
    if len(paths) != run.origin.n_images or not split.calibration:
        return paths, "images of its data set, where other images are by now or none were held out"
    return [paths[i] for i in sorted({*split.selection, *split.calibration})], "held-out images"
