"""`uflow cache`: show the kept features and their folder, or remove them."""

from __future__ import annotations

from typing import Annotated

import typer

from uflow_cli.cli.options import CACHE_SIZE, CacheDir, CacheSize, Json, chosen_cache


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all features that no running training uses.")] = False,
    cache_dir: CacheDir = None,
    cache_size: CacheSize = CACHE_SIZE,
    json: Json = False,
) -> None:
    """Show what features are kept for later runs, and where; --clear removes them."""
    from uflow_cli.cli import console

    folder = chosen_cache(cache_dir, cache_size)
    if clear:
        removed, kept = folder.clear()
        console.print_cleared(folder, removed, kept, as_json=json)
    else:
        console.print_cache(folder, folder.summarise(), as_json=json)
