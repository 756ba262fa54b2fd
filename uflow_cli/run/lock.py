"""One training per run folder at a time. The lock is the system's and dies with the process: a kill leaves none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from uflow_cli.errors import TrainingError, UflowError
from uflow_cli.files import discard, remove_litter

LOCK_NAME = "training.lock"  # the file that a kill leaves is empty and locked by nobody
GLANCE = 0.5  # seconds: a process that only asks whether a folder is locked holds the lock for a moment


@contextlib.contextmanager
def sole_training(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which exists; TrainingError if another process trains there."""
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=GLANCE, poll_interval=GLANCE / 10)
    except Timeout as error:
        raise TrainingError(f"another process is training in {folder}; wait for it or stop it") from error
    except OSError as error:
        raise UflowError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder or free its disk"
        ) from error
    try:
        yield
    finally:
        # while it is locked: FileLock tells a removed file from a new one; Windows keeps open ones
        discard(folder / LOCK_NAME)
        lock.release()


def remove_traces(folder: Path) -> None:
    """Remove what a kill in the last moment of a training left beside the finished run in `folder`, if that can be."""
    with contextlib.suppress(UflowError), sole_training(folder):
        remove_litter(folder)


def is_training(folder: Path) -> bool:
    """Whether a process trains in `folder` at this moment."""
    if not (folder / LOCK_NAME).exists():
        return False
    try:
        with FileLock(folder / LOCK_NAME, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that may only be read
        return False
