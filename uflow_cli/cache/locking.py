"""Locks on open files, so that no run removes what another is using; the system drops them when a process dies.

Where there is no `fcntl` (Windows), nothing is locked: there an open file cannot be removed in the first place.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def lock_shared(descriptor: int) -> bool:
    """Whether the file is now marked as in use; False if somebody is about to remove it."""
    return _lock(descriptor, exclusive=False)


def lock_alone(descriptor: int) -> bool:
    """Whether nobody else uses the file; nobody can begin to until it is closed or `lock_shared`."""
    return _lock(descriptor, exclusive=True)


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for one's turn at what `path`, made if need be, stands for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, exclusive: bool) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
