"""What a training leaves in its run folder, after every epoch and at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from uflow_cli.calibration import Calibration
from uflow_cli.run.record import CURVE_NAME, LOG_NAME, Origin, Progress, Run, write_calibration_chart, write_run
from uflow_cli.training.log import Epoch, write_curve, write_log
from uflow_cli.training.state import TrainingState, remove_state


@dataclass(frozen=True)
class TrainingResult:
    """What a training left in its run folder."""

    folder: Path
    origin: Origin
    progress: Progress
    calibration: Calibration
    log: tuple[Epoch, ...]


def publish(folder: Path, state: TrainingState, word: Literal["training", "finished", "stopped", "failed"]) -> None:
    """Make what `state` knows of the best epoch and the log the run in `folder`."""
    assert state.progress is not None
    assert state.calibration is not None
    assert state.weights is not None
    progress = replace(state.progress, state=word)
    digest = state.extractor_digest
    run = Run(folder, state.model, state.training, state.origin, progress, state.calibration, digest, state.weights)
    write_run(run)
    if word != "training":
        write_calibration_chart(run)
    write_log(folder / LOG_NAME, state.log)
    write_curve(folder / CURVE_NAME, state.log, title=f"{state.origin.dataset}/{state.origin.category}")


def end_training(folder: Path, state: TrainingState, *, stopped: bool = False) -> TrainingResult:
    """Say in `folder` that training is over, or `stopped` for one who resumes it."""
    publish(folder, state, "stopped" if stopped else "finished")
    if not stopped:
        remove_state(folder)
    assert state.progress is not None
    assert state.calibration is not None
    progress = replace(state.progress, state="stopped" if stopped else "finished")
    return TrainingResult(folder, state.origin, progress, state.calibration, state.log)
