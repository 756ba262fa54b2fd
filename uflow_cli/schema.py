"""Records and settings: what their fields may hold is said once, with pydantic, for Python, JSON, TOML and options.

A record is a frozen dataclass whose fields are checked when it is made. `to_json` writes one and `from_json` reads it
back; both know the version, which is the same for all JSON that this program writes. The fields of `Settings` are also
options of commands and keys of TOML files.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args

import pydantic.dataclasses
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs

from uflow_cli.errors import UflowError
from uflow_cli.text import shortened

VERSION = 3  # of all JSON; raise it when a reader would have to change
CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)  # until one is made: start-up
KINDS = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "a text"}
LIMITS = {
    "minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most", "exclusiveMaximum": "below",
}  # fmt: skip
LARGEST_INTEGER = 2**63  # in JSON; beyond 2^1024 not even a float is as large
BYTES = "bytes:"
LONE = re.compile("[\udc80-\udcff]")  # of a file name that is no Unicode
LONE_SURROGATE = re.compile(r"(?<!\\ud[89ab]..)\\ud[c-f]..")  # of a file name that is no Unicode; pydantic refuses it

T = TypeVar("T")

NumberOrNan = Annotated[
    float,
    Field(allow_inf_nan=True),
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
]
"""A number that may be nan, which is null in JSON."""


def _file_name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is needed")
    return os.fsdecode(bytes.fromhex(value.removeprefix(BYTES))) if value.startswith(BYTES) else value


def _file_name_text(value: str) -> str:
    return BYTES + os.fsencode(value).hex() if LONE.search(value) else value


FileName = Annotated[
    str,
    PlainValidator(_file_name),
    PlainSerializer(_file_name_text, when_used="json"),
    WithJsonSchema({"type": "string"}),
]
"""A name or path as the system has it; one that is no Unicode is `bytes:` and its bytes in hexadecimal in JSON."""


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
def record(kind: type[T]) -> type[T]:
    """Make `kind` a frozen dataclass whose fields are checked; a wrong value is a ValueError.

    Types are strict: no text passes for a number, and no number is infinite or nan. Sequences are tuples.
    """
    made: Any = pydantic.dataclasses.dataclass(kind, frozen=True, config=CONFIG)
    return made  # type: ignore[no-any-return]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """The reader and writer of a kind of record, which takes a millisecond to make."""
    return TypeAdapter(kind)


def to_dict(value: Any) -> dict[str, Any]:
    """The fields of the record `value` as JSON has them."""
    kind: Any = type(value)
    return dict(_adapter(kind).dump_python(value, mode="json"))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError for what is none, is nested too deeply or has too large integers."""
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _integer(digits: str) -> int:
    value = int(digits)
    if abs(value) >= LARGEST_INTEGER:
        raise ValueError(f"{shortened(digits)} is too large a number")
    return value


def from_dict(kind: type[T], values: object) -> T:
    """The record of type `kind` whose fields are `values`, as JSON and TOML have them.

    ValueError with one line for what is missing, unknown or wrong; UflowError for such a setting.
    """
    known: Any = kind
    try:
        text = LONE_SURROGATE.sub(r"\\ufffd", json.dumps(values))
        result: T = _adapter(known).validate_json(text)
    except ValidationError as error:
        raise ValueError(_in_one_line(error)) from None
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return result


def to_json(value: Any, **more: Any) -> str:
    """The record `value` as a JSON text that begins with the version; `more` are fields beside its own."""
    return json_text({**to_dict(value), **more})


def json_text(values: Mapping[str, Any]) -> str:
    """`values` as a JSON text that begins with the version, without -0.0; ValueError for an infinite number or nan."""
    return json.dumps(without_minus_zero({"version": VERSION, **values}), indent=1, allow_nan=False) + "\n"


def without_minus_zero(value: Any) -> Any:
    """`value` with 0.0 for every -0.0 in it."""
    if isinstance(value, float):
        return value + 0.0
    if isinstance(value, dict):
        return {key: without_minus_zero(item) for key, item in value.items()}
    return [without_minus_zero(item) for item in value] if isinstance(value, list | tuple) else value


def refuse_newer(
    version: object, path: Path | str, *, newest: int = VERSION, kind: type[UflowError] = UflowError
) -> None:
    """Raise an error of `kind` where the file `path` says to have a `version` later than the `newest` known here."""
    if isinstance(version, int) and version > newest:
        raise kind(
            f"{path} was written by a newer uflow: it has version {shortened(str(version))}, this one reads up to "
            f"{newest}; update uflow to use it"
        )


def from_json(kind: type[T], text: str | bytes, path: Path | str = "it") -> T:
    """The record of type `kind` that `to_json` wrote to the file `path`.

    ValueError with one line for an earlier version or damage, UflowError for a later version.
    """
    values = parse_json(text)
    if not isinstance(values, dict) or not isinstance(values.get("version"), int):
        raise ValueError("it has no version")
    version = values.pop("version")
    refuse_newer(version, path)
    if version != VERSION:
        raise ValueError(f"it has version {version}, and this uflow reads version {VERSION}")
    return from_dict(kind, values)


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON schema of what `to_json` makes of records of type `kind`."""
    schema = TypeAdapter(kind).json_schema(mode="serialization")
    schema.pop("additionalProperties", None)  # `to_json` may have been given more
    properties = {"version": {"const": VERSION, "type": "integer"}, **schema.get("properties", {})}
    required = ["version", *schema.get("required", [])]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | schema | {"properties": properties, "required": required}


def _with_tuples(value: object) -> Any:
    """`value` with a tuple for every list. JSON and TOML have no tuples, and records have nothing else."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _in_one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = shortened(".".join(str(part) for part in first["loc"]))
    more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


@record
class Settings:
    """A record of settings. A value that does not fit is a UflowError, and so is an unknown name.

    A field has a description and a default. Where it may be None, `json_schema_extra` tells with "none" which word
    stands for None in files and options; "form" there tells people what a pattern means.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls: Any, given: Any, make: Any) -> Any:
        values = given.kwargs or {} if isinstance(given, ArgsKwargs) else given  # from the constructor, or from a file
        if not isinstance(values, dict):
            return make(values)
        known = settings_of(cls)
        meant = {
            name: None if name in known and value == known[name].none else _with_tuples(value)
            for name, value in values.items()
        }
        try:
            return make(ArgsKwargs(given.args, meant) if isinstance(given, ArgsKwargs) else meant)
        except ValidationError:
            checked(values, known)  # says it in our words; a validator for each takes longer than all the rest
            raise


@dataclass(frozen=True)
class Setting:
    """One field of `Settings`."""

    name: str
    info: FieldInfo

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """The check of a value of the field."""
        extra = Field(json_schema_extra=self.info.json_schema_extra)
        hint: Any = Annotated[self.info.annotation, *self.info.metadata, extra]
        return TypeAdapter(hint, config=CONFIG)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the field."""
        return self.adapter.json_schema() | ({"description": self.help} if self.help else {})

    @property
    def default(self) -> Any:
        """The value where none is given."""
        return self.info.default

    @property
    def help(self) -> str:
        """The meaning of the setting."""
        return self.info.description or ""

    @property
    def none(self) -> str | None:
        """The word that stands for None; None itself where the setting cannot be that."""
        can_be = NoneType in get_args(self.info.annotation)
        extra = self.info.json_schema_extra
        return str(extra.get("none", "none") if isinstance(extra, dict) else "none") if can_be else None

    @property
    def is_list(self) -> bool:
        """Whether the setting has several values."""
        return bool(self._value["type"] == "array")

    @property
    def kind(self) -> str:
        """The JSON type of one value."""
        return str(self._one["type"])

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that one value may have, where they are few."""
        return tuple(self._one.get("enum", ()))

    @property
    def demand(self) -> str:
        """The values that are needed, in words."""
        limits = " and ".join(f"{word} {self._one[key]:.15g}" for key, word in LIMITS.items() if key in self._one)
        one = f"one of {', '.join(self.choices)}" if self.choices else f"{KINDS[self.kind]} {limits}".rstrip()
        one = self.schema.get("form", one)
        is_each = self.is_list and "form" not in self.schema
        needed = f"a list, each {one}," if is_each else f"{one}{',' if self.none else ''}"
        return f"{needed}{f' or {self.none!r},' if self.none else ''} is needed"

    def convert(self, value: object) -> Any:
        """`value`, as TOML, JSON or Python have it, as the field holds it; ValueError says what is needed."""
        try:
            return self.adapter.validate_python(None if value == self.none else _with_tuples(value))
        except ValidationError:
            raise ValueError(self.demand) from None

    def parse(self, text: str) -> Any:
        """The value that `text` of a command line means; ValueError says what is needed."""
        if self.is_list and text != self.none:
            return self.convert([self._number(part.strip()) for part in text.split(",")])
        return self.convert(self._number(text))

    @property
    def _value(self) -> dict[str, Any]:
        """The schema of what the setting holds where it is not None."""
        return dict(self.schema["anyOf"][0] if "anyOf" in self.schema else self.schema)

    @property
    def _one(self) -> dict[str, Any]:
        """The schema of one value, of a list or alone."""
        value = self._value
        return dict((value.get("items") or value["prefixItems"][0]) if self.is_list else value)

    def _number(self, text: str) -> object:
        """`text` as a number, if the setting has numbers and it is one."""
        try:
            return {"integer": int, "number": float}[self.kind](text)
        except (KeyError, ValueError):
            return text


@cache
def settings_of(kind: Any) -> dict[str, Setting]:
    """The settings of `kind`, a class of `Settings`, by name and in their order."""
    fields: dict[str, FieldInfo] = kind.__pydantic_fields__
    return {name: Setting(name, info) for name, info in fields.items()}


def checked(values: Mapping[str, Any], settings: Mapping[str, Setting], *, where: str = "") -> dict[str, Any]:
    """`values` as the fields hold them; UflowError names a key that is no setting, or a value that does not fit.

    `where` tells the user where the values stand, such as "in FILE".
    """
    place = f" {where}" if where else ""
    result = {}
    for name, value in values.items():
        if name not in settings:
            raise UflowError(f"unknown setting {name!r}{place}; {_suggestion(name, settings)}")
        try:
            result[name] = settings[name].convert(value)
        except ValueError as error:
            shown = f"{value:g}" if isinstance(value, float) else shortened(repr(value))
            raise UflowError(f"{name} = {shown}{place}: {error}") from None
    return result


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
