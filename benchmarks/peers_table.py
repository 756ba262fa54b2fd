"""The table of the comparison, as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uflow_cli.files import write_text

VERSION = 1
Row = dict[str, Any]  # as peers.py keeps it: "title", and either "measures" and more, or "not_run"


def share(name: str) -> Callable[[Row], str]:
    """A column of one measure."""
    return lambda row: _number(row["measures"].get(name), 3)


def miou(name: str) -> Callable[[Row], str]:
    """A column of a mean IoU over all images / over defective ones."""

    def cell(row: Row) -> str:
        values = [row["measures"].get(key) for key in (f"{name}_miou", f"{name}_miou_defective")]
        return "-" if values[0] is None else " / ".join(_number(value, 3) for value in values)

    return cell


def _image_auroc(row: Row) -> str:
    measures = row["measures"]
    low, high = (_number(measures[f"image_auroc_{end}"], 3) for end in ("low", "high"))
    return f"{_number(measures['image_auroc'], 3)} ({low}-{high})"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "image AUROC (95 %)": _image_auroc,
    "pixel AUROC": share("pixel_auroc"),
    "AUPRO": share("aupro"),
    "mIoU oracle": miou("oracle"),
    "mIoU fair": miou("fair"),
    "mIoU fair, held out": miou("fair_held_out"),
    "mIoU oracle NFA": miou("nfa_oracle"),
    "mIoU log NFA < 0": miou("nfa_automatic"),
    "training s (CPU)": lambda row: f"{row['training_seconds']:.0f} ({row['training_cpu_seconds']:.0f})",
    "s/image (CPU)": lambda row: f"{row['seconds_per_image']:.3f} ({row['cpu_seconds_per_image']:.3f})",
    "memory MiB": lambda row: f"{row['peak_memory_mib']:.0f}",
}
LEGEND = (
    "AUPRO to FPR 0.3. mIoU: all images / defective ones alone; where mask and detection are both empty, IoU is 1.",
    "oracle: the best threshold on these very test images. fair: the score above which training images have one pixel",
    "each on average; held out: the same of good images that trained nothing. oracle NFA, log NFA < 0: thresholds on",
    "log10 NFA, which only uflow has; log NFA < 0 is its automatic one. (CPU): processor time.",
)


def grid(rows: Sequence[Row]) -> list[list[str]]:
    """Header and cells; a row that did not run says so in its first cell."""
    not_run = ["not run", *[""] * (len(COLUMNS) - 1)]
    cells = [[cell(row) for cell in COLUMNS.values()] if "measures" in row else not_run for row in rows]
    return [["method", *COLUMNS], *([row["title"], *line] for row, line in zip(rows, cells, strict=True))]


def notes(rows: Sequence[Row]) -> list[str]:
    """A sentence on each row, or why it is not there."""
    return [f"{row['title']}: " + (f"not run: {row['not_run']}" if "not_run" in row else _facts(row)) for row in rows]


def _facts(row: Row) -> str:
    facts = "; ".join(f"{name}: {value}" for name, value in row["facts"].items())
    extra = row["measures"].get("image_auroc_nfa")
    return facts if extra is None else f"{facts}; image AUROC by lowest log NFA {_number(extra, 3)}"


def as_text(rows: Sequence[Row], conditions: Sequence[str]) -> str:
    """The table in columns of equal width, with conditions and notes."""
    cells = grid(rows)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([*conditions, "", lines[0], "-" * len(lines[0]), *lines[1:], "", *LEGEND, "", *notes(rows), ""])


def as_markdown(rows: Sequence[Row], conditions: Sequence[str]) -> str:
    """The same as a Markdown table with lists."""
    cells = grid(rows)
    table = ["| " + " | ".join(line) + " |" for line in cells]
    table.insert(1, "|" + "---|" * len(cells[0]))
    lists = [*(f"- {line}" for line in conditions), "", *table, "", " ".join(LEGEND), ""]
    return "\n".join([*lists, *(f"- {line}" for line in notes(rows)), ""])


def as_csv(rows: Sequence[Row]) -> str:
    """One line per row, one column per figure, unrounded."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    plain = {key: value for key, value in row.items() if not isinstance(value, dict)}
    return {**plain, **row.get("facts", {}), **row.get("measures", {})}


def write_table(rows: Sequence[Row], conditions: Sequence[str], *, folder: Path) -> None:
    """Write table.txt, table.md, table.csv and table.json."""
    write_text(folder / "table.txt", as_text(rows, conditions))
    write_text(folder / "table.md", as_markdown(rows, conditions))
    write_text(folder / "table.csv", as_csv(rows))
    content = {"version": VERSION, "conditions": list(conditions), "rows": list(rows)}
    write_text(folder / "table.json", json.dumps(content, indent=2) + "\n")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
