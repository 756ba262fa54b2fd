"""The measures of evaluations: one category in full, many as one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape  # noqa: TID251
from rich.table import Table  # noqa: TID251

from uflow_cli.cli.console.terminal import err, out, print_json

if TYPE_CHECKING:
    from uflow_cli.evaluation import Evaluation
    from uflow_cli.report import TableRow
    from uflow_cli.survey import SurveyOutcome


def print_evaluation(evaluation: Evaluation, *, out_folder: Path, report: Path | None, as_json: bool) -> None:
    """The measures as a table, or as JSON; and where the files are."""
    from uflow_cli.evaluation import evaluation_to_dict, published_source

    if as_json:
        places = {"out": str(out_folder), "report": None if report is None else str(report)}
        print_json({**evaluation_to_dict(evaluation), **places})
        return
    console = out()
    rows = evaluation.rows()
    has_published = any(published for _, _, published, _ in rows)
    table = Table(title=evaluation.title, title_justify="left", box=None, pad_edge=False, show_header=has_published)
    for name in ("measure", "ours", "published", "difference")[: 4 if has_published else 2]:
        table.add_column(name, justify="left" if name == "measure" else "right")
    for row in rows:
        table.add_row(*row[: 4 if has_published else 2])
    console.print(table)
    if has_published:
        console.print(f"published: U-Flow, {published_source()}", style="dim", soft_wrap=True)
    console.print(f"selection: {evaluation.selection}", soft_wrap=True)
    console.print(f"the threshold allows {evaluation.promise}", soft_wrap=True)
    console.print(f"JSON, CSV, Markdown and the sweep over thresholds in {escape(str(out_folder))}", soft_wrap=True)
    if report is not None:
        console.print(f"report to look at: {escape(str(report))}", soft_wrap=True)


def print_survey(
    rows: Sequence[TableRow], outcomes: Sequence[SurveyOutcome], *, dataset: str, out_folder: Path, as_json: bool
) -> None:
    """The table over categories: ours, and below each value the published one with our difference to it."""
    from uflow_cli.evaluation import published_source
    from uflow_cli.report import FIGURES, OWN_FIGURES
    from uflow_cli.survey import survey_to_dict

    if as_json:
        print_json({**survey_to_dict(rows, outcomes, dataset=dataset), "out": str(out_folder)})
    elif rows:
        table = Table(title=f"{dataset}, {sum(row.n_categories == 1 for row in rows)} categories", title_justify="left",
                      box=None, pad_edge=False)  # fmt: skip
        table.add_column("category")
        for name in (*FIGURES.values(), *OWN_FIGURES.values()):
            table.add_column(name, justify="right")
        for row in rows:
            ours = [row.cell(name)[0] for name in (*FIGURES, *OWN_FIGURES)]
            name = row.name if row.n_categories == 1 else f"{row.name}, mean of {row.n_categories}"
            table.add_row(escape(name), *ours, style="" if row.n_categories == 1 else "bold")
            if any(row.cell(name)[1] for name in FIGURES):
                gaps = [row.cell(name)[2] for name in FIGURES]
                table.add_row("  difference to published", *gaps, *[""] * len(OWN_FIGURES), style="dim")
        console = out()
        console.print(table)
        console.print(f"published: U-Flow, {published_source()}", style="dim", soft_wrap=True)
        for sentence in sorted({outcome.evaluation.selection for outcome in outcomes if outcome.evaluation}):
            console.print(f"selection: {sentence}", soft_wrap=True)
        reused = [outcome.category for outcome in outcomes if outcome.reused]
        if reused:
            console.print(f"unchanged since an earlier evaluation: {escape(', '.join(reused))}", soft_wrap=True)
        console.print(f"table as JSON, CSV and Markdown in {escape(str(out_folder))}", soft_wrap=True)
    for outcome in outcomes:
        if outcome.evaluation is None:
            err().print(f"uflow: {escape(outcome.category)}: {escape(outcome.error)}")
