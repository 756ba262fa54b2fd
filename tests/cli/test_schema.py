"""`uflow schema`: JSON schemas of settings and results."""

from __future__ import annotations

import json

import pytest

from uflow_cli.config import all_settings
from uflow_cli.schema import VERSION


def test_every_setting_stands_in_the_schema_of_the_configuration(uflow):
    outcome = uflow("schema", "config")
    assert outcome.code == 0, outcome.err
    properties = json.loads(outcome.out)["properties"]
    assert list(properties) == list(all_settings())
    assert properties["epochs"]["anyOf"] == [{"minimum": 1, "type": "integer"}, {"const": "auto"}]
    assert properties["epochs"]["description"] == all_settings()["epochs"].help


@pytest.mark.parametrize(
    ("name", "field"), [("detections", "images"), ("check", "verdict"), ("evaluation", "pixel_auroc")]
)
def test_results_have_a_schema_with_their_fields(uflow, name, field):
    outcome = uflow("schema", name)
    assert outcome.code == 0, outcome.err
    properties = json.loads(outcome.out)["properties"]
    assert properties["version"]["const"] == VERSION
    assert field in properties


def test_an_unknown_name_is_wrong_usage(uflow):
    assert uflow("schema", "everything").code == 2
