"""Verdicts and regions of inspected images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape  # noqa: TID251
from rich.table import Table  # noqa: TID251

from uflow_cli.cli.console.terminal import err, out, print_json

if TYPE_CHECKING:
    from uflow_cli.detect import Inspection

REGIONS_SHOWN = 5


def print_inspection(inspection: Inspection, *, as_json: bool) -> None:
    """Verdict and regions of every image as a table, or all of it as JSON; unreadable images on stderr."""
    if as_json:
        from uflow_cli.detect import inspection_to_dict

        print_json(inspection_to_dict(inspection))
    elif inspection.images:
        _print_inspection_table(inspection)
    for _, message in inspection.errors:
        err().print(f"uflow: {escape(message)}")


def _print_inspection_table(inspection: Inspection) -> None:
    console = out()
    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="ellipsis", no_wrap=True)
    table.add_column("verdict", no_wrap=True, min_width=7)
    widths = {"log NFA": 8, "area px": 7, "bounding box": 15, "centroid": 9, "scale": 5}
    for name, width in widths.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    names = _short_names([image.path for image in inspection.images])
    for name, image in zip(names, inspection.images, strict=True):
        if not image.is_defect:
            table.add_row(escape(name), "[green]good[/]", _log_nfa(image.log_nfa), "", "", "", "")
        for i, region in enumerate(image.detections[:REGIONS_SHOWN]):
            left, top, right, bottom = region.bounding_box
            table.add_row(
                "" if i else escape(name), "" if i else "[bold red]defect[/]", _log_nfa(region.log_nfa),
                f"{region.area:.0f}", f"{left},{top}-{right},{bottom}",
                f"{region.centroid[0]:.0f},{region.centroid[1]:.0f}", str(region.scale),
            )  # fmt: skip
        if len(image.detections) > REGIONS_SHOWN:
            table.add_row(f"  and {len(image.detections) - REGIONS_SHOWN} more", "", "", "", "", "", "")
    console.print(table)
    console.print(
        f"{inspection.n_defects} of {len(inspection.images)} images have a defect at log NFA < {inspection.threshold:g}"
    )
    console.print(f"the threshold allows {inspection.promise}", soft_wrap=True)
    console.print(f"masks, overlays and detections.json in {escape(str(inspection.out))}", soft_wrap=True)


def _short_names(paths: list[Path]) -> list[str]:
    """Paths without the folders that they all share."""
    folders = [str(path.parent) for path in paths]
    shared = os.path.commonpath(folders) if folders and len({path.is_absolute() for path in paths}) == 1 else ""
    return [os.path.relpath(path, shared) if shared else str(path) for path in paths]


def _log_nfa(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 1e5 else f"{value:.1e}"
