"""The heap of a process that runs for days: what is free goes back."""

from __future__ import annotations

import ctypes
import subprocess
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


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc's malloc"
)
def test_what_is_large_lies_apart_whatever_was_freed_before() -> None:
    for large_apart in (False, True):  # in a process of its own: this cannot be taken back
        program = COUNTED.format(first="keep_large_apart()" if large_apart else "")
        found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        assert found.stdout.split() == (["1", "0"] if large_apart else ["0", "0"])


@pytest.mark.parametrize("command", ["detect", "watch"])
def test_long_runs_keep_it_apart_before_libraries_come(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", STARTED, command, str(tmp_path), "--model", str(tmp_path)]  # where no run is
    found = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (1, "libraries: set()\n")


STARTED = """
import sys
from uflow_cli import memory
from uflow_cli.cli import main
memory.keep_large_apart = lambda: print("libraries:", {"onnxruntime", "torch", "cv2"} & set(sys.modules))
main()
"""
COUNTED = """
import ctypes
from uflow_cli.memory import keep_large_apart
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena free fast mapped bytes a b c d e".split()]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info
bytearray(30_000_000)  # freed at once: from now on glibc takes the heap for all that is smaller
{first}
before = mallinfo2().mapped
table = bytearray(2_000_000)
during = mallinfo2().mapped
del table
print(during - before, mallinfo2().mapped - before)
"""


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
