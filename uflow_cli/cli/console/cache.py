"""What the feature cache holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape  # noqa: TID251
from rich.table import Table  # noqa: TID251

from uflow_cli.cli.console.terminal import out, print_json

if TYPE_CHECKING:
    from uflow_cli.cache import CacheFolder, Summary

JSON_VERSION = 1


def print_cache(folder: CacheFolder, held: Sequence[Summary], *, as_json: bool) -> None:
    """Folder, size and what it holds, least recently used first."""
    n_bytes = sum(file.n_bytes for file in folder.files())
    if as_json:
        print_json({
            "version": JSON_VERSION, "folder": str(folder.path), "bytes": n_bytes, "limit": folder.limit,
            "held": [asdict(summary) for summary in held],
        })  # fmt: skip
        return
    console = out()
    console.print(f"{folder.path}: {_size(n_bytes)} of at most {_size(folder.limit)}", markup=False, soft_wrap=True)
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
        table.add_row(
            escape(summary.extractor), str(summary.input_size), str(summary.n_images), _size(summary.n_bytes), used
        )
    console.print(table)


def print_cleared(folder: CacheFolder, removed: int, kept: int, *, as_json: bool) -> None:
    """How much was removed, and what was not."""
    if as_json:
        print_json({"version": JSON_VERSION, "folder": str(folder.path), "removed": removed, "kept": kept})
        return
    stays = f"; {_size(kept)} are in use and stay" if kept else ""
    out().print(f"{folder.path}: removed {_size(removed)}{stays}", markup=False, soft_wrap=True)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 / 10 else f"{n_bytes / 2**20:.1f} MiB"
