"""The heap of a process that runs for days: what is free goes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from uflow_cli import memory
from uflow_cli.memory import HeapTrimmer, trim_heap


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and trims the heap of glibc")
def test_free_memory_goes_back_though_a_few_things_in_between_live_on() -> None:
    things = [bytearray(1000) for _ in range(100_000)]
    kept = things[::100]
    del things
    before = resident_bytes()
    trim_heap()
    assert before - resident_bytes() > 50e6
    assert len(kept) == 1000


def test_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, trimmed = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(memory, "trim_heap", lambda: trimmed.append(now[0]))
    heap = HeapTrimmer()
    for now[0] in (100.0, 159.0, 160.0, 161.0, 500.0, 559.0, 561.0):
        heap.tick()
    assert trimmed == [160.0, 500.0, 561.0]


def resident_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])
