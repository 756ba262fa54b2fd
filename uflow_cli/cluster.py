"""Work that the machines of a Ray cluster share, or processes begun here, and its results in the order of the work.

Ray's actors are used as they are: Ray Data would add pandas and Arrow to every worker, to carry a list of names.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import uflow_cli
from uflow_cli.engine import available_cores
from uflow_cli.errors import UflowError
from uflow_cli.text import in_one_line

TRIES = 3  # that a task gets again when the worker that had it dies
ANSWER_SECONDS = 10.0  # that a cluster may take

Task = TypeVar("Task")
Result = TypeVar("Result")


def mapped(
    make: Callable[[], Callable[[Task], Result]], tasks: Iterable[Task], *, n_workers: int | None, on_gpu: bool
) -> Iterator[Result]:
    """What `make()`, called once by each of `n_workers`, gives for each of `tasks`, in their order.

    The cluster is that of RAY_ADDRESS, or begun here and ended with the work. Without `n_workers` there is one per GPU
    of the cluster, or else one per machine. A worker that dies is replaced, and what it had is done again. UflowError
    where Ray is not installed, where the cluster is not there or too small, and for what fails again and again.
    """
    with _cluster(n_workers) as ray:
        failures = (ray.exceptions.RayError, ConnectionError)
        try:
            actors = _actors(ray, make, n_workers, on_gpu=on_gpu)
            under_way: dict[Any, tuple[int, Any]] = {}
            done: dict[int, Result] = {}
            coming, due = enumerate(tasks), 0
            while True:
                while actors and (numbered := next(coming, None)) is not None:
                    actor = actors.pop()
                    under_way[actor.run.remote(numbered[1])] = numbered[0], actor
                if not under_way:
                    return
                for ended in ray.wait(list(under_way))[0]:
                    number, actor = under_way.pop(ended)
                    done[number] = ray.get(ended)
                    actors.append(actor)
                while due in done:
                    yield done.pop(due)
                    due += 1
        except failures as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, UflowError):
                raise cause from None
            raise UflowError(f"the Ray cluster failed ({in_one_line(cause or error)}); --resume goes on") from error


class Worker:
    """An actor that does one task after the other, in the folder `here`, as the program that sent it would."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], here: Path, version: str) -> None:
        self._make, self._here, self._version = make, here, version
        self._work: Callable[[Any], Any] | None = None

    def run(self, task: Any) -> Any:
        """The result of `task`; UflowError where this machine is not as the one that sent it."""
        if self._work is None:
            machine = os.uname().nodename
            if uflow_cli.__version__ != self._version:
                raise UflowError(f"{machine} has uflow {uflow_cli.__version__}, not {self._version}; install the same")
            try:
                os.chdir(self._here)
            except OSError as error:
                raise UflowError(f"{machine} has no folder {self._here}; all machines must see the files") from error
            self._work = self._make()
        return self._work(task)


@contextlib.contextmanager
def _cluster(n_workers: int | None) -> Iterator[Any]:
    """Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default, of which it warns
    try:
        import ray  # noqa: TID251
    except ImportError as error:
        raise UflowError('ray is not installed; pip install "uflow-cli[ray]", or leave --engine out') from error
    address = os.environ.get("RAY_ADDRESS")
    _require_answer(address or "")
    own: dict[str, Any] = {"num_cpus": max(available_cores(), n_workers or 1), "include_dashboard": False}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else own))
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise UflowError(f"no Ray cluster at {address or 'this machine'} ({in_one_line(error)})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """UflowError where nobody listens at HOST:PORT, which Ray would say after minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UflowError(
            f"no Ray cluster at RAY_ADDRESS={address} ({error}); begin one there with `ray start --head`, or unset it"
        ) from error


def _actors(ray: Any, make: Callable[[], Any], n_workers: int | None, *, on_gpu: bool) -> list[Any]:
    """The workers, spread over the machines; UflowError where the cluster has no room for so many."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    n_gpus = int(sum(resources.get("GPU", 0) for resources in machines))
    wanted = n_workers or (n_gpus if on_gpu else len(machines))
    each = math.ceil(wanted / len(machines))  # on a machine
    room = n_gpus if on_gpu else int(sum(resources.get("CPU", 0) for resources in machines))
    if not 0 < wanted <= room:
        raise UflowError(
            f"{max(wanted, 1)} workers: the Ray cluster has {room} {'GPUs' if on_gpu else 'processors'} for them"
        )
    cpus = max(1, int(min(resources.get("CPU", 1) for resources in machines)) // each)
    kind = ray.remote(Worker).options(
        num_cpus=cpus, num_gpus=1 if on_gpu else 0, max_restarts=-1, max_task_retries=TRIES,
        scheduling_strategy="SPREAD",
    )  # fmt: skip
    return [kind.remote(make, Path.cwd(), uflow_cli.__version__) for _ in range(wanted)]
