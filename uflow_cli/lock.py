"""One training per run folder at a time. The lock is the system's and dies with the process: a kill leaves none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from uflow_cli.errors import TrainingError


@contextlib.contextmanager
def sole_training(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which exists; TrainingError if another process trains there."""
    if os.name == "nt":  # nothing guards there
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"another process is training in {folder}; wait for it or stop it") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def is_training(folder: Path) -> bool:
    """Whether a process trains in `folder` at this moment."""
    try:
        with sole_training(folder):
            return False
    except TrainingError:
        return True
    except OSError:
        return False
