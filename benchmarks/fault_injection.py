"""Commands in processes in which a fault strikes where they touch the disk, and whether what they left is whole."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import safe_open

import uflow_cli.export
import uflow_cli.report
import uflow_cli.training
from uflow_cli.cli import main as uflow
from uflow_cli.images import read_image
from uflow_cli.run.graph import find_graph, load_engine
from uflow_cli.run.record import CONFIG_NAME, load_run, read_flow
from uflow_cli.run.state import read_state

assert all((uflow_cli.export, uflow_cli.report, uflow_cli.training))  # imported for the processes to come

CLOCK = ("seconds", "images_per_second", "seconds_per_image")
PATIENCE = 120.0  # seconds
ERRORS = {"full": errno.ENOSPC, "readonly": errno.EROFS}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")
ROOM_IS_FREED_BY = ("os.remove", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Fault:
    """What strikes at the `number`-th change of a file below `folder`; 0: nothing does, changes are only counted."""

    kind: str  # kill, full or readonly
    number: int
    folder: Path


def arm(fault: Fault, count: Any) -> None:
    """Let `fault` strike in this process and those forked from it, which share the `count` of changes."""

    def concerned(event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, flags = arguments[0], arguments[2] or 0
            return not isinstance(path, int) and bool(flags & WRITING) and is_below(path)
        return event in CHANGES and (isinstance(arguments[0], int) or is_below(arguments[0]))

    def is_below(path: Any) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith(str(fault.folder))  # noqa: PTH100 - no calls of pathlib

    def strike(event: str, arguments: tuple[Any, ...]) -> None:
        if not concerned(event, arguments):
            return
        with count.get_lock():
            count.value += 1
            strikes = 0 < fault.number <= count.value
        if not strikes or (fault.kind == "full" and event in ROOM_IS_FREED_BY):
            return
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = ERRORS[fault.kind]
        raise OSError(number, os.strerror(number), os.fsdecode(arguments[0]) if event == "open" else None)

    sys.addaudithook(strike)


def run(arguments: Sequence[str], output: Path, fault: Fault, count: Any, address: str | None) -> None:
    """`uflow ARGUMENTS` in this process, which writes to `output`, with `fault`; data sets are at `address`."""
    torch.set_num_threads(1)
    os.environ["UFLOW_CACHE_DIR"] = str(fault.folder / "cache")
    with output.open("a", buffering=1) as stream, mock.patch.object(sys, "argv", ["uflow", *arguments]):
        sys.stdout = sys.stderr = stream
        fork = multiprocessing.get_context("fork")  # for the workers of `evaluate --category all`: they inherit all
        arm(fault, count)
        with mock.patch.object(multiprocessing, "get_context", return_value=fork):
            if address is None:
                uflow()
            else:
                from uflow_cli import download

                known = download.Source("mvtec", "Parts", (address,), "none", True, "here", "here", "parts.tar")
                with mock.patch.object(download, "sources", return_value={"mvtec": known}):
                    uflow()


@dataclass(frozen=True)
class Scenario:
    """A command, what there is before it, and what must be true afterwards. All of it lies in one folder."""

    name: str
    begin: Callable[[Path], None]  # fills the folder
    arguments: Callable[[Path], Sequence[object]]  # that a user gives, at first and again
    is_done: Callable[[Path], bool] | None = None  # when a command that does not end by itself may be ended
    outcome: Callable[[Path], object] = lambda folder: without_clock(contents(folder))
    leaves_litter: bool = False  # hidden files that a kill left under a temporary name may stay
    address: str | None = None
    n_products: int = 1  # each of which may fail by itself, in a line of its own


class Stage:
    """Processes that run commands, and where they say what they say."""

    def __init__(self, output: Path) -> None:
        self.output = output
        context = multiprocessing.get_context("forkserver")
        assert isinstance(context, ForkServerContext)
        context.set_forkserver_preload([__name__])
        self.context = context

    def start(self, scenario: Scenario, folder: Path, fault: Fault | None = None) -> tuple[BaseProcess, Any]:
        """Start the command, and give its process and the count of what it does to files."""
        self.output.write_text("")
        count = self.context.Value("i", 0)
        words = [str(word) for word in scenario.arguments(folder)]
        fault = fault or Fault("kill", 0, folder)
        process = self.context.Process(target=run, args=(words, self.output, fault, count, scenario.address))
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):  # 3.11 needs it
            process.start()
        return process, count

    def finish(self, scenario: Scenario, folder: Path, process: BaseProcess) -> int:
        """Wait for the end of the command, and give its exit code."""
        end = time.monotonic() + PATIENCE
        while process.exitcode is None:
            assert time.monotonic() < end, f"{scenario.name} hangs: {self.said}"
            if scenario.is_done and scenario.is_done(folder):
                os.kill(process.pid or 0, signal.SIGTERM)
                process.join(PATIENCE)
            process.join(0.02 if scenario.is_done else PATIENCE)
        return process.exitcode

    def all(self, scenario: Scenario, folder: Path) -> int:
        """Run the command to its end, and give the number of its changes of files."""
        process, count = self.start(scenario, folder)
        code = self.finish(scenario, folder, process)
        assert code == 0, f"{scenario.name} ended with {code}: {self.said}"
        return int(count.value)

    @property
    def said(self) -> str:
        """What the last command said."""
        return self.output.read_text()


def contents(folder: Path) -> dict[str, bytes]:
    """All files below `folder`, hidden ones too, without what names the folder itself; the cache by its names."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(("cache/lock", "cache/in-use/")):
            data = b"" if name.startswith("cache/") else path.read_bytes()
            found[name] = data.replace(os.fsencode(folder), b"FOLDER")
    return found


def without_clock(files: dict[str, bytes]) -> dict[str, bytes]:
    """`files` without what the clock says in logs and records."""
    told = dict(files)
    for name, data in files.items():
        if name.endswith("log.csv"):
            head, *rows = [line.split(",") for line in data.decode().splitlines()]
            kept = [i for i, title in enumerate(head) if title not in CLOCK]
            told[name] = "\n".join(",".join(row[i] for i in kept) for row in rows).encode()
        elif name.endswith(("evaluation.csv", "evaluation.md")):
            told[name] = b"\n".join(line for line in data.splitlines() if b"seconds per image" not in line)
        elif name.endswith(".json") and data:
            told[name] = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
    return told


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in (*CLOCK, "modified_ns", "key")}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def require_whole(folder: Path) -> None:
    """AssertionError, or what reading raises, where a file that is not called temporary is not whole."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not path.is_file() or hidden or path.suffix in (".part", ".lock", ".f16") or path.name == "lock":
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".png":
            read_image(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                file.keys()
        elif path.suffix in (".svg", ".html"):
            assert data.rstrip().endswith((b"</svg>", b"</html>")), path
        elif path.suffix in (".csv", ".md"):
            assert data.endswith(b"\n"), path
    for config in folder.rglob(CONFIG_NAME):
        loaded = load_run(config.parent)
        if (config.parent / loaded.weights).exists():
            read_flow(config.parent / loaded.weights)
        if find_graph(loaded):
            load_engine(loaded)
    for state in folder.rglob("training.safetensors"):
        read_state(state.parent)
