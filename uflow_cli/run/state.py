"""The state of an unfinished training: one file that is replaced as a whole after every epoch, and gone at the end.

`training.safetensors` holds as tensors the flow, the normalisation and the moments of Adam, and as JSON in its header
all else that the next epoch depends on. What is drawn at random follows from the seed and the epoch's number, so no
generator needs to be kept. Before the first epoch has ended there are no tensors: the seed gives them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from uflow_cli.calibration import Calibration, calibration_from_dict, calibration_to_dict
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.errors import CheckpointError, TrainingError, UflowError
from uflow_cli.files import write_bytes
from uflow_cli.run.log import Epoch, write_log
from uflow_cli.run.record import (
    STATE_NAME,
    Origin,
    Progress,
    Run,
    RunState,
    is_run,
    load_run,
    write_calibration_chart,
    write_run,
)

STATE_FORMAT = 1


@dataclass(frozen=True)
class Split:
    """Indices of the good images by use. `calibration` is `selection` where there are too few to part them."""

    training: tuple[int, ...]
    selection: tuple[int, ...]
    calibration: tuple[int, ...]

    @property
    def shared(self) -> bool:
        """Whether the same images choose the epoch and calibrate."""
        return self.selection == self.calibration


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands after its last good epoch."""

    model: ModelConfig
    training: TrainingConfig
    origin: Origin
    images: tuple[tuple[str, str], ...]  # absolute path and SHA-256 of the content
    split: Split
    extractor_digest: str
    rate_share: float = 1.0  # of the learning rate asked for; lower once training has diverged
    log: tuple[Epoch, ...] = ()
    progress: Progress | None = None  # None: no epoch has ended yet; the same for the next two
    calibration: Calibration | None = None
    weights: str | None = None  # file of the best epoch's weights
    is_recalibrated: bool = False  # the calibration of the best epoch is by fresh images, see `Run.recalibrate`

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done or patience has ended."""
        if self.progress is None:
            return False
        waited = len(self.log) - self.progress.best_epoch
        return len(self.log) >= self.progress.n_epochs or 0 < self.training.patience <= waited


def write_state(folder: Path, state: TrainingState, tensors: dict[str, Tensor]) -> None:
    """Replace the training state in `folder`; UflowError if the disk refuses, and then the old one still stands."""
    values = {"format": STATE_FORMAT, **_without_nan(dataclasses.asdict(state))}
    if state.calibration is not None:
        values["calibration"] = calibration_to_dict(state.calibration)
    write_bytes(folder / STATE_NAME, save(tensors, {"state": json.dumps(values, allow_nan=False)}), durable=True)


def read_state(folder: Path, *, with_tensors: bool = True) -> tuple[TrainingState, dict[str, Tensor]]:
    """The training state in `folder` and its tensors; CheckpointError if there is none or it is damaged."""
    path = folder / STATE_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no training to resume: {STATE_NAME} is missing; start it anew")
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["state"])
            # copies: what it gives is mapped, and would keep the file's room on the disk after its replacement
            tensors = {name: file.get_tensor(name).clone() for name in (file.keys() if with_tensors else ())}
        if int(values.pop("format")) > STATE_FORMAT:
            raise CheckpointError(f"{path} was written by a newer uflow; update uflow to resume this training")
        if any(name.startswith("flow.stages.") for name in tensors):  # moments of Adam in another order
            raise CheckpointError(f"{path} was written by an older uflow; start the training anew with --overwrite")
        return _state_from_dict(values), tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); start the training anew with --overwrite") from error
    except CheckpointError:
        raise
    except UflowError as error:
        raise CheckpointError(f"{path} does not fit this uflow ({error}); start the training anew") from error


def with_recalibration(folder: Path, state: TrainingState) -> TrainingState:
    """`state` with the calibration that the run in `folder` got since `state` was written, where it got one."""
    if not is_run(folder):
        return state
    run = load_run(folder)
    if run.weights != state.weights or run.calibration == state.calibration:
        return state
    return replace(state, calibration=run.calibration, is_recalibrated=True)


def has_state(folder: Path) -> bool:
    """Whether `folder` holds a training that can be resumed."""
    return (folder / STATE_NAME).is_file()


def publish(folder: Path, state: TrainingState, word: RunState) -> Run:
    """Make the best epoch of `state` the run in `folder`, with its log; a finished training leaves no state."""
    assert state.progress is not None
    assert state.calibration is not None
    assert state.weights is not None
    run = Run(
        folder, state.model, state.training, state.origin, replace(state.progress, state=word), state.calibration,
        state.extractor_digest, state.weights,
    )  # fmt: skip
    write_run(run)
    if word != "training":
        write_calibration_chart(run)
    write_log(folder, state.log, title=f"{state.origin.dataset}/{state.origin.category}")
    if word == "finished":
        remove_state(folder)
    return run


def remove_state(folder: Path) -> None:
    """Forget the training in `folder`: it cannot go on."""
    (folder / STATE_NAME).unlink(missing_ok=True)


def require_same_images(
    state: TrainingState, paths: Sequence[Path], *, on_progress: Callable[[int, int], None]
) -> None:
    """TrainingError that names one image and what became of it unless `paths` are those the training began with."""
    advice = "put it right, or start anew with --overwrite"
    before, now = dict(state.images), [str(path.absolute()) for path in paths]
    for path in sorted(set(now) - set(before)):
        raise TrainingError(f"{path} was not there when this training began; {advice}")
    for path in sorted(set(before) - set(now)):
        raise TrainingError(f"{path} is gone since this training began; {advice}")
    for done, path in enumerate(before, start=1):
        try:
            now_digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except OSError as error:
            raise TrainingError(f"{path} cannot be read ({error.strerror or error}); {advice}") from error
        if now_digest != before[path]:
            raise TrainingError(f"{path} has changed since this training began; {advice}")
        on_progress(done, len(before))


def _state_from_dict(values: dict[str, Any]) -> TrainingState:
    return TrainingState(**{
        **values,
        "model": ModelConfig(**values["model"]),
        "training": TrainingConfig(**values["training"]),
        "origin": Origin(**values["origin"]),
        "images": tuple((path, digest) for path, digest in values["images"]),
        "split": Split(**{name: tuple(indices) for name, indices in values["split"].items()}),
        "log": tuple(_epoch(record) for record in values["log"]),
        "progress": Progress(**values["progress"]) if values["progress"] else None,
        "calibration": calibration_from_dict(values["calibration"]) if values["calibration"] else None,
    })  # fmt: skip


def _epoch(values: dict[str, Any]) -> Epoch:
    numbers: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    numbers["mean_squares"] = tuple(math.nan if value is None else value for value in values["mean_squares"])
    return Epoch(**numbers)


def _without_nan(value: Any) -> Any:
    """`value` with null for what is no number: JSON has no word for it."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
