"""The measures of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape  # noqa: TID251
from rich.table import Table  # noqa: TID251

from uflow_cli.cli.console.terminal import out, print_json

if TYPE_CHECKING:
    from uflow_cli.evaluation import Evaluation


def print_evaluation(evaluation: Evaluation, *, report: Path | None, as_json: bool) -> None:
    """The measures as a table, or as JSON; and where the report is."""
    from uflow_cli.evaluation import evaluation_to_dict

    if as_json:
        print_json({**evaluation_to_dict(evaluation), "report": None if report is None else str(report)})
        return
    console = out()
    table = Table(title=evaluation.title,
                  title_justify="left", box=None, pad_edge=False, show_header=False)  # fmt: skip
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in evaluation.rows():
        table.add_row(name, value)
    console.print(table)
    console.print(f"the threshold allows {evaluation.promise}", soft_wrap=True)
    if report is not None:
        console.print(f"report to look at: {escape(str(report))}", soft_wrap=True)
