"""Work on one category after another, or several at a time, each in a process of its own.

A process that dies takes nothing else with it. The parent alone hears Ctrl-C: the first one asks the work in hand to
stop where it can be continued, the second one interrupts it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Generic, Literal, TypeVar

from uflow_cli.errors import UflowError

GLANCE = 0.2  # seconds between two looks at whether to stop

Result = TypeVar("Result")
State = Literal["finished", "done before", "stopped", "failed", "not started"]
Work = Callable[[threading.Event], None]  # can be pickled; ends soon after its event, which is set where it is to stop


@dataclass(frozen=True)
class Job(Generic[Result]):
    """One category.

    `prepare` gives the work that makes the result, or None where the result is there already from the same inputs. It
    is called in this process, which so starts none for a category that is finished. `read` gives the result afterwards.
    """

    category: str
    prepare: Callable[[], Work | None]
    read: Callable[[], Result]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The end of one category; `result` is None where there is none, and then `message` says why if it failed."""

    category: str
    state: State
    seconds: float = 0.0
    result: Result | None = None
    message: str = ""


@dataclass(frozen=True)
class _Running(Generic[Result]):
    job: Job[Result]
    process: SpawnProcess
    start: float


def run_jobs(
    jobs: Sequence[Job[Result]], *, n_workers: int = 1, should_stop: Callable[[], bool] = lambda: False,
    on_bug: Callable[[str], None] = lambda _traceback: None,
) -> Iterator[Outcome[Result]]:  # fmt: skip
    """Do `jobs`, `n_workers` at a time, and yield the outcome of each; none is started once `should_stop` says so.

    `on_bug` gets the traceback of an error that is not the user's; the other categories go on. An exception in the
    meantime, such as KeyboardInterrupt, interrupts those at work and waits for them.
    """
    waiting, running, told = list(jobs), dict[Connection, _Running[Result]](), False
    try:
        while running or (waiting and not should_stop()):
            while waiting and len(running) < n_workers and not should_stop():
                begun = _begin(waiting.pop(0), n_workers=n_workers)
                if isinstance(begun, Outcome):
                    yield begun
                else:
                    running[begun[0]] = begun[1]
            if not told and should_stop():
                told = True
                for connection in running:
                    _tell_to_stop(connection)
            ready = wait(list(running), timeout=GLANCE)
            for connection in [connection for connection in running if connection in ready]:
                yield _outcome(running.pop(connection), connection, on_bug=on_bug)
        yield from (Outcome(job.category, "not started") for job in waiting)
    finally:
        for at_work in running.values():
            at_work.process.terminate()
        for at_work in running.values():
            at_work.process.join()


def _begin(job: Job[Result], *, n_workers: int) -> Outcome[Result] | tuple[Connection, _Running[Result]]:
    start = time.monotonic()
    try:
        work = job.prepare()
        if work is None:
            return Outcome(job.category, "done before", result=job.read())
    except UflowError as error:
        return Outcome(job.category, "failed", time.monotonic() - start, message=str(error))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    n_threads = max(1, (os.cpu_count() or 1) // n_workers) if n_workers > 1 else None
    process = context.Process(target=_work, args=(work, theirs, n_threads))
    process.start()
    theirs.close()  # so that ours sees the end when the process dies
    return ours, _Running(job, process, start)


def _tell_to_stop(connection: Connection) -> None:
    with contextlib.suppress(OSError):  # it has just ended
        connection.send("stop")


def _work(work: Work, connection: Connection, n_threads: int | None) -> None:
    """In the process of a job: do its work, and send a message and a traceback, both empty where all went well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all of its processes
    signal.signal(signal.SIGTERM, _interrupt)
    if n_threads is not None:
        import torch

        torch.set_num_threads(n_threads)
    stop = threading.Event()
    threading.Thread(target=_listen, args=(connection, stop), daemon=True).start()
    answer = ("", "")
    try:
        work(stop)
    except UflowError as error:
        answer = (str(error), "")
    except Exception as error:  # the other categories shall not end for this one's sake; nothing is hidden
        answer = (f"{type(error).__name__}: {error}", traceback.format_exc())
    except KeyboardInterrupt:
        raise SystemExit(1) from None  # the parent tells; what the work had to put right is done
    connection.send(answer)


def _listen(connection: Connection, stop: threading.Event) -> None:
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        connection.recv()
    stop.set()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _outcome(at_work: _Running[Result], connection: Connection, *, on_bug: Callable[[str], None]) -> Outcome[Result]:
    job, process = at_work.job, at_work.process
    try:
        message, trace = connection.recv()
    except (EOFError, OSError):
        message, trace = None, ""
    process.join()
    connection.close()  # not before: the process would take it for the end of its parent
    seconds = time.monotonic() - at_work.start
    if trace:
        on_bug(trace)
    if message is None:
        code = process.exitcode or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = "; too little memory is a common cause" if code == -signal.SIGKILL else ""
        message = f"its worker process {how}{hint}"
    try:
        if not message:
            return Outcome(job.category, "finished", seconds, job.read())
    except UflowError as error:
        message = str(error)
    return Outcome(job.category, "failed", seconds, message=message)
