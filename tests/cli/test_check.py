"""`uflow check`: verdict, tables, JSON and exit codes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from products import good_image

from uflow_cli.images import write_png


@pytest.fixture
def dark(tmp_path):
    for i in range(16):
        write_png(tmp_path / "dark" / f"{i:03d}.png", (good_image(700 + i) * 0.3).astype(np.uint8))
    return tmp_path / "dark"


def test_a_broken_promise_is_told_plainly_and_by_exit_code_if_asked(uflow, small_run, dark):
    outcome = uflow("check", "--model", small_run, "--images", dark)
    assert outcome.code == 0, outcome.err
    assert "broken" in outcome.out
    assert "likely cause" in outcome.out
    assert "v then" in outcome.out
    assert uflow("check", "--model", small_run, "--images", dark, "--fail-if-broken").code == 3


def test_json_stands_alone(uflow, small_run, dark):
    outcome = uflow("check", "--model", small_run, "--images", dark, "--json", "--false-alarm-rate", 0.2)
    values = json.loads(outcome.out)
    assert values["verdict"] == "broken"
    assert [promise["promised"] for promise in values["promises"]] == [0.2]


def test_recalibration_changes_what_detect_promises(uflow, small_run, dark, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run")
    outcome = uflow("check", "--model", run, "--images", dark, "--recalibrate")
    assert outcome.code == 0, outcome.err
    assert "recalibrated on 16 images" in outcome.out
    detected = uflow("detect", dark, "--model", run, "--out", tmp_path / "found", "--json")
    assert "16 held-out good images" in json.loads(detected.out)["promise"]


def test_wrong_usage_and_what_a_user_can_fix(uflow, small_run, dark):
    assert uflow("check", "--model", small_run).code == 2
    assert (
        uflow("check", "--model", small_run, "--images", dark, "--nfa-threshold", 0, "--false-alarm-rate", 0.2).code
        == 2
    )
    outcome = uflow("check", "--model", small_run, "--images", dark / "nowhere")
    assert outcome.code == 1
    assert "nowhere: no such file" in outcome.err


def test_images_that_a_report_marks_as_good_after_all_are_checked(uflow, small_run, dark, tmp_path):
    marks = [{"path": str(path), "mark": "good after all" if i < 5 else "missed", "log_nfa": -1.0}
             for i, path in enumerate(sorted(dark.iterdir()))]  # fmt: skip
    (tmp_path / "marked.json").write_text(json.dumps({"version": 3, "threshold": 0.0, "images": marks}))
    outcome = uflow("check", "--model", small_run, "--images", tmp_path / "marked.json", "--json")
    assert json.loads(outcome.out)["n_images"] == 5
    (tmp_path / "marked.json").write_text(json.dumps({"version": 3, "threshold": 0.0, "images": marks[5:]}))
    outcome = uflow("check", "--model", small_run, "--images", tmp_path / "marked.json")
    assert (outcome.code, outcome.out) == (1, "")
    assert "no image in it is marked as 'good after all'" in outcome.err


@pytest.mark.parametrize("threshold", ["400", "-400"])
def test_huge_thresholds_are_judged(uflow, small_run, dark, threshold):
    outcome = uflow("check", "--model", small_run, "--images", dark, "--json", "--nfa-threshold", threshold)
    assert outcome.code == 0, outcome.err
    [judgement] = json.loads(outcome.out)["promises"]
    assert judgement["verdict"] == {"400": "holds", "-400": "cannot tell yet"}[threshold]
