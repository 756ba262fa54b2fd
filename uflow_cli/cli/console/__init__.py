"""Everything the terminal shows; the only importer of rich. Results go to stdout, progress and warnings to stderr."""

from uflow_cli.cli.console.audit import print_audit
from uflow_cli.cli.console.backbones import print_backbones
from uflow_cli.cli.console.bars import progress
from uflow_cli.cli.console.bench import print_bench
from uflow_cli.cli.console.cache import print_cache, print_cleared
from uflow_cli.cli.console.evaluation import print_evaluation, print_survey
from uflow_cli.cli.console.inspection import print_inspection
from uflow_cli.cli.console.runs import print_runs
from uflow_cli.cli.console.sample import print_sample
from uflow_cli.cli.console.series import print_outcome, print_series, print_task, print_traceback
from uflow_cli.cli.console.terminal import note, print_json, print_text, warn
from uflow_cli.cli.console.training import epoch_table, print_training_result, print_training_start, training_display

__all__ = [
    "epoch_table",
    "note",
    "print_audit",
    "print_backbones",
    "print_bench",
    "print_cache",
    "print_cleared",
    "print_evaluation",
    "print_inspection",
    "print_json",
    "print_outcome",
    "print_runs",
    "print_sample",
    "print_series",
    "print_survey",
    "print_task",
    "print_text",
    "print_traceback",
    "print_training_result",
    "print_training_start",
    "progress",
    "training_display",
    "warn",
]
