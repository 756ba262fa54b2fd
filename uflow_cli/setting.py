"""Settings: what a field of a configuration may hold, said once for files, options and Python.

A field is annotated with `About`; from that and its type follow the option of its name, the key of its name in TOML and
JSON, the conversion of what stands there, and one line for what does not fit.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from uflow_cli.errors import UflowError

KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class About:
    """What a type does not say of a setting: its meaning, its range, and the word that stands for None in files.

    A text has to match the whole `pattern`, which `form` tells people.
    """

    help: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    none: str = "none"
    pattern: str = r"[\s\S]*"
    form: str = ""

    def demand(self) -> str:
        """The range in words, with a space in front; nothing where there is none."""
        limits = {"of at least": self.at_least, "above": self.above, "of at most": self.at_most, "below": self.below}
        words = [f"{name} {limit:.15g}" for name, limit in limits.items() if limit is not None]
        return f" {' and '.join(words)}" if words else ""

    def allows(self, number: float) -> bool:
        """Whether `number` is finite and in range."""
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


@dataclass(frozen=True)
class Setting:
    """A field of a configuration: `kind` is the type of one value; `choices` are all of them where they are few."""

    name: str
    kind: type
    choices: tuple[str, ...]
    is_list: bool
    is_optional: bool
    default: Any
    about: About

    def convert(self, value: object) -> Any:
        """`value`, as TOML, JSON or Python have it, as the field holds it; ValueError says what is needed."""
        if self.is_optional and (value is None or value == self.about.none):
            return None
        if not self.is_list:
            return self._convert_one(value)
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(self.demand)
        return tuple(self._convert_one(item) for item in value)

    def parse(self, text: str) -> Any:
        """The value that `text` of a command line means; ValueError says what is needed."""
        if self.is_list and not (self.is_optional and text == self.about.none):
            return self.convert([self._parse_one(part.strip()) for part in text.split(",")])
        return self.convert(self._parse_one(text))

    @property
    def demand(self) -> str:
        """What is needed, in words."""
        one = f"one of {', '.join(self.choices)}" if self.choices else KINDS[self.kind] + self.about.demand()
        one = self.about.form or one
        needed = f"a list, each {one}," if self.is_list else one
        return f"{needed}{f', or {self.about.none!r},' if self.is_optional else ''} is needed".replace(",,", ",")

    def _convert_one(self, value: object) -> Any:
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        fits = isinstance(value, self.kind) and (self.kind is bool or not isinstance(value, bool))
        if not fits or (self.choices and value not in self.choices):
            raise ValueError(self.demand)
        if isinstance(value, int | float) and not self.about.allows(value):
            raise ValueError(self.demand)
        if isinstance(value, str) and not re.fullmatch(self.about.pattern, value):
            raise ValueError(self.demand)
        return value

    def _parse_one(self, text: str) -> object:
        try:
            return self.kind(text) if self.kind in (int, float) else text
        except ValueError:
            return text


def settings_of(kind: type) -> dict[str, Setting]:
    """The settings of the dataclass `kind` by name, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _setting(field, hints[field.name]) for field in dataclasses.fields(kind)}


def _setting(field: dataclasses.Field[Any], hint: Any) -> Setting:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"the field {field.name} lacks About(...)")
    one, about = get_args(hint)
    is_optional = type(None) in get_args(one)
    if is_optional:
        [one] = [kind for kind in get_args(one) if kind is not type(None)]
    is_list = get_origin(one) is tuple
    if is_list:
        one = get_args(one)[0]
    choices = get_args(one) if get_origin(one) is Literal else ()
    kind = str if choices else one
    return Setting(field.name, kind, choices, is_list, is_optional, field.default, about)


def check(config: Any) -> None:
    """Raise UflowError for the first field of the dataclass instance `config` that does not fit its annotation."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    converted(values, settings_of(type(config)))


def converted(values: Mapping[str, Any], settings: Mapping[str, Setting], *, where: str = "") -> dict[str, Any]:
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
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            raise UflowError(f"{name} = {shown}{place}: {error}") from None
    return result


Config = TypeVar("Config")


def config_from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """`kind` from a mapping as `dataclasses.asdict` and JSON give it; what is missing takes its default.

    UflowError for a key that does not belong and a value that does not fit.
    """
    return kind(**converted(values, settings_of(kind)))


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
