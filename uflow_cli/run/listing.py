"""The runs below a folder as a list: the data, the progress and the promise of each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import filter as filter_names
from pathlib import Path
from typing import Any

from uflow_cli.errors import CheckpointError, UflowError
from uflow_cli.run.lock import is_training
from uflow_cli.run.log import LOG_NAME
from uflow_cli.run.record import CONFIG_NAME, STATE_NAME, WEIGHTS_PATTERN, Run, is_run, load_run

TRACES = (CONFIG_NAME, LOG_NAME, STATE_NAME, WEIGHTS_PATTERN)  # files that training writes
UNFINISHED = ("training", "stopped", "failed")


@dataclass(frozen=True)
class ListedRun:
    """A run folder. `run` is None where it is damaged, and where no epoch has ended yet.

    `state`: "finished", "stopped", "failed"; "training", which a process does at this moment; "interrupted", which a
    process did until it was killed; "damaged", for which `problem` says why.
    """

    folder: Path
    state: str
    modified: datetime
    n_bytes: int
    run: Run | None = None
    problem: str = ""


def list_runs(roots: Sequence[Path]) -> list[ListedRun]:
    """All runs in and below `roots`, the newest first; UflowError for a root that is no folder."""
    found: dict[Path, ListedRun] = {}
    for root in roots:
        if not root.is_dir():
            raise UflowError(f"{root}: no such folder; name folders that hold runs of `uflow train`")
        for folder in _run_folders(root):
            found.setdefault(folder.resolve(), _listed(folder))
    return sorted(found.values(), key=lambda listed: (listed.modified, str(listed.folder)), reverse=True)


def runs_to_dict(runs: Sequence[ListedRun]) -> dict[str, Any]:
    """JSON-ready mapping without version of a list of runs."""
    return {"runs": [_to_dict(listed) for listed in runs]}


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        if _is_run_folder(Path(folder), files):
            yield Path(folder)


def _is_run_folder(folder: Path, names: Sequence[str]) -> bool:
    """Whether `folder`, which holds files of `names`, is or was a run's; other programs write a config.json too."""
    return STATE_NAME in names or bool(filter_names(names, WEIGHTS_PATTERN)) or is_run(folder)


def _listed(folder: Path) -> ListedRun:
    modified, n_bytes = _modified(folder), _size(folder)
    if not (folder / CONFIG_NAME).is_file() and (folder / STATE_NAME).is_file():
        state = "training" if is_training(folder) else "interrupted"
        return ListedRun(folder, state, modified, n_bytes)
    try:
        run = load_run(folder)
    except (CheckpointError, OSError) as error:
        return ListedRun(folder, "damaged", modified, n_bytes, problem=str(error))
    state = run.progress.state
    if state in UNFINISHED and is_training(folder):
        state = "training"
    elif state == "training":
        state = "interrupted"
    return ListedRun(folder, state, modified, n_bytes, run)


def _modified(folder: Path) -> datetime:
    """The time when training last wrote there; opening or copying single files later does not count."""
    written = [0.0]
    for path in (path for name in TRACES for path in folder.glob(name)):
        with contextlib.suppress(OSError):  # gone meanwhile: a training replaces its files
            written.append(path.stat().st_mtime)
    return datetime.fromtimestamp(max(written), tz=UTC)


def _size(folder: Path) -> int:
    """Bytes of the files in and below `folder`, without runs below it, which are runs of their own."""
    total = 0
    for place, below, files in os.walk(folder):
        if place != str(folder) and _is_run_folder(Path(place), files):
            below.clear()
        else:
            total += sum(_file_size(Path(place, name)) for name in files)
    return total


def _file_size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # gone meanwhile: a training replaces its files
        return 0


def _to_dict(listed: ListedRun) -> dict[str, Any]:
    run = listed.run
    values: dict[str, Any] = {
        "folder": str(listed.folder),
        "state": listed.state,
        "modified": listed.modified.isoformat(timespec="seconds"),
        "bytes": listed.n_bytes,
        "problem": listed.problem,
    }
    if run is None:
        return values
    origin, progress, calibration = run.origin, run.progress, run.calibration
    return values | {
        "dataset": origin.dataset,
        "category": origin.category,
        "preset": run.training.preset,
        "caveat": run.caveat,
        "extractor": run.model.extractor,
        "images": origin.n_images,
        "epochs_done": progress.epochs_done,
        "epochs": progress.n_epochs,
        "best_epoch": progress.best_epoch,
        "held_out_loss": progress.held_out_loss,
        "mean_ratio": list(calibration.mean_ratio),
        "smallest_false_alarm_rate": calibration.smallest_rate if calibration.n_images else None,
    }
