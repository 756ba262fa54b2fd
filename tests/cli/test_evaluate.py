"""`uflow evaluate`: measures as a table and as JSON, and a report."""

from __future__ import annotations

import json


def test_table_has_every_measure(uflow, small_run, product):
    outcome = uflow(
        "evaluate", "--model", small_run, "--dataset", "mvtec", "--category", "stripes", "--data-root", product
    )
    assert outcome.code == 0, outcome.err
    for measure in (
        "image AUROC",
        "pixel AUROC",
        "AUPRO",
        "mIoU",
        "oracle",
        "false-alarm images / good images",
        "spot",
    ):
        assert measure in outcome.out


def test_data_set_of_the_run_is_the_default_and_json_is_alone(uflow, small_run, product):
    outcome = uflow("evaluate", "--model", small_run, "--data-root", product, "--json")
    assert outcome.code == 0, outcome.err
    values = json.loads(outcome.out)
    assert values["category"] == "stripes"
    assert values["image_auroc"] == 1.0
    assert values["false_alarms"]["total"] == 4


def test_false_alarm_rate_is_reported_with_its_promise(uflow, small_run, product):
    outcome = uflow("evaluate", "--model", small_run, "--data-root", product, "--false-alarm-rate", 0.2, "--json")
    assert outcome.code == 0, outcome.err
    values = json.loads(outcome.out)
    assert "at most 0.2 of good images flagged" in values["promise"]
    assert values["threshold"] != 0.0


def test_two_thresholds_are_wrong_usage(uflow, small_run):
    assert uflow("evaluate", "--model", small_run, "--nfa-threshold", 0, "--false-alarm-rate", 0.2).code == 2


def test_report_is_written_and_named(uflow, small_run, product, tmp_path):
    outcome = uflow("evaluate", "--model", small_run, "--data-root", product, "--report", tmp_path / "report")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "report" / "index.html").read_text()
    assert "stripes" in page
    assert str(tmp_path / "report" / "index.html") in outcome.out.replace("\n", "")
    assert len(list((tmp_path / "report").rglob("*.png"))) >= 8


def test_unknown_category_lists_those_there_are(uflow, small_run, product):
    outcome = uflow("evaluate", "--model", small_run, "--category", "dots", "--data-root", product)
    assert outcome.code == 1
    assert "stripes" in outcome.err
