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

from uflow_cli.errors import UflowError

GLANCE = 0.2  # seconds between two looks at whether to stop

Work = Callable[[threading.Event], None]


@dataclass(frozen=True)
class Job:
    """One category, and the work that a process of its own does; `work` can be pickled, and ends soon after its event.

    The event is set where the work is to stop, also when the parent is gone.
    """

    category: str
    work: Work


@dataclass(frozen=True)
class Ended:
    """How the work on a category ended: `message` is empty where it did well, `traceback` tells of a bug."""

    category: str
    seconds: float
    message: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class _Running:
    job: Job
    process: SpawnProcess
    start: float


def run_jobs(
    jobs: Sequence[Job], *, n_workers: int = 1, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[Ended]:
    """Do `jobs`, `n_workers` at a time, and yield each when it has ended; none is started once `should_stop` says so.

    An exception in the meantime, such as KeyboardInterrupt, interrupts those at work and waits for them.
    """
    waiting, running, told = list(jobs), dict[Connection, _Running](), False
    try:
        while running or (waiting and not should_stop()):
            while waiting and len(running) < n_workers and not should_stop():
                connection, started = _start(waiting.pop(0), n_workers=n_workers)
                running[connection] = started
            if not told and should_stop():
                told = True
                for connection in running:
                    _tell_to_stop(connection)
            ready = wait(list(running), timeout=GLANCE)
            for connection in [connection for connection in running if connection in ready]:
                yield _ended(running.pop(connection), connection)
    finally:
        for at_work in running.values():
            at_work.process.terminate()
        for at_work in running.values():
            at_work.process.join()


def _start(job: Job, *, n_workers: int) -> tuple[Connection, _Running]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    n_threads = max(1, (os.cpu_count() or 1) // n_workers) if n_workers > 1 else None
    process = context.Process(target=_work, args=(job.work, theirs, n_threads))
    process.start()
    theirs.close()  # so that ours sees the end when the process dies
    return ours, _Running(job, process, time.monotonic())


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


def _ended(at_work: _Running, connection: Connection) -> Ended:
    try:
        message, trace = connection.recv()
    except (EOFError, OSError):
        message, trace = None, ""
    process = at_work.process
    process.join()
    connection.close()  # not before: the process would take it for the end of its parent
    seconds = time.monotonic() - at_work.start
    if message is None:
        code = process.exitcode or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = "; too little memory is a common cause" if code == -signal.SIGKILL else ""
        message = f"its worker process {how}{hint}"
    return Ended(at_work.job.category, seconds, message, trace)
