"""U-Flow's published numbers, to stand beside ours: a data file, no code."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any


@functools.cache
def _data() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("uflow_cli.evaluation").joinpath("published.toml").read_text(encoding="utf-8"))


def published_figures(dataset: str, category: str) -> dict[str, float]:
    """Measure -> published value in 0..1 for one category; empty where the paper has none."""
    data = _data()
    values = data.get(dataset, {}).get(category, []) if dataset not in ("source", "columns", "groups") else []
    return {name: float(value) for name, value in zip(data["columns"], values, strict=False)}


def published_categories(dataset: str) -> tuple[str, ...]:
    """The categories that the paper has numbers for."""
    return tuple(_data().get(dataset, {}))


def published_source() -> str:
    """The publication that the numbers are from."""
    return str(_data()["source"])


def category_groups(dataset: str) -> dict[str, tuple[str, ...]]:
    """The groups over which the paper averages: name -> categories; empty where it has none."""
    return {name: tuple(members) for name, members in _data()["groups"].get(dataset, {}).items()}
