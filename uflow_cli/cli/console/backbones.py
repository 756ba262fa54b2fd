"""The list of extractors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape  # noqa: TID251
from rich.table import Table  # noqa: TID251

from uflow_cli.cli.console.terminal import out, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uflow_cli.features import ExtractorFacts

JSON_VERSION = 1


def print_backbones(extractors: Sequence[ExtractorFacts], *, as_json: bool) -> None:
    """Scales, size and weights of every extractor as a table, or all of it as JSON."""
    if as_json:
        print_json({"version": JSON_VERSION, "extractors": [_to_dict(facts) for facts in extractors]})
        return
    console = out()
    table = Table(box=None, pad_edge=False)
    table.add_column("extractor", no_wrap=True)
    for name in ("channels", "strides", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("weights from", overflow="fold")
    for facts in extractors:
        spec = facts.spec
        table.add_row(
            escape(spec.name), _numbers(spec.channels), _numbers(spec.strides), f"{facts.n_parameters / 1e6:.1f} M",
            _here(facts.files), escape(" and ".join(source.home for source in spec.sources)),
        )  # fmt: skip
    console.print(table)
    console.print(
        "timm:NAME takes any other network of timm; `uflow backbones timm:NAME` shows its strides. "
        "Weights that are not here are fetched when first needed, or given by --weights.", soft_wrap=True,
    )  # fmt: skip


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
        "offered_strides": list(spec.offered),
        "input_size": spec.input_size,
        "fixed_input": spec.fixed_input,
        "normalisation": spec.normalisation,
        "parameters": facts.n_parameters,
        "here": all(facts.files),
        "weights": [
            {"network": source.network, "from": source.home, "file": None if file is None else str(file)}
            for source, file in zip(spec.sources, facts.files, strict=True)
        ],
    }
