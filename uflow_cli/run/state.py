"""The state of an unfinished training: one file that is replaced as a whole after every epoch, and gone at the end.

`training.safetensors` holds as tensors the flow, the normalisation and the moments of Adam, and as JSON in its header
all else that the next epoch depends on. What is drawn at random follows from the seed and the epoch's number, so no
generator needs to be kept. Before the first epoch has ended there are no tensors: the seed gives them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from uflow_cli.calibration import Calibration
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.errors import CheckpointError, ImageError, TrainingError, UflowError
from uflow_cli.files import remove, write_bytes
from uflow_cli.images import read_encoded
from uflow_cli.run.log import Epoch, write_log
from uflow_cli.run.record import (
    STATE_NAME,
    Origin,
    Progress,
    Run,
    RunRoi,
    RunState,
    fields_of,
    is_run,
    load_run,
    with_earlier_settings,
    write_calibration_chart,
    write_run,
)
from uflow_cli.schema import FileName, from_dict, record, to_json
from uflow_cli.text import in_one_line


@record
class Split:
    """Indices of the good images by use. `calibration` is `selection` where there are too few to part them.

    `folds`, if any, are parts of `training`, each of which is held out of one more flow that is trained to calibrate.
    """

    training: tuple[int, ...]
    selection: tuple[int, ...]
    calibration: tuple[int, ...]
    folds: tuple[tuple[int, ...], ...] = ()

    @property
    def shared(self) -> bool:
        """Whether the same images choose the epoch and calibrate."""
        return self.selection == self.calibration


@record
class TrainingState:
    """A training after its last good epoch."""

    model: ModelConfig
    training: TrainingConfig
    origin: Origin
    images: tuple[tuple[FileName, str], ...]  # absolute path and SHA-256 of the content
    split: Split
    extractor_digest: str
    sizes: tuple[tuple[int, int], ...] = ()  # of the images, (H, W); none where all are squashed
    rate_share: float = 1.0  # of the learning rate asked for; lower once training has diverged
    log: tuple[Epoch, ...] = ()
    progress: Progress | None = None  # None: no epoch has ended yet; the same for the next two
    calibration: Calibration | None = None
    weights: str | None = None  # file of the best epoch's weights
    groups: tuple[str, ...] = ()  # of each image; none where nothing is known
    roi: RunRoi | None = None
    rois: tuple[tuple[FileName, str], ...] = ()  # of each image that has its own: absolute path and SHA-256
    compiled_features: bool = False  # whether the extractor's graph computes them, and not PyTorch
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
    write_bytes(folder / STATE_NAME, save(tensors, {"state": to_json(state)}), durable=True)


def read_state(folder: Path, *, with_tensors: bool = True) -> tuple[TrainingState, dict[str, Tensor]]:
    """The training state in `folder` and its tensors; CheckpointError if there is none or it is damaged."""
    path = folder / STATE_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no training to resume: {STATE_NAME} is missing; start it anew")
    try:
        with safe_open(path, framework="pt") as file:
            values = fields_of(file.metadata()["state"], path)
            # copies: what it gives is mapped, and would keep the file's room on the disk after its replacement
            tensors = {name: file.get_tensor(name).clone() for name in (file.keys() if with_tensors else ())}
        if any(name.startswith("flow.stages.") for name in tensors):  # moments of Adam in another order
            raise CheckpointError(f"{path} was written by an older uflow; start the training anew with --overwrite")
        values["model"] = with_earlier_settings(values["model"])
        return from_dict(TrainingState, values), tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({in_one_line(error)}); start the training anew with --overwrite"
        ) from error
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


def write_best_epoch(folder: Path, state: TrainingState, word: RunState) -> Run:
    """Make the best epoch of `state` the run in `folder`, with its log."""
    assert state.progress is not None
    assert state.calibration is not None
    assert state.weights is not None
    run = Run(
        folder, state.model, state.training, state.origin, replace(state.progress, state=word), state.calibration,
        state.extractor_digest, state.weights, state.roi,
    )  # fmt: skip
    write_run(run)
    if word != "training":
        write_calibration_chart(run)
    write_log(folder, state.log, title=f"{state.origin.dataset}/{state.origin.category}")
    return run


def remove_state(folder: Path) -> None:
    """Forget the training in `folder`: it is over, or cannot go on."""
    remove(folder / STATE_NAME)


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
            now_digest = hashlib.sha256(read_encoded(Path(path))).hexdigest()
        except ImageError as error:
            raise TrainingError(f"{error}; {advice}") from error
        if now_digest != before[path]:
            raise TrainingError(f"{path} has changed since this training began; {advice}")
        on_progress(done, len(before))
