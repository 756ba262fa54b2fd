"""`uflow doctor`: what is here to work with."""

from __future__ import annotations

import typer

from uflow_cli.cli.options import CACHE_SIZE, DEVICE, CacheDir, CacheSize, Device, Json, chosen_cache


def doctor(
    device: Device = DEVICE, cache_dir: CacheDir = None, cache_size: CacheSize = CACHE_SIZE, json: Json = False
) -> None:
    """Say what is here to work with, what is missing and how to get it, and what would be slow here and why.

    Exit code 1 where something is broken. Nothing is asked of the network.
    """
    from uflow_cli.cli import console
    from uflow_cli.doctor import examine

    diagnosis = examine(device=device.value, cache=chosen_cache(cache_dir, cache_size))
    console.print_diagnosis(diagnosis, as_json=json)
    if diagnosis.is_broken:
        raise typer.Exit(1)
