"""`uflow bench`: a table, and a file that says what it was taken on."""

from __future__ import annotations

import json

from uflow_cli.schema import VERSION


def test_part_is_timed_into_table_and_file(uflow, tmp_path):
    outcome = uflow("bench", "nfa", "--quick", "--json", tmp_path / "bench.json")
    assert outcome.code == 0, outcome.err
    for word in ("lite grids", "sum of squares", "ratio", "peak memory"):
        assert word in outcome.out
    assert "features" not in outcome.out
    values = json.loads((tmp_path / "bench.json").read_text())
    assert values["version"] == VERSION
    assert {"cores", "torch", "python"} <= values["machine"].keys()


def test_unknown_part_is_wrong_usage(uflow):
    assert uflow("bench", "everything").code == 2
