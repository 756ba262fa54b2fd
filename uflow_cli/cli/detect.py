"""`uflow detect`: find defects in images."""

from __future__ import annotations

import contextlib
from enum import StrEnum
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
    Json,
    JsonLines,
    ModelFolder,
    NfaThreshold,
    Quiet,
    RegionOfInterest,
    ResultFolder,
    Runtime,
    Strict,
    WeightsFiles,
    WithMasks,
    WithOverlays,
    chosen_run,
    given_images,
    heed,
    lines_to,
    require_one_threshold,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uflow_cli.report import DetectionPage

DEFECT_EXIT_CODE = 3


class EngineName(StrEnum):
    """Who computes: this process, or those of a cluster."""

    local = "local"
    ray = "ray"


def detect(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE... | DIR | 'PATTERN' | -",
            help="Images, folders with all images in them, patterns such as 'parts/**/*.png', or - for names on stdin.",
        ),
    ],
    model: ModelFolder = None,
    nfa_threshold: NfaThreshold = None,
    false_alarm_rate: FalseAlarmRate = None,
    out: ResultFolder = RESULTS,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in --out; what is done and unchanged is skipped.")
    ] = False,
    masks: WithMasks = True,
    overlays: WithOverlays = True,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Also write an HTML page with all images to this folder or FILE.html."),
    ] = None,
    roi: RegionOfInterest = None,
    strict: Strict = False,
    json: Json = False,
    jsonl: JsonLines = None,
    rle: Annotated[
        bool, typer.Option("--rle", help="Also put each mask into the JSON, as COCO run lengths (extra coco).")
    ] = False,
    quiet: Quiet = False,
    fail_on_defect: Annotated[
        bool, typer.Option("--fail-on-defect", help=f"Exit with {DEFECT_EXIT_CODE} if any image has a defect.")
    ] = False,
    weights: WeightsFiles = None,
    device: Device = DEVICE,
    runtime: Runtime = RUNTIME,
    engine: Annotated[
        EngineName, typer.Option("--engine", help="ray shares the images out to a Ray cluster (extra ray).")
    ] = EngineName.local,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            metavar="<int>",
            show_default="one per GPU, or per machine",
            help="Processes of --engine ray.",
        ),
    ] = None,
) -> None:
    """Say of each image whether it is good, where its defects are, and how sure that is."""
    from uflow_cli.cli import console

    require_one_threshold(nfa_threshold, false_alarm_rate)
    if json and jsonl == STDOUT:
        raise typer.BadParameter("stdout takes the lines or the whole result, not both", param_hint="'--jsonl'")
    if workers is not None and engine is not EngineName.ray:
        raise typer.BadParameter("workers belong to --engine ray; give that too", param_hint="'--workers'")

    from uflow_cli.memory import keep_large_apart

    keep_large_apart()  # before the libraries fill the heap
    from uflow_cli.detect import detect_images
    from uflow_cli.results import broken_off

    run = chosen_run(model, weights=weights, quiet=quiet)
    given = given_images(images, quiet=quiet)
    heed(given.left_out, strict=strict)
    if not (quiet or resume) and (n_lost := broken_off(out)):
        console.note(
            f"beginning anew; {out} held {n_lost} results of a detection broken off, which --resume goes on with"
        )
    is_stored = resume or engine is EngineName.ray  # what a report shows lies on the disk alone
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(_page(None if is_stored else report))
        tell = stack.enter_context(lines_to(jsonl))
        bar = stack.enter_context(console.progress("detecting", total=len(given.images), quiet=quiet))

        def done_before(n: int, n_outdated: int) -> None:
            bar.skip(n)
            if resume and not quiet:
                outdated = f", {n_outdated} are done again, for something has changed" if n_outdated else ""
                console.note(f"{n} of {len(given.images)} images are done{outdated}")

        try:
            result = detect_images(
                run, given.images, out=out, base=given.base, resume=resume, device=device.value, runtime=runtime.value,
                nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate, masks=masks, overlays=overlays, rle=rle,
                roi=roi, engine=engine.value, n_workers=workers, on_done_before=done_before, on_progress=bar,
                on_line=tell, on_prediction=page.add if page else lambda _path, _prediction: None,
            )  # fmt: skip
        except KeyboardInterrupt:
            console.note(f"broken off; results so far are in {out}, and --resume goes on")
            raise
        shown = page.finish(run, result) if page else None
    if report and is_stored:
        from uflow_cli.report import report_stored, report_writer

        with report_writer(report) as writer:
            shown = report_stored(result, writer)
    if shown and not quiet:
        console.note(f"report to look at: {shown}")
    console.print_detections(result, as_json=json, table=not quiet and jsonl != STDOUT)
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
