"""The heap of a process that runs for days."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

PERIOD = 60.0  # seconds
LARGE = 1 << 20  # bytes
M_MMAP_THRESHOLD = -3  # as malloc.h of glibc has it


class HeapTrimmer:
    """Gives the system back what is free in the heap of glibc, from time to time; other systems keep it."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PERIOD

    def tick(self) -> None:
        """Trim the heap where the last time is a minute ago."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PERIOD
            trim_heap()


def keep_large_apart() -> None:
    """Let each thing of `LARGE` bytes or more lie in memory of its own from now on, which goes back when it is free.

    By itself glibc takes the heap for all that is smaller than the largest thing freed so far, up to 32 MiB. Python
    rebuilds its table of names, 1.8 MiB, every 9,000 images, and in the hole that the last one left small things lie:
    the heap would grow though no more of it is in use. It is for programs, as early as can be, not for libraries.
    """
    if set_option := _of_glibc("mallopt"):
        set_option(M_MMAP_THRESHOLD, LARGE)


def trim_heap() -> None:
    """Give back what is free in the heap, also between things that are in use."""
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """The function `name` of the C library; None where it has none of that name."""
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return found
