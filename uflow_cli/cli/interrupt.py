"""Ctrl-C during long work: once finishes the step in hand, twice stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_on_interrupt(warn: Callable[[str], None], *, also: str = "") -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, with `also` in what it says; a second raises KeyboardInterrupt."""
    event = threading.Event()
    message = f"stopping after this epoch, keeping the best one{also}; press Ctrl-C again to stop at once"
    # In a thread of its own: what it prints to may be locked by the very code that the signal broke into.
    messenger = threading.Thread(target=warn, args=(message,), daemon=True)

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        messenger.start()

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
        if event.is_set():
            messenger.join()
