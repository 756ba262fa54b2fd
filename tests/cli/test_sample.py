"""`uflow sample`: a data set that `uflow train` reads."""

from __future__ import annotations

import pytest

from uflow_cli.datasets import load_dataset


@pytest.mark.parametrize(("category", "lots"), [("fabric", 1), ("label", 2), ("metal", 3)])
def test_sample_loads_as_mvtec_and_says_what_to_do_next(uflow, tmp_path, category, lots):
    outcome = uflow("sample", "--out", tmp_path / "data", "--category", category, "--lots", lots)
    assert outcome.code == 0, outcome.err
    data = load_dataset("mvtec", root=tmp_path / "data", category=category)
    assert len(data.train) >= 40
    assert {item.defect for item in data.test} > {"good"}
    assert "uflow train --dataset mvtec" in outcome.out


def test_unknown_category_is_one_line(uflow, tmp_path):
    outcome = uflow("sample", "--out", tmp_path / "data", "--category", "cheese")
    assert outcome.code == 1
    assert "fabric" in outcome.err
