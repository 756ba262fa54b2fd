"""`uflow download`: fetch a public data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uflow_cli.cli.options import ask

if TYPE_CHECKING:
    from uflow_cli.download import Source


def download(
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="mvtec, btad, visa, ...; none: list them.")
    ] = None,
    category: Annotated[str | None, typer.Option("--category", help="Unpack this product alone.")] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder to put it in.  [default: UFLOW_DATA, or data]")
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read the licence and keep to it.")
    ] = False,
) -> None:
    """Fetch a public data set, check it and unpack it; the same command goes on with a transfer that broke off."""
    from uflow_cli.cli import console
    from uflow_cli.download import find_source, sources

    if dataset is None:
        console.print_sources(list(sources().values()))
        return
    root = fetch(find_source(dataset), category=category, data_root=data_root, accepted=accept_licence)
    console.print_downloaded(root, dataset=dataset, category=category)


def fetch(source: Source, *, category: str | None, data_root: Path | None, accepted: bool) -> Path:
    """Bring `source` once its licence is accepted, with a bar; UflowError where it is not."""
    from uflow_cli.cli import console
    from uflow_cli.datasets.places import usual_folders
    from uflow_cli.download import download as bring
    from uflow_cli.errors import UflowError

    for line in source.facts():
        console.note(line)
    if not accepted and not ask("Do you accept the licence?"):
        raise UflowError(
            f"the licence of {source.title} is not accepted; read {source.page}, then give --accept-licence"
        )
    with console.byte_progress() as advance:
        return bring(source, data_root or usual_folders()[0], category=category, on_progress=advance)
