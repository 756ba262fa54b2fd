"""Evaluations as files: JSON, CSV and Markdown of one category, and the table over many, the paper's numbers beside."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uflow_cli.charts import svg_file
from uflow_cli.evaluation import (
    Evaluation,
    NfaSweep,
    category_groups,
    difference,
    evaluation_to_dict,
    published_figures,
    published_source,
    share,
)
from uflow_cli.files import write_text
from uflow_cli.report.drawings import sweep_chart
from uflow_cli.schema import json_text
from uflow_cli.text import clean, inert

EVALUATION_NAME = "evaluation.json"
FIGURES = {
    "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO", "miou_oracle": "mIoU oracle",
    "miou_automatic": "mIoU at 0",
}  # fmt: skip
OWN_FIGURES = {
    "image_auroc_nfa": "image AUROC by NFA", "miou_defective": "mIoU at 0, defective",
    "good_images_flagged": "good images flagged", "defective_images_detected": "defective images detected",
}  # fmt: skip


@dataclass(frozen=True)
class TableRow:
    """A category, or the mean over a group of them: our value and the published one per measure, nan where missing."""

    name: str
    n_categories: int  # 1 for a category
    ours: dict[str, float]
    published: dict[str, float]

    def cell(self, measure: str) -> tuple[str, str, str]:
        """Ours, published and the difference, for people."""
        ours, published = self.ours.get(measure, math.nan), self.published.get(measure, math.nan)
        return share(ours), share(published, absent=""), difference(ours, published)


def table_rows(evaluations: Sequence[Evaluation]) -> list[TableRow]:
    """A row per evaluation, then the means over the paper's groups and over all, of the categories that there are."""
    rows = [
        TableRow(e.category, 1, {**e.paper_figures(), **_own(e)}, published_figures(e.dataset, e.category))
        for e in evaluations
    ]
    if len(rows) < 2:
        return rows
    groups = {**category_groups(evaluations[0].dataset), "all categories": tuple(row.name for row in rows)}
    means = [(name, [row for row in rows if row.name in members]) for name, members in groups.items()]
    return rows + [_mean_row(name, members) for name, members in means if members]


def table_csv(rows: Iterable[TableRow]) -> str:
    """One line per row: ours, published and difference of each measure the paper has, then our own measures."""
    head = ["category", "n_categories"]
    head += [f"{name}{suffix}" for name in FIGURES for suffix in ("", "_published", "_difference")]
    lines = []
    for row in rows:
        line: list[object] = [row.name, row.n_categories]
        for name in FIGURES:
            ours, published = row.ours.get(name, math.nan), row.published.get(name, math.nan)
            line += [_number(ours), _number(published), _number(ours - published)]
        lines.append(line + [_number(row.ours.get(name, math.nan)) for name in OWN_FIGURES])
    return csv_text([[*head, *OWN_FIGURES], *lines])


def table_markdown(rows: Iterable[TableRow], *, title: str) -> str:
    """A table with "ours (published, difference)" per measure."""
    names = {**FIGURES, **OWN_FIGURES}
    lines = [
        f"# {_in_markdown(title)}",
        "",
        f"Published: U-Flow, {published_source()}; in brackets, with our difference to it.",
        "",
    ]
    lines += [f"| category | {' | '.join(names.values())} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        name = row.name if row.n_categories == 1 else f"**{row.name}, mean of {row.n_categories}**"
        lines.append(
            f"| {_in_markdown(name)} | " + " | ".join(_markdown_cell(row, measure) for measure in names) + " |"
        )
    return "\n".join(lines) + "\n"


def write_evaluation(folder: Path, evaluation: Evaluation, *, key: str = "") -> Path:
    """Write evaluation.json, .csv and .md, and the sweep as CSV and picture; the JSON, written last, tells it is whole.

    `key` is what the result depends on, for whoever wants to know whether it is still current.
    """
    rows = evaluation.rows()
    write_text(folder / "evaluation.csv", csv_text([("measure", "ours", "published", "difference"), *rows]))
    lines = [f"# {_in_markdown(evaluation.title)}", "", f"Selection: {evaluation.selection}.", ""]
    lines += [f"The threshold (log10 NFA < {evaluation.threshold:zg}) allows {evaluation.promise}.", ""]
    lines += ["| measure | ours | published | difference |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    write_text(folder / "evaluation.md", "\n".join(lines) + "\n")
    if evaluation.sweep is not None:
        chart = sweep_chart(evaluation.sweep, threshold=evaluation.threshold, oracle=evaluation.oracle.threshold)
        write_text(folder / "sweep.csv", sweep_csv(evaluation.sweep))
        write_text(
            folder / "sweep.svg",
            svg_file(chart, title=f"{evaluation.dataset}/{evaluation.category}: what other thresholds would give"),
        )
    write_text(folder / EVALUATION_NAME, json_text({**evaluation_to_dict(evaluation), "key": key}))
    return folder / EVALUATION_NAME


def sweep_csv(sweep: NfaSweep) -> str:
    """One line per threshold; empty cells where the data cannot tell."""
    columns = {
        "log_nfa_threshold": sweep.thresholds, "miou_all_images": sweep.miou_all,
        "miou_defective_images": sweep.miou_defective, "good_images_flagged": sweep.flagged_good,
        "false_detections_per_good_image": sweep.false_regions,
    }  # fmt: skip
    return csv_text(
        [list(columns), *([_number(value) for value in row] for row in zip(*columns.values(), strict=True))]
    )


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; a text that a spreadsheet would take for a formula gets an apostrophe before it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_inert(cell) for cell in row] for row in rows)
    return text.getvalue()


def _inert(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    try:
        float(cell)
    except ValueError:
        return inert(cell)
    return cell


def _own(evaluation: Evaluation) -> dict[str, float]:
    n = evaluation.n_defective
    return {
        "image_auroc_nfa": evaluation.image_auroc_nfa,
        "miou_defective": evaluation.miou_automatic.defective_images,
        "good_images_flagged": evaluation.false_alarms.value,
        "defective_images_detected": evaluation.n_detected / n if n else math.nan,
    }


def _mean_row(name: str, rows: Sequence[TableRow]) -> TableRow:
    def mean(of: Sequence[dict[str, float]], measure: str) -> float:
        values = [figures.get(measure, math.nan) for figures in of]
        return float(np.mean(values))  # nan where any category lacks it: a mean over others would mislead

    names = (*FIGURES, *OWN_FIGURES)
    return TableRow(
        name, len(rows), {m: mean([row.ours for row in rows], m) for m in names},
        {m: mean([row.published for row in rows], m) for m in FIGURES},
    )  # fmt: skip


def _in_markdown(text: str) -> str:
    """Any text in a cell of a table in Markdown, where HTML and a bar would mean something."""
    return clean(text).replace("|", r"\|")


def _markdown_cell(row: TableRow, measure: str) -> str:
    ours, published, gap = row.cell(measure)
    return f"{ours} ({published}, {gap})" if published else ours


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:z.6g}"
