"""Run folders: weights as safetensors, everything else as JSON, never pickle.

- `config.json`: version of the schema, configuration, progress, calibration and the name of the weights file;
- `flow-<epoch>-<digest>.safetensors`: flow and normalisation of the best epoch;
- `<network>-<digest>.safetensors`: the extractor's weights, of a run that was imported;
- `log.csv`, a line per epoch, and `loss.svg`, a picture of it, see `run.log`;
- `calibration.svg`, a picture of the calibration, once training is over;
- `roi-<digest>.png`, the mask of the pixels that count, where one was given;
- `suspicious.csv`, good images that look defective, where there are some, see `run.suspects`;
- `config.before-recalibration.json`, where fresh images have replaced the calibration;
- `training.safetensors`: what `--resume` needs, see `run.state`; there until training is over.

All but the last are there from the first epoch on. After an epoch these are written: the weights if it is the best one,
under a name that no other content has; the state; `config.json`, which makes the weights current, whereupon older ones
go; the log. Each file is replaced in one step, so a run folder is whole at every moment, and a resumed training puts
right what a kill left undone.

Only what touches weights imports torch, and does so itself: what a run says can be read without waiting for it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from uflow_cli.calibration import Calibration, calibration_chart
from uflow_cli.charts import svg_file
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.errors import CheckpointError, UflowError
from uflow_cli.files import discard, is_file_name, remove_litter, write_bytes, write_text
from uflow_cli.images import EVERYWHERE, Rois, read_encoded, read_roi
from uflow_cli.schema import FileName, from_dict, parse_json, record, refuse_newer, to_json
from uflow_cli.text import in_one_line, shortened

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uflow_cli.model import Model

RunState = Literal["training", "finished", "stopped", "failed"]

CONFIG_NAME = "config.json"
GRAPH_NAME = "graph.json"  # see `run.graph`
STATE_NAME = "training.safetensors"
PAPER_EXACT_CAVEAT = (
    "paper-exact: the published procedure, selected on the test set and not calibrated; for comparisons only"
)
IMPORTED_CAVEAT = (
    "published weights, which their authors selected on the test set: measures on that test set are too good"
)
CALIBRATION_CHART_NAME = "calibration.svg"
BEFORE_RECALIBRATION_NAME = "config.before-recalibration.json"
BEFORE_FUSION: dict[str, Any] = {"merge": "min", "gaussian": False}  # settings of runs that do not have them, and
BEFORE_NEIGHBOURS: dict[str, Any] = {"neighbours": 0, "flow_share": 0.75}  # of those that came later
WEIGHTS_PATTERN = "flow-*.safetensors"
ROI_PATTERN = "roi-*"
DIGEST = re.compile(r"-([0-9a-f]{12})\.safetensors$")  # of the content, see `save_weights`
KEYS = {"weights", "origin", "extractor_digest"}  # tell a run's configuration from other programs'


@record
class Origin:
    """The origin of a run's images, and how many were used for each purpose."""

    dataset: FileName
    category: FileName
    n_training: int
    n_selection: int
    n_calibration: int
    root: FileName | None = None  # absolute; the folder of the data set ...
    good: FileName | None = None  # ... or of the good images, where there is no data set
    version: str | None = None  # of uflow, when training began; None in runs that do not say
    n_groups: int = 0  # of the good images, see `datasets.groups_of`; 0 where nothing is known
    held_out_groups: tuple[str, ...] = ()  # that trained nothing
    excluded: tuple[FileName, ...] = ()  # absolute paths of good images that were not to be trained on
    n_flows: int = 1  # trained, each without another part of the images, so that all of them calibrate; one is kept
    imported: FileName | None = None  # the published checkpoint, where nothing was trained here

    @property
    def n_images(self) -> int:
        """Good images in all; those that chose the epoch and calibrated too count once.

        Where these are different images, at least twice as many calibrate as choose the epoch: see `split_images`.
        """
        same = self.n_selection == self.n_calibration
        return self.n_training + self.n_selection + (0 if same else self.n_calibration)


@record
class Progress:
    """The progress of a training, and the epoch whose weights are kept."""

    epochs_done: int
    best_epoch: int
    held_out_loss: float | None  # bits per dimension at the best epoch; None where no images are held out
    state: RunState
    n_epochs: int  # planned
    criterion: str  # that chose the epoch, in words
    value: float  # of the criterion at the best epoch


@record
class RunRoi:
    """The region of interest that a run was trained with: a mask in its folder, or one beside each image."""

    file: FileName | None  # None: beside each image
    sha256: str | None

    def opened(self, folder: Path) -> Rois:
        """The mask for all images from the run's `folder`, or those beside them; CheckpointError if it is damaged."""
        if self.file is None:
            return Rois(is_needed=True, hides=True)
        path = folder / Path(self.file).name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); restore it") from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise CheckpointError(f"{path} is damaged: its checksum is another; restore it, or train again")
        return Rois(read_roi(path), name=path.name, hides=True)


def with_earlier_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `model` of a run, those that came later as they were before there was a choice."""
    return {**BEFORE_NEIGHBOURS, **model, **({} if "merge" in model else BEFORE_FUSION)}


def keep_roi(path: Path, folder: Path) -> RunRoi:
    """Copy the mask at `path` into the run's `folder`, under a name that no other content has."""
    data = read_encoded(path)
    digest = hashlib.sha256(data).hexdigest()
    name = f"roi-{digest[:12]}{path.suffix.lower()}"
    write_bytes(folder / name, data, durable=True)
    return RunRoi(name, digest)


@record
class Run:
    """A run folder without its weights; all but `folder` is in `config.json`."""

    folder: Annotated[Path, Field(exclude=True)]
    model: ModelConfig
    training: TrainingConfig
    origin: Origin
    progress: Progress
    calibration: Calibration
    extractor_digest: str
    weights: str
    roi: RunRoi | None = None  # the pixels that count; None: all, but where a mask lies beside an image

    def rois(self, other: Path | None = None) -> Rois:
        """The pixels that count in any image: by the mask at `other`, or by what the run was trained with.

        ImageError for a mask that cannot be read or marks nothing, CheckpointError where the run's own is damaged.
        """
        if other is not None:
            is_own = self.roi is not None and hashlib.sha256(read_encoded(other)).hexdigest() == self.roi.sha256
            return Rois(read_roi(other), name=str(other), hides=is_own)
        return EVERYWHERE if self.roi is None else self.roi.opened(self.folder)

    @property
    def caveat(self) -> str | None:
        """A reason not to compare this run's measures with those of others; None where there is none."""
        if self.model.paper_exact:
            return PAPER_EXACT_CAVEAT
        return IMPORTED_CAVEAT if self.origin.imported else None

    def recalibrate(self, calibration: Calibration) -> Run:
        """The run with `calibration`, of fresh good images, in place of its own, also in its folder; all else stays.

        What the folder said before stays in `config.before-recalibration.json`. TrainingError while a process trains
        there, CheckpointError if the run has become another one meanwhile.
        """
        from uflow_cli.run.graph import other_configuration
        from uflow_cli.run.lock import sole_training  # its library would be a twentieth of the start of detection

        with sole_training(self.folder):
            remove_litter(self.folder)
            now = load_run(self.folder)
            if now.weights != self.weights:
                raise CheckpointError(f"{self.folder} holds another epoch by now; check it again")
            run = replace(now, calibration=calibration)
            with other_configuration(run):
                write_bytes(self.folder / BEFORE_RECALIBRATION_NAME, (self.folder / CONFIG_NAME).read_bytes())
                write_run(run)
            write_calibration_chart(run)
        return run


def save_weights(folder: Path, model: Model, *, epoch: int) -> str:
    """Write what training sets in `model`, and give the file's name, which tells the epoch and the content.

    So a run that replaces another never writes to a file that the other's configuration names.
    """
    from safetensors.torch import save

    data = save(model.state_dict())
    name = f"flow-{epoch:04d}-{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
    write_bytes(folder / name, data, durable=True)
    return name


def write_run(run: Run) -> None:
    """Make `run` what its folder says; UflowError if the disk refuses, and then the folder says what it said before."""
    write_text(run.folder / CONFIG_NAME, to_json(run), durable=True)
    for stale in run.folder.glob(WEIGHTS_PATTERN):
        if stale.name != run.weights:
            discard(stale)
    for stale in run.folder.glob(ROI_PATTERN):
        if run.roi is None or stale.name != run.roi.file:
            discard(stale)


def write_calibration_chart(run: Run) -> None:
    """Draw the calibration of `run` into its folder; nothing where no images were held out."""
    chart = calibration_chart(run.calibration)
    if chart:
        title = f"{run.origin.dataset}/{run.origin.category}: {run.calibration.n_images} held-out good images"
        write_text(run.folder / CALIBRATION_CHART_NAME, svg_file(chart, title=title))


def load_run(folder: Path, *, weights: Sequence[str] | None = None) -> Run:
    """The run in `folder`; CheckpointError if it is missing, incomplete, damaged or of a newer uflow.

    `weights` are files of the extractor to use instead of those that the run remembers.
    """
    values = _read_config(folder)
    try:
        _require_known_method(values, folder / CONFIG_NAME)
        values["model"] = with_earlier_settings(values["model"])
        run = replace(from_dict(Run, {**values, "folder": ""}), folder=folder)
        run = replace(run, calibration=replace(run.calibration, log_lot=run.model.log_lot))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_NAME} is damaged ({in_one_line(error)}); train again") from error
    except CheckpointError:
        raise
    except UflowError as error:  # the same format, but settings that came later
        raise CheckpointError(
            f"{folder / CONFIG_NAME} does not fit this uflow ({error}); update uflow to use this model, or train again"
        ) from error
    if not is_file_name(run.weights):
        raise CheckpointError(
            f"{folder / CONFIG_NAME} names weights in another folder, or that no file can be called, "
            f"{shortened(run.weights)}; train again"
        )
    weights = weights or _moved_weights(run)
    if weights:
        run = replace(run, model=replace(run.model, weights=tuple(weights)).located())
    if not (folder / run.weights).is_file() and not (folder / GRAPH_NAME).is_file():
        raise CheckpointError(
            f"model folder {folder} is incomplete: {run.weights} is missing; train again or restore it"
        )
    return run


def _require_known_method(values: dict[str, Any], path: Path) -> None:
    """CheckpointError for a run of the first days, whose calibration is of another method than detection has now."""
    calibration = values["calibration"]
    if "curves" not in calibration or "area_exponent" not in (calibration.get("fusion") or {"area_exponent": None}):
        raise CheckpointError(f"{path} was written by an early uflow, which calibrated otherwise; train again")


def _moved_weights(run: Run) -> list[str]:
    """The extractor's weights in the folder of `run`, where they were when it was made and came along with it."""
    files = [run.folder / Path(file).name for file in run.model.weights or ()]
    gone = any(not Path(file).exists() for file in run.model.weights or ())
    return [str(file) for file in files] if gone and all(file.is_file() for file in files) else []


def load_model(run: Run, *, device: torch.device) -> Model:
    """The model of `run` on `device`, in eval mode; CheckpointError if the weights do not fit."""
    from uflow_cli.model import build_model

    path = run.folder / run.weights
    if not path.is_file():  # a folder made for another machine
        raise CheckpointError(f"{run.folder} has a graph but no weights: it is for --runtime onnx; name the run itself")
    tensors = read_flow(path)
    model = build_model(run.model, device=device)
    if model.extractor.digest != run.extractor_digest:
        raise CheckpointError(
            f"model folder {run.folder} was trained on other weights of {run.model.extractor} than are here; "
            "name those with --weights, or train again"
        )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model that {CONFIG_NAME} describes; train again") from error
    model.flow.eval()
    return model


def read_flow(path: Path) -> dict[str, Tensor]:
    """What `save_weights` wrote to `path`; CheckpointError if it is damaged or not what its name tells."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        told = DIGEST.search(path.name)
        if told and not hashlib.sha256(data).hexdigest().startswith(told[1]):
            raise CheckpointError(f"{path} is damaged: its checksum is not that of its name; train again or restore it")
        return load(data)
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged ({in_one_line(error)}); train again or restore it") from error


def find_newest_run(root: Path) -> Path:
    """The run folder below `root` that was written last; CheckpointError if there is none."""
    configs = sorted(root.rglob(CONFIG_NAME), key=lambda path: path.stat().st_mtime, reverse=True)
    newest = next((path.parent for path in configs if is_run(path.parent)), None)
    if newest is None:
        raise CheckpointError(f"no model below {root}; train one with `uflow train`, or name one with --model RUN")
    return newest


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a run: a configuration that is ours by its keys, or by the weights beside it."""
    if not (folder / CONFIG_NAME).is_file():
        return False
    if any(folder.glob(WEIGHTS_PATTERN)):
        return True
    try:
        values = parse_json((folder / CONFIG_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.keys() >= KEYS


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not folder.is_dir():
        raise CheckpointError(f"model folder {folder} does not exist; name a folder that `uflow train` wrote")
    if not path.is_file():
        raise CheckpointError(
            f"model folder {folder} is incomplete: {CONFIG_NAME} is missing; name a folder that `uflow train` wrote"
        )
    try:
        return fields_of(path.read_text(encoding="utf-8"), path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: it is not a run configuration; train again or restore it") from error


def fields_of(text: str, path: Path) -> dict[str, Any]:
    """The fields of a record in the JSON `text` of a run folder's file `path`, of this version or an earlier one.

    CheckpointError for a later version, ValueError for what has none.
    """
    values = parse_json(text)
    if not isinstance(values, dict):
        raise ValueError("it is no record")
    version = values.pop("version", None) or values.pop("format", None)  # `format` was 1 in all runs that have one
    if not isinstance(version, int):
        raise ValueError("it has no version")
    refuse_newer(version, path, kind=CheckpointError)
    return values
