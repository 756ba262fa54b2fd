"""Everything the terminal shows; the only importer of rich. Results go to stdout, progress and warnings to stderr.

A file of this room is read when something of it is used first: each brings its own libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uflow_cli.cli.console.results import (
        print_check,
        print_detections,
        print_evaluation,
        print_evaluations,
        print_graph,
        print_watched,
    )
    from uflow_cli.cli.console.tables import (
        print_backbones,
        print_bench,
        print_cache,
        print_cleared,
        print_diagnosis,
        print_downloaded,
        print_runs,
        print_sample,
        print_sources,
    )
    from uflow_cli.cli.console.terminal import byte_progress, note, print_json, print_text, progress, warn
    from uflow_cli.cli.console.training import (
        epoch_table,
        print_import,
        print_outcome,
        print_task,
        print_traceback,
        print_training_result,
        print_training_start,
        print_trainings,
        training_display,
    )

__all__ = [
    "byte_progress",
    "epoch_table",
    "note",
    "print_backbones",
    "print_bench",
    "print_cache",
    "print_check",
    "print_cleared",
    "print_detections",
    "print_diagnosis",
    "print_downloaded",
    "print_evaluation",
    "print_evaluations",
    "print_graph",
    "print_import",
    "print_json",
    "print_outcome",
    "print_runs",
    "print_sample",
    "print_sources",
    "print_task",
    "print_text",
    "print_traceback",
    "print_training_result",
    "print_training_start",
    "print_trainings",
    "print_watched",
    "progress",
    "training_display",
    "warn",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for file in ("terminal", "results", "tables", "training"):
            values = vars(import_module(f"{__name__}.{file}"))
            if name in values:
                return values[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
