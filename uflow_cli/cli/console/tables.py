"""Tables that stay tables in a narrow terminal, and the lists that are shown as such."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.table import Table

from uflow_cli.cli.console.terminal import amount, out, plain, print_json, print_text
from uflow_cli.text import printable

if TYPE_CHECKING:
    from uflow_cli.bench import Bench
    from uflow_cli.cache import CacheFolder, Summary
    from uflow_cli.doctor import Diagnosis
    from uflow_cli.download import Source
    from uflow_cli.features import ExtractorFacts
    from uflow_cli.run.listing import ListedRun
    from uflow_cli.run.record import Run

GAP = 2
BACKBONES_WIDTH = 150  # of their table where stdout is no terminal: a line for each


@dataclass(frozen=True)
class Column:
    """A column of plain text. Rank 0 always stands; of the others, the highest goes first where width is short."""

    name: str
    cells: Sequence[str]
    rank: int = 0
    justify: Literal["left", "right"] = "right"
    shortest: int | None = None  # cells may lose their beginning down to this width, as paths can; None: they may not
    wraps: bool = False  # what is too long goes on in the next line instead

    @property
    def longest(self) -> int:
        """Width of the whole text."""
        return max((cell_len(text) for text in (self.name, *self.cells)), default=0)

    @property
    def needed(self) -> int:
        """Width below which the column says nothing."""
        return self.longest if self.shortest is None else min(self.longest, max(self.shortest, cell_len(self.name)))


def whole_width(columns: Sequence[Column]) -> int:
    """Width at which nothing is left out or cut."""
    return sum(column.longest + GAP for column in columns) - GAP


def columns_that_fit(columns: Sequence[Column], *, width: int) -> list[Column]:
    """The columns that have room side by side in `width` cells, in their order."""
    shown = list(columns)
    while len(shown) > 1 and sum(column.needed + GAP for column in shown) - GAP > width:
        last = max(shown, key=lambda column: column.rank)
        if last.rank == 0:
            break
        shown.remove(last)
    return shown


def table_of(columns: Sequence[Column], *, width: int, styles: Sequence[str] = ()) -> Table:
    """The columns that fit, with a style per row; columns that have nothing to show are left out."""
    told = [column for column in columns if not column.name or any(column.cells)]
    shown = columns_that_fit(told, width=width)
    spare = width - sum(column.needed + GAP for column in shown) + GAP
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    cells: list[Sequence[str]] = []
    for column in shown:
        taken = max(0, min(spare, column.longest - column.needed))
        spare -= taken
        name, wide = plain(column.name), column.needed + taken
        overflow: Literal["fold", "ellipsis"] = "fold" if column.wraps else "ellipsis"
        table.add_column(name, justify=column.justify, no_wrap=not column.wraps, overflow=overflow, width=wide)
        cells.append(column.cells if column.wraps else [_end(text, wide) for text in column.cells])
    for i, row in enumerate(zip(*cells, strict=True)):
        table.add_row(*(plain(text) for text in row), style=styles[i] if styles else None)
    return table


def _end(text: str, width: int) -> str:
    """The end of `text` that fits, with an ellipsis for what was before."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"


SHORTEST_PATH = 40
STYLES = {"damaged": "red", "failed": "red", "training": "green", "interrupted": "yellow", "stopped": "yellow"}


def print_runs(runs: Sequence[ListedRun], *, roots: Sequence[Path], as_json: bool) -> None:
    """A line per run, then what is wrong with the damaged ones; or all of it as JSON."""
    from uflow_cli.run.listing import runs_to_dict

    if as_json:
        print_json(runs_to_dict(runs))
        return
    columns = runs_columns(runs)
    console = out(at_least=whole_width(columns))
    if not runs:
        where = " or ".join(str(root) for root in roots)
        console.print(f"no run below {plain(where)}; train one with `uflow train`", soft_wrap=True)
        return
    styles = [STYLES.get(listed.state, "") for listed in runs]
    console.print(table_of(columns, width=console.width, styles=styles))
    for listed in runs:
        if listed.problem:
            console.print(f"damaged: {plain(listed.problem)}", soft_wrap=True)


def runs_columns(runs: Sequence[ListedRun]) -> list[Column]:
    """The key figures of runs; a narrow terminal keeps the first ones."""

    def cells(show: Callable[[Run], str]) -> list[str]:
        return [show(listed.run) if listed.run else "" for listed in runs]

    return [
        Column("run", [str(listed.folder) for listed in runs], justify="left", shortest=SHORTEST_PATH),
        Column("state", [listed.state for listed in runs], justify="left"),
        Column("data set", cells(lambda run: f"{run.origin.dataset}/{run.origin.category}"), rank=6, justify="left"),
        Column("preset", cells(preset), rank=7, justify="left"),
        Column("extractor", cells(lambda run: run.model.extractor), rank=10, justify="left"),
        Column("images", cells(lambda run: str(run.origin.n_images)), rank=4),
        Column("epochs", cells(lambda run: f"{run.progress.epochs_done}/{run.progress.n_epochs}"), rank=1),
        Column("best", cells(lambda run: str(run.progress.best_epoch)), rank=3),
        Column("held-out bits/dim", cells(held_out_loss), rank=2),
        Column("smallest rate", cells(smallest_rate), rank=5),
        Column("trained", [f"{listed.modified.astimezone():%Y-%m-%d %H:%M}" for listed in runs], rank=8),
        Column("size", [amount(listed.n_bytes) for listed in runs], rank=9),
    ]


def held_out_loss(run: Run) -> str:
    """Held-out loss of the best epoch, where images were held out."""
    loss = run.progress.held_out_loss
    return "-" if loss is None else f"{loss:.4f}"


def preset(run: Run) -> str:
    """The preset, and whether the run is one for comparisons only."""
    return f"{run.training.preset}, paper-exact" if run.model.paper_exact else run.training.preset


def smallest_rate(run: Run) -> str:
    """The smallest false-alarm rate that the held-out images can promise."""
    return f"{run.calibration.smallest_rate:.3f}" if run.calibration.n_images else "-"


def print_cache(folder: CacheFolder, held: Sequence[Summary], *, as_json: bool) -> None:
    """Folder, size and what it holds, least recently used first."""
    n_bytes = sum(file.n_bytes for file in folder.files())
    if as_json:
        print_json({
            "folder": str(folder.path), "bytes": n_bytes, "limit": folder.limit,
            "held": [asdict(summary) for summary in held],
        })  # fmt: skip
        return
    console = out()
    console.print(
        f"{printable(str(folder.path))}: {_size(n_bytes)} of at most {_size(folder.limit)}",
        markup=False,
        soft_wrap=True,
    )
    unread = n_bytes - sum(summary.n_bytes for summary in held)
    if unread:
        console.print(f"{_size(unread)} were kept by an older uflow and are no longer read; --clear removes them")
    if not held:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("extractor", "input size", "images", "size", "last used"):
        table.add_column(name, justify="left" if name == "extractor" else "right")
    for summary in held:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.last_used))
        size = summary.input_size if isinstance(summary.input_size, list) else [summary.input_size]
        table.add_row(
            plain(summary.extractor), " x ".join(map(str, size)), str(summary.n_images), _size(summary.n_bytes), used
        )
    console.print(table)


def print_cleared(folder: CacheFolder, removed: int, kept: int, *, as_json: bool) -> None:
    """The bytes that were removed and those that are in use and stay."""
    if as_json:
        print_json({"folder": str(folder.path), "removed": removed, "kept": kept})
        return
    stays = f"; {_size(kept)} are in use and stay" if kept else ""
    out().print(f"{printable(str(folder.path))}: removed {_size(removed)}{stays}", markup=False, soft_wrap=True)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 / 10 else f"{n_bytes / 2**20:.1f} MiB"


def print_backbones(extractors: Sequence[ExtractorFacts], *, as_json: bool) -> None:
    """Scales, size and weights of every extractor as a table, or all of it as JSON."""
    if as_json:
        print_json({"extractors": [_to_dict(facts) for facts in extractors]})
        return
    console = out(at_least=BACKBONES_WIDTH)
    table = Table(box=None, pad_edge=False)
    table.add_column("extractor", no_wrap=True)
    for name in ("channels", "strides", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("weights from", overflow="fold")
    for facts in extractors:
        spec = facts.spec
        table.add_row(
            plain(spec.name), _numbers(spec.channels), _numbers(spec.strides), f"{facts.n_parameters / 1e6:.1f} M",
            _here(facts.files), plain(_licences(facts)), plain(" and ".join(source.home for source in spec.sources)),
        )  # fmt: skip
    console.print(table)
    console.print(
        "timm:NAME takes any other network of timm; `uflow backbones timm:NAME` shows its strides. "
        "Weights that are not here are fetched when first needed, or given by --weights. The licence is that of the "
        "weights, as timm states it; dinov3-license asks to be accepted: where the hub refuses them, accept it on the "
        "weights' page there, then `hf auth login`.", soft_wrap=True,
    )  # fmt: skip


def _licences(facts: ExtractorFacts) -> str:
    """The licences of an extractor's weights, each once."""
    return " and ".join(dict.fromkeys(licence or "not stated" for licence in facts.licences))


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)


def _here(files: Sequence[Path | None]) -> str:
    if all(files):
        return "[green]yes[/]"
    return "in part" if any(files) else "no"


def _to_dict(facts: ExtractorFacts) -> dict[str, Any]:
    spec = facts.spec
    return {
        "name": spec.name,
        "channels": list(spec.channels),
        "strides": list(spec.strides),
        "scales": spec.scales,
        "offered_strides": list(spec.offered),
        "input_size": spec.input_size,
        "fixed_input": spec.fixed_input,
        "normalisation": spec.normalisation,
        "parameters": facts.n_parameters,
        "here": all(facts.files),
        "weights": [
            {
                "network": source.network,
                "from": source.home,
                "file": None if file is None else str(file),
                "licence": licence,
            }
            for source, file, licence in zip(spec.sources, facts.files, facts.licences, strict=True)
        ],
    }


COLOURS = {"good": "green", "slow": "yellow", "missing": "yellow", "broken": "red"}


def print_diagnosis(diagnosis: Diagnosis, *, as_json: bool) -> None:
    """Show each finding in a line, and advice below those that are not good; or all of it as JSON."""
    if as_json:
        from uflow_cli.schema import to_json

        print_text(to_json(diagnosis))
        return
    console = out()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in diagnosis.findings:
        table.add_row(plain(finding.name), f"[{COLOURS[finding.state]}]{finding.state}[/]", plain(finding.value))
        if finding.advice:
            table.add_row("", "", f"[dim]{plain(finding.advice)}[/]")
    console.print(table)


def print_sources(sources: Sequence[Source]) -> None:
    """The data sets that can be fetched, with what is known of each."""
    console = out()
    for source in sources:
        console.print(f"[bold]{plain(source.name)}[/]")
        for line in source.facts():
            console.print(f"  {plain(line)}", soft_wrap=True)


def print_downloaded(root: Path, *, dataset: str, category: str | None) -> None:
    """Where a data set is now, and what to do next."""
    console = out()
    console.print(f"{dataset} is in {plain(str(root))}; next:", soft_wrap=True)
    place = "" if root.parent == Path("data") else f" --data-root {shlex.quote(str(root))}"
    command = f"uflow train --dataset {dataset} --category {shlex.quote(category or 'all')}{place}"
    console.print(f"  {plain(command)}", soft_wrap=True)


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
    console.print(f"peak memory {bench.peak_memory_mib:.0f} MiB; {plain(facts)}", style="dim", soft_wrap=True)


def print_sample(folder: Path, *, category: str) -> None:
    """The place of the sample data set, and commands to try with it."""
    console = out()
    console.print(f"sample data set written to {plain(str(folder))}", soft_wrap=True)
    console.print(
        f"train on it: uflow train --dataset mvtec --data-root {plain(shlex.quote(str(folder.parent)))} "
        f"--category {category}",
        soft_wrap=True,
    )
