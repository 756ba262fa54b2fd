"""Records: checked when made, the same after JSON, and nothing in JSON that JSON does not know."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from uflow_cli.schema import VERSION, NumberOrNan, from_json, json_schema, json_text, record, to_json


@record
class Part:
    """A record within another."""

    name: str
    size: tuple[int, ...] = ()


@record
class Whole:
    """One field of every kind."""

    parts: tuple[Part, ...]
    share: float
    loss: NumberOrNan = math.nan
    folder: Path = Path()


WHOLE = Whole((Part("a", (1, 2)), Part("b")), 0.5, folder=Path("x/y"))


def test_a_record_is_the_same_after_json_and_nan_is_null():
    text = to_json(WHOLE)
    values = json.loads(text)
    assert (values["version"], values["loss"], values["folder"]) == (VERSION, None, "x/y")
    again = from_json(Whole, text)
    assert math.isnan(again.loss)
    assert to_json(again) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": VERSION - 1}, f"version {VERSION - 1}, and this uflow reads version {VERSION}"), ({"version": None}, "no version"),
        ({"share": "0.5"}, "share: "), ({"share": None}, "share: "), ({"parts": [{"name": 3}]}, r"parts\.0\.name: "), ({"more": 1}, "more: "),
        ({"parts": [{"name": "a", "size": [1.5]}]}, r"parts\.0\.size\.0: "),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_with_its_place(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_json(Whole, json.dumps(json.loads(to_json(WHOLE)) | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        from_json(Whole, text)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_no_number_that_json_does_not_know_is_held_or_written(number):
    with pytest.raises(ValueError, match="finite"):
        Whole((), number)
    with pytest.raises(ValueError, match="JSON"):
        json_text({"number": number})


def test_a_file_name_that_is_no_unicode_harms_no_reader():
    odd = Whole((Part("\udcff"),), 0.5)
    assert from_json(Whole, to_json(odd)).parts[0].name == "\N{REPLACEMENT CHARACTER}"
    emoji = Whole((Part("\N{SNOWMAN}\N{GRINNING FACE}"),), 0.5)
    assert from_json(Whole, to_json(emoji)).parts == emoji.parts


def test_schema_names_version_and_fields():
    schema = json_schema(Whole)
    assert schema["properties"]["version"]["const"] == VERSION
    assert {"parts", "share", "loss", "folder"} <= schema["properties"].keys()
    assert {"version", "parts", "share"} <= set(schema["required"])
