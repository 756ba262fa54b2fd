"""Several processes that train one flow together, as torchrun starts them; a process alone is a group of one.

Each process takes its part of every batch, and the gradients of all parts are summed, so that the flow and its losses
are those of one process but for rounding. Only the process of rank 0 writes files and prints.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from uflow_cli.errors import TrainingError, UflowError

LONGEST_WAIT = timedelta(days=1)  # for rank 0, which may have much to read; torchrun ends a group that broke

Result = TypeVar("Result")


class OtherRankError(UflowError):
    """Rank 0 met an error and prints it; this process ends without a word."""


@dataclass(frozen=True)
class Processes:
    """This process, of rank `rank` among `size`."""

    rank: int = 0
    size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def part(self, batch: Sequence[int]) -> Sequence[int]:
        """This process's share of the indices `batch`; may be empty."""
        return batch[self.rank :: self.size]

    def on_rank_zero(self, work: Callable[[], Result]) -> Result:
        """Do `work` in the process of rank 0, and return its result, or raise its error, in all of them.

        Other ranks raise it as OtherRankError, which is not printed: rank 0 does that.
        """
        if self.size == 1:
            return work()
        message: list[tuple[str, Result | str | None]] = [("", None)]
        error: BaseException | None = None
        if self.is_rank_zero:
            try:
                message = [("result", work())]
            except BaseException as caught:  # the others wait for a message, whatever happened
                error, message = caught, [("error", f"{type(caught).__name__}: {caught}")]
        distributed.broadcast_object_list(message, src=0, device=torch.device("cpu"))
        if error is not None:
            raise error
        kind, result = message[0]
        if kind == "error":
            raise OtherRankError(str(result))
        return result  # type: ignore[return-value]

    def rank_zero_first(self, work: Callable[[], Result]) -> Result:
        """Do `work` in each process, in the others once rank 0 has done it, and only if it did not fail there."""
        own: list[Result] = []
        self.on_rank_zero(lambda: own.append(work()))
        return own[0] if self.is_rank_zero else work()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
        return bool(flags)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def synchronised(self, flow: nn.Module, *, device: torch.device) -> nn.Module:
        """`flow` such that its gradients are the mean over all processes, and its parameters those of rank 0."""
        if self.size == 1:
            return flow
        ids = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():  # its new name, forward_sync_buffers, is unknown to older releases
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return nn.parallel.DistributedDataParallel(flow, device_ids=ids, broadcast_buffers=False)


ALONE = Processes()


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The group that torchrun started this process in, and this process's own device of the kind of `device`.

    TrainingError if there are more processes on this machine than GPUs, or where another process broke off.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = _own_gpu()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size()), device
    except RuntimeError as error:
        if not _is_broken_link(error):
            raise
        raise TrainingError("another process of this training broke off; its own message says why") from error
    finally:
        distributed.destroy_process_group()


def is_rank_zero() -> bool:
    """Whether this process has rank 0; known before it joins the others."""
    return int(os.environ.get("RANK", "0")) == 0


def _own_gpu() -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"process {local_rank + 1} on this machine finds {torch.cuda.device_count()} GPUs; "
            "start at most one process per GPU with torchrun --nproc-per-node"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _is_broken_link(error: RuntimeError) -> bool:
    """Whether `error` is what the collectives raise when a peer is gone, and no want of memory inside a FrEIA graph."""
    cause: BaseException | None = error
    while cause is not None:  # the graph wraps what its modules raise, under a text of its own
        if isinstance(cause, torch.OutOfMemoryError):
            return False
        cause = cause.__cause__ or cause.__context__
    return isinstance(error, distributed.DistError) or "gloo" in str(error) or "Connection" in str(error)
