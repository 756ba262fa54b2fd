"""Show results of models on images: detections, evaluations, and checks of a promise."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from uflow_cli.cli.console.terminal import PLAIN_WIDTH, err, is_live, out, plain, print_json, print_text
from uflow_cli.text import cells, first_of, printable

if TYPE_CHECKING:
    from uflow_cli.check import CheckResult
    from uflow_cli.evaluation import Evaluation
    from uflow_cli.report import TableRow
    from uflow_cli.results import Detected, DetectedImage
    from uflow_cli.run.graph import Graph
    from uflow_cli.workers import Outcome

REGIONS_SHOWN = 5
IMAGES_SHOWN = 1000  # beyond, the first of those with a defect


def print_detections(result: Detected, *, as_json: bool, table: bool) -> None:
    """Verdict and regions of every image as a `table`, or all of it as JSON; unreadable images on stderr."""
    if as_json:
        from uflow_cli.results import RESULT_NAME

        with (result.out / RESULT_NAME).open(encoding="utf-8") as file:
            for line in file:
                print_text(line)
    elif table and result.images:
        _print_detections_table(result)
    for error in result.errors:
        err().print(f"uflow: {plain(error.message)}")


def print_watched(line: str) -> None:
    """What a line of detections.jsonl says, for people; at once."""
    values = json.loads(line)
    if "message" in values:
        err().print(f"uflow: {plain(values['message'])}")
        return
    verdict = "[green]good[/]  " if values["verdict"] == "good" else "[bold red]defect[/]"
    console = out()
    console.print(f"{verdict} {_log_nfa(values['log_nfa']):>8}  {plain(values['path'])}", soft_wrap=True)
    console.file.flush()


def print_graph(graph: Graph, *, folder: Path, as_json: bool) -> None:
    """Show what was exported, and how near it is to PyTorch."""
    if as_json:
        from uflow_cli.schema import to_json

        print_text(to_json(graph, folder=str(folder)))
        return
    print_text(
        f"graph in {folder / graph.file}; U differs from PyTorch's by up to {graph.largest_difference:.2g} of it "
        f"on {graph.compared_on}\n"
    )


def _print_detections_table(result: Detected) -> None:
    shown = result.images if len(result.images) <= IMAGES_SHOWN else _first_defects(result)
    rows: list[tuple[str, ...]] = []
    for name, image in zip(_short_names([image.path for image in shown]), shown, strict=True):
        if not image.is_defect:
            rows.append((printable(name), "good", _log_nfa(image.log_nfa), "", "", "", ""))
        for i, region in enumerate(image.regions[:REGIONS_SHOWN]):
            left, top, right, bottom = region.bounding_box
            rows.append((
                "" if i else printable(name), "" if i else "defect", _log_nfa(region.log_nfa), f"{region.area:z.0f}",
                f"{left},{top}-{right},{bottom}", f"{region.centroid[0]:z.0f},{region.centroid[1]:z.0f}",
                "image" if region.is_whole_image else str(region.scale),
            ))  # fmt: skip
        if len(image.regions) > REGIONS_SHOWN:
            rows.append((f"  and {len(image.regions) - REGIONS_SHOWN} more", "", "", "", "", "", ""))
    _print_rows(rows)
    if len(shown) < len(result.images):
        print(f"and {len(result.images) - len(shown)} more images, all of which are in the files")
    print(f"{result.n_defects} of {len(result.images)} images have a defect at log NFA < {result.nfa_threshold:g}")
    print(f"the threshold allows {result.promise}")
    print(f"results, masks and overlays in {printable(str(result.out))}")


DETECTION_COLUMNS = {
    "image": 0,
    "verdict": 7,
    "log NFA": 8,
    "area px": 7,
    "bounding box": 15,
    "centroid": 9,
    "scale": 5,
}  # and their widths, at least; numbers stand to the right
VERDICT_STYLES = {"good": "green", "defect": "bold red"}


def _print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    """A table of `DETECTION_COLUMNS`: for a terminal as wide as it is, for all else of one width and without rich."""
    if not is_live(sys.stdout):
        all_rows = [tuple(DETECTION_COLUMNS), *rows]
        needed = [
            max(least, *map(cells, column))
            for least, column in zip(DETECTION_COLUMNS.values(), zip(*all_rows, strict=True), strict=True)
        ]
        first = min(needed[0], PLAIN_WIDTH - sum(2 + width for width in needed[1:]))
        for name, verdict, *numbers in all_rows:
            short = name
            while cells(short) > max(1, first):
                short = f"{short.removesuffix('…')[:-1]}…"
            right = "  ".join(f"{cell:>{width}}" for cell, width in zip(numbers, needed[2:], strict=True))
            print(f"{short}{' ' * (first - cells(short))}  {verdict:{needed[1]}}  {right}".rstrip())
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, least in DETECTION_COLUMNS.items():
        justify: Literal["left", "right"] = "left" if name in ("image", "verdict") else "right"
        table.add_column(name, justify=justify, overflow="ellipsis", no_wrap=True, min_width=least or None)
    for name, verdict, *numbers in rows:
        style = VERDICT_STYLES.get(verdict)
        table.add_row(plain(name), f"[{style}]{verdict}[/]" if style else verdict, *numbers)
    out().print(table)


def _first_defects(result: Detected) -> list[DetectedImage]:
    """The first of many images that have a defect, as many as are shown."""
    return list(itertools.islice((image for image in result.images if image.is_defect), IMAGES_SHOWN))


def _short_names(paths: list[Path]) -> list[str]:
    """Paths without the folders that they all share."""
    folders = [str(path.parent) for path in paths]
    common = os.path.commonpath(folders) if folders and len({path.is_absolute() for path in paths}) == 1 else ""
    return [os.path.relpath(path, common) if common else str(path) for path in paths]


def _log_nfa(value: float) -> str:
    return f"{value:z.1f}" if abs(value) < 1e5 else f"{value:.1e}"


def print_evaluation(evaluation: Evaluation, *, out_folder: Path, report: Path | None, as_json: bool) -> None:
    """The measures as a table, or as JSON; and where the files are."""
    from uflow_cli.evaluation import evaluation_to_dict, published_source

    if as_json:
        places = {"out": str(out_folder), "report": None if report is None else str(report)}
        print_json({**evaluation_to_dict(evaluation), **places})
        return
    from rich.table import Table

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
    console.print(f"JSON, CSV, Markdown and the sweep over thresholds in {plain(str(out_folder))}", soft_wrap=True)
    if report is not None:
        console.print(f"report to look at: {plain(str(report))}", soft_wrap=True)


def print_evaluations(
    rows: Sequence[TableRow], outcomes: Sequence[Outcome[Evaluation]], *, dataset: str, out_folder: Path, as_json: bool
) -> None:
    """The table over categories: ours, and below each value the published one with our difference to it."""
    from uflow_cli.categories import table_to_dict
    from uflow_cli.evaluation import published_source
    from uflow_cli.report import FIGURES, OWN_FIGURES

    if as_json:
        print_json({**table_to_dict(rows, outcomes, dataset=dataset), "out": str(out_folder)})
    elif rows:
        from rich.table import Table

        table = Table(title=f"{dataset}, {sum(row.n_categories == 1 for row in rows)} categories", title_justify="left",
                      box=None, pad_edge=False)  # fmt: skip
        table.add_column("category")
        for name in (*FIGURES.values(), *OWN_FIGURES.values()):
            table.add_column(name, justify="right")
        for row in rows:
            ours = [row.cell(name)[0] for name in (*FIGURES, *OWN_FIGURES)]
            name = row.name if row.n_categories == 1 else f"{row.name}, mean of {row.n_categories}"
            table.add_row(plain(name), *ours, style="" if row.n_categories == 1 else "bold")
            if any(row.cell(name)[1] for name in FIGURES):
                gaps = [row.cell(name)[2] for name in FIGURES]
                table.add_row("  difference to published", *gaps, *[""] * len(OWN_FIGURES), style="dim")
        console = out()
        console.print(table)
        console.print(f"published: U-Flow, {published_source()}", style="dim", soft_wrap=True)
        for sentence in sorted({outcome.result.selection for outcome in outcomes if outcome.result}):
            console.print(f"selection: {sentence}", soft_wrap=True)
        reused = [outcome.category for outcome in outcomes if outcome.state == "done before"]
        if reused:
            console.print(f"unchanged since an earlier evaluation: {plain(', '.join(reused))}", soft_wrap=True)
        console.print(f"table as JSON, CSV and Markdown in {plain(str(out_folder))}", soft_wrap=True)
    for outcome in outcomes:
        if outcome.result is None:
            err().print(f"uflow: {plain(outcome.category)}: {plain(outcome.message)}")


FLAGGED_SHOWN = 5
COLOURS = {"holds": "bold green", "cannot tell yet": "bold yellow", "broken": "bold red"}


def print_check(result: CheckResult, *, as_json: bool) -> None:
    """Promises beside what was seen, the drift per scale, and a plain verdict; or all of it as JSON."""
    if as_json:
        from uflow_cli.schema import to_json

        print_text(to_json(result))
    else:
        _print_tables(result)
    for error in result.errors:
        err().print(f"uflow: {plain(error.message)}")


def _print_tables(result: CheckResult) -> None:
    from rich.table import Table

    console = out()
    promises = Table(box=None, pad_edge=False)
    promises.add_column("promise", no_wrap=True)
    for name in ("at most", "seen", "95 % interval", "verdict"):
        promises.add_column(name, justify="right", no_wrap=True)
    for j in result.promises:
        verdict = f"[{COLOURS[j.verdict]}]{j.verdict}[/]"
        promises.add_row(j.what, f"{j.promised:.3g}", f"{j.seen:.3g}", f"{j.low:.3f}-{j.high:.3f}", verdict)
    console.print(promises)
    console.print()
    drift = Table(box=None, pad_edge=False)
    for name in ("scale", "v then", "v now", "k then", "k now", "moved"):
        drift.add_column(name, justify="right", no_wrap=True)
    for d in result.scales:
        drift.add_row(
            str(d.scale), f"{d.v_then:.3f}", f"{d.v_now:.3f}", f"{d.k_then:.1f}", f"{d.k_now:.1f}",
            f"yes, by {d.z:+z.1f} standard errors" if d.moved else "no",
        )  # fmt: skip
    console.print(drift)
    console.print()
    console.print(_sentence(result), soft_wrap=True)
    console.print(f"the promise was {result.scope}", soft_wrap=True)
    if result.cause:
        console.print(f"likely cause: {result.cause}", soft_wrap=True)
    if result.flagged:
        shown = first_of([path.name for path in result.flagged], FLAGGED_SHOWN)
        console.print(plain(f"flagged: {shown}"), soft_wrap=True)
    if result.recalibrated:
        console.print(
            f"recalibrated on {result.n_images} images: the smallest false-alarm rate that can be promised is "
            f"{1 / (result.n_images + 1):.3f}; the calibration before is kept in the run folder", soft_wrap=True,
        )  # fmt: skip


def _sentence(result: CheckResult) -> str:
    n = result.n_images
    images = f"{n} good image{'s' if n != 1 else ''}"
    if result.verdict == "broken":
        return f"[{COLOURS['broken']}]broken[/]: on {images} there are more false alarms than promised"
    if result.verdict == "holds":
        return f"[{COLOURS['holds']}]holds[/]: {images} say nothing against it, and twice the promise would have shown"
    return (
        f"[{COLOURS['cannot tell yet']}]cannot tell yet[/]: {images} do not suffice; about "
        f"{result.n_more_images} more like these would settle it"
    )
