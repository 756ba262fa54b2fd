"""`uflow check`: does the promise still hold?"""

from __future__ import annotations

from collections.abc import Sequence
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
    Runtime,
    Strict,
    WeightsFiles,
    chosen_run,
    data_of,
    given_images,
    heed,
    require_one_threshold,
)

if TYPE_CHECKING:
    from uflow_cli.run.record import Run

BROKEN_EXIT_CODE = 3


def check(
    images: Annotated[
        list[Path],
        typer.Option("--images", help="Folder of fresh good images, an image, or marks of a report."),
    ],
    model: ModelFolder = None,
    nfa_threshold: NfaThreshold = None,
    false_alarm_rate: FalseAlarmRate = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Then let these images take the place of the run's calibration.")
    ] = False,
    strict: Strict = False,
    json: Json = False,
    fail_if_broken: Annotated[
        bool, typer.Option("--fail-if-broken", help=f"Exit with {BROKEN_EXIT_CODE} if a promise is broken.")
    ] = False,
    weights: WeightsFiles = None,
    device: Device = DEVICE,
    runtime: Runtime = RUNTIME,
) -> None:
    """Say whether a model keeps its promise on false alarms on fresh good images, and if not, why."""
    require_one_threshold(nfa_threshold, false_alarm_rate)

    from uflow_cli.check import check_run
    from uflow_cli.check.judgement import Verdict
    from uflow_cli.cli import console

    run = chosen_run(model, weights=weights)
    given = given_images(_without_marks(images))
    paths = given.images
    heed(given.left_out, _trained(run, paths), strict=strict)
    with console.progress("checking", total=len(paths)) as advance:
        result = check_run(
            run, paths, device=device.value, runtime=runtime.value, nfa_threshold=nfa_threshold,
            false_alarm_rate=false_alarm_rate, recalibrate=recalibrate, on_progress=advance,
        )  # fmt: skip
    console.print_check(result, as_json=json)
    if result.errors:
        raise typer.Exit(1)
    if fail_if_broken and result.verdict is Verdict.BROKEN:
        raise typer.Exit(BROKEN_EXIT_CODE)


def _without_marks(images: Sequence[Path]) -> list[Path]:
    """`images`, for a list of marks that a report saved those that it marks as good after all."""
    from uflow_cli.datasets import good_after_all

    lists = [path for path in images if path.suffix.lower() == ".json"]
    marked = [image for path in lists for image in good_after_all(path)]
    return [*(path for path in images if path not in lists), *marked]


def _trained(run: Run, paths: Sequence[Path]) -> list[str]:
    """A sentence where images at `paths` have the content of those that `run` was trained with."""
    from uflow_cli.datasets import shared_files
    from uflow_cli.errors import UflowError

    try:
        trained = data_of(run.origin).train
    except UflowError:  # they are no longer there
        return []
    pairs = shared_files(paths, [image.path for image in trained])
    if not pairs:
        return []
    return [
        f"{len(pairs)} of {len(paths)} images were used in the training, such as {pairs[0][0]}: "
        "only fresh ones can tell whether the promise holds"
    ]
