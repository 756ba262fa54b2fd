"""Evaluation of many categories: one table, nothing done twice, and no failure that takes others with it."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from uflow_cli import survey as survey_module
from uflow_cli import workers
from uflow_cli.errors import UflowError
from uflow_cli.evaluation import evaluate_run
from uflow_cli.report import table_csv, table_markdown, table_rows
from uflow_cli.survey import EvaluationSettings, Job, finished_evaluation, survey, write_table

SETTINGS = EvaluationSettings()


@pytest.fixture
def jobs(small_run, product, tmp_path):
    """The same product as two categories, each with a run."""
    data, runs = tmp_path / "data", tmp_path / "runs"
    for name in ("dots", "stripes"):
        shutil.copytree(product / "stripes", data / name)
        shutil.copytree(small_run, runs / name)
    return [Job("mvtec", name, data, runs / name, tmp_path / "out" / name) for name in ("dots", "stripes")]


def test_a_failure_is_told_and_the_rest_is_done_and_kept(jobs):
    (jobs[0].run / "config.json").write_text("{}")
    heard = []
    outcomes = survey(jobs, SETTINGS, device="cpu", on_done=heard.append)
    assert [outcome.category for outcome in outcomes] == ["dots", "stripes"]
    assert "config.json is damaged" in outcomes[0].error
    assert outcomes[0].evaluation is None
    assert outcomes[1].evaluation.image_auroc == 1.0
    assert len(heard) == 2
    again = survey(jobs, SETTINGS, device="cpu")
    assert again[1].reused
    assert not again[0].reused
    assert (jobs[1].out / "sweep.svg").read_text().startswith("<svg")


def test_a_worker_that_is_killed_is_told(jobs, monkeypatch):
    monkeypatch.setattr(workers, "_work", _die)
    outcomes = survey(jobs[:1], SETTINGS, device="cpu")
    assert "signal 9" in outcomes[0].error
    assert "memory" in outcomes[0].error


def _die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_result_is_current_only_for_the_same_images_run_and_settings(jobs):
    job = jobs[1]
    survey([job], SETTINGS, device="cpu")
    assert finished_evaluation(job, SETTINGS) is not None
    assert finished_evaluation(job, EvaluationSettings(nfa_threshold=-1.0)) is None
    config = job.run / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"shared": true', '"shared": false'))
    assert finished_evaluation(job, SETTINGS) is None
    config.write_text(text)
    image = next((job.data_root / "stripes" / "test" / "spot").iterdir())
    os.utime(image, (1, 1))
    assert finished_evaluation(job, SETTINGS) is None


def test_means_are_over_the_papers_groups_and_over_all(small_run, product):
    import dataclasses

    import torch

    from uflow_cli.datasets import load_dataset
    from uflow_cli.run.record import load_run

    one = evaluate_run(
        load_run(small_run), load_dataset("mvtec", root=product, category="stripes"), device=torch.device("cpu")
    )
    values = {"carpet": 0.9, "grid": 0.8, "screw": 0.5}
    rows = table_rows([dataclasses.replace(one, category=n, pixel_auroc=v) for n, v in values.items()])
    assert [row.name for row in rows] == ["carpet", "grid", "screw", "textures", "objects", "all categories"]
    by_name = {row.name: row for row in rows}
    assert by_name["textures"].ours["pixel_auroc"] == pytest.approx(0.85)
    assert by_name["textures"].published["pixel_auroc"] == pytest.approx((0.9942 + 0.9849) / 2)
    assert by_name["all categories"].ours["pixel_auroc"] == pytest.approx((0.9 + 0.8 + 0.5) / 3)
    assert by_name["all categories"].cell("pixel_auroc") == ("0.7333", "0.9913", "-0.2580")
    lines = table_csv(rows).splitlines()
    assert len(lines) == 7
    assert lines[1].startswith("carpet,1,")
    assert "**textures, mean of 2**" in table_markdown(rows, title="t")
    unknown = table_rows([dataclasses.replace(one, category=n) for n in ("carpet", "stripes")])
    assert unknown[-1].cell("pixel_auroc")[1] == ""  # a published mean over other categories would mislead


def test_written_table_tells_failures(jobs, tmp_path):
    outcomes = [survey_module.SurveyOutcome("dots", None, "no such thing")]
    write_table(tmp_path / "t", [], outcomes, dataset="mvtec")
    values = json.loads((tmp_path / "t" / "table.json").read_text())
    assert values["errors"] == {"dots": "no such thing"}
    with pytest.raises(UflowError):
        write_table(tmp_path / "t" / "table.json", [], outcomes, dataset="mvtec")
