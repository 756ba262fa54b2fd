"""Timings of the parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape  # noqa: TID251
from rich.table import Table  # noqa: TID251

from uflow_cli.cli.console.terminal import out

if TYPE_CHECKING:
    from uflow_cli.bench import Bench


def print_bench(bench: Bench) -> None:
    """All timings as one table, and what they were taken on."""
    from uflow_cli.bench import NO_CHANGE

    console = out()
    table = Table(box=None, pad_edge=False)
    table.add_column("job")
    table.add_column("by")
    for name in ("ms", "quartiles", "per", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = ""
    for timing in bench.timings:
        is_first = timing.comparison != previous
        ratio = "=" if abs(timing.ratio - 1) < NO_CHANGE else f"{timing.ratio:.2f}x"
        table.add_row(
            timing.comparison if is_first else "", timing.contender, f"{timing.milliseconds:.3f}",
            f"{timing.lower:.3f}-{timing.upper:.3f}", timing.unit, "" if is_first else ratio,
        )  # fmt: skip
        previous = timing.comparison
    console.print(table)
    facts = ", ".join(f"{name} {value}" for name, value in bench.machine.items())
    console.print(f"peak memory {bench.peak_memory_mib:.0f} MiB; {escape(facts)}", style="dim", soft_wrap=True)
