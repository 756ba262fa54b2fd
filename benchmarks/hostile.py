"""Damage to bytes and JSON by a seed, and processes in which a crash, a hang, a write or a start is noticed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uflow_cli.errors import UflowError

GIB = 2**30
STARTS_PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn")
CHANGES_FILES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
Generator = np.random.Generator


def damaged(data: bytes, rng: Generator) -> bytes:
    """`data` (not empty) with a few bits, a slice or its end changed."""
    found = bytearray(data)
    at, n = int(rng.integers(len(found))), int(min(2 ** rng.integers(0, 10), len(found)))
    match int(rng.integers(9)):
        case 0 | 1:
            for place in rng.integers(len(found), size=int(rng.integers(1, 9))):
                found[place] ^= 1 << int(rng.integers(8))
        case 2:
            del found[at:]
        case 3:
            found[at : at + n] = bytes(n)
        case 4:
            found[at : at + n] = b"\xff" * n
        case 5:
            found[at:at] = rng.bytes(n)
        case 6:
            found[at:at] = found[at : at + n]
        case 7:
            del found[at : at + n]
        case _:  # a number of 2, 4 or 8 bytes, where sizes are apt to be
            size = int(rng.choice([2, 4, 8]))
            number = int(rng.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]))
            at = int(rng.integers(min(len(found), 256))) if rng.random() < 0.5 else at
            found[at : at + size] = (number % 256**size).to_bytes(size, "little")
    return bytes(found)


HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, -1e308, 5e-324, 0.1, -0.5,
    float("nan"), float("inf"), -float("inf"), "", "x", "nan", "../../x", "/etc/passwd", "/dev/zero", "\0", "\ud800",
    "bytes:ff", "bytes:zz", "a" * 100_000, "<script>", "$(touch x)", "auto", [], {}, [[]], [0], [1, 2], [[[[1]]]],
    {"a": 1}, {"__class__": "os.system"}, [1e308] * 3, [float("nan")], list(range(2000)),
)  # fmt: skip


def _is_number(value: Any) -> bool:
    """Whether it can be multiplied: no bool, no integer beyond all floats."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def damaged_json(text: str, rng: Generator) -> str:
    """The JSON `text` with a few values replaced, removed, repeated or moved; sometimes no JSON at all."""
    if rng.random() < 0.1:
        return damaged(text.encode(), rng).decode(errors="surrogateescape")
    if rng.random() < 0.01:
        return "[" * 100_000 if rng.random() < 0.5 else '{"a":' * 100_000
    values = json.loads(text)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(values))
        if not places:
            break
        within, key = places[int(rng.integers(len(places)))]
        match int(rng.integers(8)):
            case 0:
                del within[key]
            case 1:
                other, place = places[int(rng.integers(len(places)))]
                within[key] = json.loads(json.dumps(other[place]))
            case 2 if isinstance(within[key], list):
                within[key] = within[key] * int(rng.integers(2, 40))
            case 3 if _is_number(within[key]):
                within[key] = within[key] * float(rng.choice([-1, 0, 1e-30, 1e30, 2, 0.5, 1e300]))
            case 4 if isinstance(within, dict):
                within[f"{key}_"] = within[key]
            case _:
                within[key] = deepcopy(HOSTILE[int(rng.integers(len(HOSTILE)))])
    return json.dumps(values)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container below `value` with every key that it has."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


@dataclass
class Outcome:
    """What came of many cases: how often each word, and the faults in full."""

    words: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    peak_bytes: int = 0  # of memory in one process, over what it had at the start


def run_cases(
    case: Callable[[int], str], seeds: Iterable[int], *, folder: Path, n_workers: int = 1, limit_s: float = 60.0,
    memory: int = 2 * GIB,
) -> Outcome:  # fmt: skip
    """Run `case(seed)`, which names what came of it, in processes forked from this one.

    UflowError and its children are the word "refused". Everything else is a fault: another exception, a death of the
    process, more than `limit_s` seconds, more than `memory` bytes over those of the start, a program that is started,
    and a file that is written outside of `folder`.
    """
    outcome, waiting = Outcome(), list(seeds)
    context = multiprocessing.get_context("fork")
    parts = [waiting[i::n_workers] for i in range(n_workers)]
    while any(parts):
        started = []
        for part in parts:
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(case, part, there, folder, limit_s, memory))
            process.start()
            there.close()
            started.append((process, here, part))
        parts = []
        for process, here, part in started:
            done = 0
            with contextlib.suppress(EOFError):
                while done < len(part):
                    word, fault, peak = here.recv()
                    done += 1
                    outcome.words[word] += 1
                    outcome.peak_bytes = max(outcome.peak_bytes, peak)
                    outcome.faults += [f"case {part[done - 1]}: {fault}"] if fault else []
            process.join()
            if done < len(part):  # the process died at this one
                signalled = signal.Signals(-process.exitcode).name if (process.exitcode or 0) < 0 else process.exitcode
                word = "hung" if signalled == "SIGALRM" else "died"
                outcome.words[word] += 1
                outcome.faults.append(f"case {part[done]}: {word} ({signalled})")
                parts.append(part[done + 1 :])
    return outcome


def _work(case: Callable[[int], str], seeds: list[int], pipe: Any, folder: Path, limit_s: float, memory: int) -> None:
    os.environ["TMPDIR"] = str(folder)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the process, whatever native code is doing
    start = _memory_in_use()
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + memory, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    place, broken = str(folder.resolve()), []

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event in STARTS_PROGRAMS:
            broken.append(f"{event} {args!r}"[:200])
        elif event == "open" and isinstance(args[0], str | bytes) and _writes(args):
            path = os.path.realpath(os.fsdecode(args[0]))
            if not path.startswith((place, "/dev/")):
                broken.append(f"writes {path}")
        elif event in CHANGES_FILES and isinstance(args[0], str | bytes):
            path = _place(os.fsdecode(args[0]), args[-1])
            if not path.startswith(place):
                broken.append(f"{event} {path}")

    sys.addaudithook(watch)
    for seed in seeds:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        fault = ""
        try:
            word = case(seed)
        except UflowError as error:
            word = "refused"
            if "\n" in str(error) or not str(error):
                fault = f"not one line: {error}"
        except BaseException as error:
            word = "raised"
            fault = "".join(traceback.format_exception(error)[-3:])
        signal.setitimer(signal.ITIMER_REAL, 0)
        if broken:
            word, fault = "broke out", "; ".join(broken)
            broken.clear()
        pipe.send((word, fault, max(0, _memory_in_use() - start)))
    os._exit(0)


def _place(path: str, folder: object) -> str:
    """The real folder of `path`, which may be relative to the open `folder`, and its name."""
    base = Path(f"/proc/self/fd/{folder}").readlink() if isinstance(folder, int) and folder >= 0 else Path()
    return str((base / path).parent.resolve() / Path(path).name)


def _writes(args: tuple[Any, ...]) -> bool:
    mode, flags = args[1], args[2]
    return (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or bool(
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )


def _memory_in_use() -> int:
    """The most that this process ever had in memory, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def told(outcome: Outcome) -> str:
    """One line of counts, and the first lines of every kind of fault."""
    lines = [", ".join(f"{n} {word}" for word, n in sorted(outcome.words.items())) or "nothing"]
    kinds: dict[str, list[str]] = {}
    for fault in outcome.faults:
        kinds.setdefault(fault.partition(": ")[2].strip().rpartition("\n")[2][:120], []).append(fault)
    lines += [f"  {len(found)} x {found[0]}" for found in kinds.values()]
    return "\n".join(lines)
