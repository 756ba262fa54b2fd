"""In which precision the extractor computes, and a training step of the flow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from uflow_cli.config import Precision

CPU_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})  # instructions that multiply bfloat16 matrices
CPU_INFO = Path("/proc/cpuinfo")


def choose_precision(precision: Precision, *, device: torch.device, embedded: bool = False) -> Literal["fp32", "bf16"]:
    """`precision`; for "auto" bf16 where `device` has instructions for it and so gains, else fp32.

    An `embedded` extractor stays in fp32: a run keeps its precision, its machine may be any, and bf16 is slow on most.
    """
    if precision != "auto":
        return precision
    if embedded:
        return "fp32"
    gains = torch.cuda.get_device_capability(device) >= (8, 0) if device.type == "cuda" else cpu_has_bf16()
    return "bf16" if gains else "fp32"


def cpu_has_bf16(info: Path = CPU_INFO) -> bool:
    """Whether this machine's processor multiplies bfloat16 matrices; False where that cannot be told."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and not CPU_FLAGS.isdisjoint(line.split()) for line in lines)
