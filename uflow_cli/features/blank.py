"""Networks without numbers: shapes and parameter counts at no cost in memory and little in time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

INITIALISERS = frozenset(  # methods of tensors, and functions of torch.nn.init, whose tensor may come by name
    {"uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "constant_", "kaiming_uniform_"}
)


class _SkipInitialisers(TorchFunctionMode):
    """Leaves out the in-place operations that draw initial weights; on the meta device they are slow and do nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in INITIALISERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def blank() -> Iterator[None]:
    """Networks made inside stand on the meta device: they have shapes but no numbers."""
    with torch.device("meta"), _SkipInitialisers():
        yield
