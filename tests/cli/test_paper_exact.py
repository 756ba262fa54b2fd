"""`--paper-exact` from training to the report: it works in full, and says everywhere what it rests on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from products import good_image

from uflow_cli.images import write_png
from uflow_cli.run.record import load_run

CAVEAT = "selected on the test set and not calibrated"


@pytest.fixture(scope="module")
def exact(product, tmp_path_factory):
    """A run trained as published on `product`, and what training said."""
    out = tmp_path_factory.mktemp("runs") / "exact"
    command = [
        sys.executable, "-m", "uflow_cli", "train", "--preset", "lite", "--paper-exact", "--dataset", "mvtec",
        "--category", "stripes", "--data-root", product, "--epochs", "2", "--batch-size", "4", "--input-size", "96",
        "--device", "cpu", "--out", out,
    ]  # fmt: skip
    return out, subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)


def test_training_says_that_it_selects_on_the_test_set(exact):
    _, said = exact
    assert CAVEAT in said.stderr
    assert said.stderr.count("test pixel AUROC") == 2
    assert "pixel AUROC of the test set" in said.stdout
    assert "held-out" not in said.stdout + said.stderr


def test_it_is_a_property_of_the_run(exact):
    run = load_run(exact[0])
    assert run.model.paper_exact
    assert run.model.tests == "paper"
    assert run.training.schedule == "published"
    assert run.training.patience == 20
    assert (run.origin.n_training, run.origin.n_selection, run.origin.n_calibration) == (20, 0, 0)
    assert [law.scale for law in run.calibration.background] == [1.0, 1.0, 1.0]
    assert tuple(law.degrees_of_freedom for law in run.calibration.background) == run.calibration.n_channels


def test_evaluation_finds_the_pixel_auroc_that_chose_the_epoch(uflow, exact, product, tmp_path):
    out, _ = exact
    outcome = uflow("evaluate", "--model", out, "--data-root", product, "--report", tmp_path / "report", "--json")
    assert outcome.code == 0, outcome.err
    values = json.loads(outcome.out)
    assert values["pixel_auroc"] == pytest.approx(load_run(out).progress.value, abs=1e-4)  # features were float16
    assert CAVEAT in values["selection"]
    assert CAVEAT in outcome.err
    page = (tmp_path / "report" / "index.html").read_text()
    assert CAVEAT in page


def test_detection_says_so_and_refuses_a_rate(uflow, exact, product, tmp_path):
    out, _ = exact
    images = product / "stripes" / "test"
    outcome = uflow("detect", images, "--model", out, "--out", tmp_path / "found", "--json")
    assert outcome.code == 0, outcome.err
    assert CAVEAT in json.loads(outcome.out)["caveat"]
    assert CAVEAT in outcome.err
    outcome = uflow("detect", images, "--model", out, "--out", tmp_path / "none", "--false-alarm-rate", 0.1)
    assert outcome.code == 1
    assert "no calibration" in outcome.err
    assert not (tmp_path / "none").exists()


def test_an_honest_run_has_no_caveat(uflow, small_run, product, tmp_path):
    outcome = uflow("detect", product / "stripes" / "test", "--model", small_run, "--out", tmp_path / "out", "--json")
    assert json.loads(outcome.out)["caveat"] is None
    assert "warning" not in outcome.err
    outcome = uflow("evaluate", "--model", small_run, "--data-root", product, "--out", tmp_path / "measures", "--json")
    assert "no test image was looked at" in json.loads(outcome.out)["selection"]


def test_folder_of_good_images_has_no_test_set_to_select_on(uflow, tmp_path):
    for i in range(4):
        write_png(tmp_path / "good" / f"{i}.png", good_image(i))
    outcome = uflow("train", "--images", tmp_path / "good", "--out", tmp_path / "run", "--paper-exact")
    assert outcome.code == 1
    assert "uflow: --paper-exact selects on the test set, and folder/good has no defective test images" in outcome.err
    assert not (tmp_path / "run").exists()


def test_resumed_it_goes_on_selecting_on_the_test_set(uflow, product, tmp_path, monkeypatch):
    """Killed after its first epoch and resumed, it is the run that it would have become."""
    from uflow_cli.training import TestSetAuroc

    arguments = [
        "--paper-exact", "--dataset", "mvtec", "--category", "stripes", "--data-root", product, "--epochs", 2,
        "--batch-size", 4, "--input-size", 64, "--device", "cpu", "--out",
    ]  # fmt: skip
    assert uflow("train", *arguments, tmp_path / "whole").code == 0
    value, calls = TestSetAuroc.value, []

    def killed_in_the_second_epoch(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise SystemExit(9)
        return value(self, *args)

    monkeypatch.setattr(TestSetAuroc, "value", killed_in_the_second_epoch)
    assert uflow("train", *arguments, tmp_path / "killed").code == 9
    monkeypatch.setattr(TestSetAuroc, "value", value)
    outcome = uflow("train", "--resume", tmp_path / "killed", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    whole, resumed = load_run(tmp_path / "whole"), load_run(tmp_path / "killed")
    assert resumed.progress == whole.progress
    assert resumed.progress.criterion == "pixel AUROC of the test set"


def test_list_of_runs_tells_it_from_honest_ones(uflow, exact, small_run):
    outcome = uflow("runs", exact[0], small_run)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("paper-exact") == 1
    listed = json.loads(uflow("runs", exact[0], small_run, "--json").out)["runs"]
    assert sorted(CAVEAT in str(run["caveat"]) for run in listed) == [False, True]
