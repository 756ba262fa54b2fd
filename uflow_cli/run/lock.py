"""One training per run folder at a time. The lock is the system's and dies with the process: a kill leaves none."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from uflow_cli.errors import TrainingError

GLANCE = 0.5  # seconds: one who only asks whether a folder is locked holds the lock for a moment


@contextlib.contextmanager
def sole_training(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which exists; TrainingError if another process trains there."""
    with _lock(folder, wait=GLANCE) as is_ours:
        if not is_ours:
            raise TrainingError(f"another process is training in {folder}; wait for it or stop it")
        yield


def is_training(folder: Path) -> bool:
    """Whether a process trains in `folder` at this moment."""
    if not folder.is_dir():
        return False
    with _lock(folder, wait=0.0) as is_ours:
        return not is_ours


@contextlib.contextmanager
def _lock(folder: Path, *, wait: float) -> Iterator[bool]:
    """Whether the lock of `folder` could be had, held until the end if so."""
    if os.name == "nt":  # nothing guards there
        yield True
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(GLANCE / 10)
                    continue
                yield False
                return
            except OSError:  # a file system without locks
                pass
            yield True
            return
    finally:
        os.close(descriptor)
