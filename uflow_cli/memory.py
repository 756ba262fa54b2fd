"""The heap of a process that runs for days."""

from __future__ import annotations

import ctypes
import sys
import time

PERIOD = 60.0  # seconds


class HeapTrimmer:
    """Gives the system back what is free in the heap of glibc, from time to time; other systems keep it.

    Python rebuilds its table of names, 1.8 MiB, every 9,000 images, and small things lie in the hole that the last one
    left, so that the heap grows though no more of it is in use.
    """

    def __init__(self) -> None:
        self._next = time.monotonic() + PERIOD

    def tick(self) -> None:
        """Trim the heap where the last time is a minute ago."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PERIOD
            trim_heap()


def trim_heap() -> None:
    """Give back what is free in the heap, also between things that are in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
