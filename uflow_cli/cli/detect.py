"""`uflow detect`: find defects in images."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uflow_cli.cli.options import (
    DEVICE,
    RUNTIME,
    Device,
    FalseAlarmRate,
    Json,
    ModelFolder,
    NfaThreshold,
    RegionOfInterest,
    Runtime,
    Strict,
    WeightsFiles,
    chosen_run,
    heed,
    require_one_threshold,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uflow_cli.report import DetectionPage

DEFECT_EXIT_CODE = 3


def detect(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE... | DIR", help="Images, or folders of images.")],
    model: ModelFolder = None,
    nfa_threshold: NfaThreshold = None,
    false_alarm_rate: FalseAlarmRate = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for masks, overlays and detections.json.")] = Path(
        "detections"
    ),
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Write a mask for each image.")] = True,
    overlays: Annotated[bool, typer.Option("--overlays/--no-overlays", help="Write an overlay for each image.")] = True,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Also write an HTML page with all images to this folder or FILE.html."),
    ] = None,
    roi: RegionOfInterest = None,
    strict: Strict = False,
    json: Json = False,
    fail_on_defect: Annotated[
        bool, typer.Option("--fail-on-defect", help=f"Exit with {DEFECT_EXIT_CODE} if any image has a defect.")
    ] = False,
    weights: WeightsFiles = None,
    device: Device = DEVICE,
    runtime: Runtime = RUNTIME,
) -> None:
    """Say of each image whether it is good, where its defects are, and how sure that is."""
    from uflow_cli.cli import console

    require_one_threshold(nfa_threshold, false_alarm_rate)

    from uflow_cli.detect import EARLIER, detect_images, find_images

    run = chosen_run(model, weights=weights)
    paths, left_out = find_images(images, out=out)
    if earlier := [item for item in left_out if item.reason == EARLIER]:
        console.note(f"{len(earlier)} {EARLIER} are left out")
    heed([item for item in left_out if item.reason != EARLIER], strict=strict)
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(_page(report))
        advance = stack.enter_context(console.progress("detecting", total=len(paths)))
        result = detect_images(
            run, paths, out=out, device=device.value, runtime=runtime.value, nfa_threshold=nfa_threshold,
            false_alarm_rate=false_alarm_rate, masks=masks, overlays=overlays, roi=roi, on_progress=advance,
            on_prediction=page.add if page else lambda _path, _prediction: None,
        )  # fmt: skip
        if page:
            console.note(f"report to look at: {page.finish(run, result)}")
    console.print_detections(result, as_json=json)
    if result.errors:
        raise typer.Exit(1)
    if fail_on_defect and result.n_defects:
        raise typer.Exit(DEFECT_EXIT_CODE)


@contextlib.contextmanager
def _page(folder: Path | None) -> Iterator[DetectionPage | None]:
    """The report in `folder`, if one was asked for; only then its libraries are loaded."""
    if folder is None:
        yield None
        return
    from uflow_cli.report import DetectionPage, report_writer

    with report_writer(folder) as writer:
        yield DetectionPage(writer)
