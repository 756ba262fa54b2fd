"""`uflow schema`: the JSON schema of what this program reads and writes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer


class Name(StrEnum):
    """What has a schema."""

    config = "config"


def schema(
    name: Annotated[Name, typer.Argument(help="config: the settings of a training, as --config takes them.")],
) -> None:
    """Print the JSON schema of what this program reads or writes."""
    import json

    from uflow_cli.cli import console

    schemas = {Name.config: _config}
    console.print_text(json.dumps(schemas[name](), indent=1) + "\n")


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
