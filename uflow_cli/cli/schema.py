"""`uflow schema`: the JSON schema of what this program reads and writes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer


class Name(StrEnum):
    """The records that have a schema."""

    config = "config"
    detections = "detections"
    check = "check"
    evaluation = "evaluation"


def schema(
    name: Annotated[
        Name,
        typer.Argument(help="Settings as `uflow train --config` takes them, or what detect, check and evaluate give."),
    ],
) -> None:
    """Print the JSON schema of what this program reads or writes."""
    import json

    from uflow_cli.cli import console

    console.print_text(json.dumps(_config() if name is Name.config else _result(name), indent=1) + "\n")


def _result(name: Name) -> dict[str, Any]:
    """The schema of what a command gives with --json and writes into its folder."""
    from uflow_cli.check import CheckResult
    from uflow_cli.evaluation import Evaluation
    from uflow_cli.results import DetectionResult
    from uflow_cli.schema import json_schema

    kinds: dict[Name, type] = {Name.detections: DetectionResult, Name.check: CheckResult, Name.evaluation: Evaluation}
    return json_schema(kinds[name])


def _config() -> dict[str, Any]:
    """The schema of the TOML file of `uflow train --config`, which has no null but a word for it."""
    from uflow_cli.config import all_settings

    properties = {}
    for setting in all_settings().values():
        value = dict(setting.schema)
        if setting.none is not None:
            value["anyOf"] = [*(one for one in value["anyOf"] if one != {"type": "null"}), {"const": setting.none}]
        properties[setting.name] = {key: part for key, part in value.items() if key not in ("none", "form")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of uflow train",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
