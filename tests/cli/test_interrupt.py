"""Ctrl-C: once is a wish, twice an order."""

from __future__ import annotations

import signal
import threading

import pytest

from uflow_cli.cli.train import stop_on_interrupt


def test_once_sets_the_event_and_says_so_and_twice_raises():
    said = []
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt(said.append) as event:
        assert not event.is_set()
        signal.raise_signal(signal.SIGINT)
        assert event.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert len(said) == 1
    assert "keeping the best one; press Ctrl-C again" in said[0]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_message_waits_for_what_the_signal_broke_into():
    """A live display's lock may be held by the main thread at that moment; to wait for it there would be for ever."""
    lock, said = threading.Lock(), []

    def warn(message):
        if lock.acquire(timeout=10):
            said.append(message)
            lock.release()

    with stop_on_interrupt(warn), lock:
        signal.raise_signal(signal.SIGINT)
    assert len(said) == 1
