"""`uflow train --category all`: each category once, one table at the end, and an exit code that tells of failures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from uflow_cli.run.record import load_run

QUICK = ["--epochs", "1", "--batch-size", "8", "--input-size", "64", "--device", "cpu"]


@pytest.fixture
def root(product, tmp_path):
    for name in ("bolts", "nuts"):
        shutil.copytree(product / "stripes" / "train", tmp_path / "data" / name / "train")
    return tmp_path / "data"


@pytest.fixture
def train(uflow, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: uflow("train", "--dataset", "mvtec", "--data-root", root, *QUICK, *arguments)


def test_all_categories_end_in_one_table(train, tmp_path):
    outcome = train("--category", "all")
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines()]
    assert rows[0][:4] == ["category", "state", "images", "epochs"]
    assert [row[:4] for row in rows[1:3]] == [["bolts", "finished", "20", "1/1"], ["nuts", "finished", "20", "1/1"]]
    assert "2 of 2 categories are trained; runs in runs/mvtec" in outcome.out
    assert load_run(tmp_path / "runs" / "mvtec" / "nuts").origin.category == "nuts"
    again = train("--category", "all")
    assert again.code == 0
    assert "epoch" not in again.err.replace("epoch 1 of 1 kept", "")
    assert again.out.count("done before") == 2


def test_a_failure_is_told_and_makes_the_exit_code_1(train, root, tmp_path):
    (root / "bolts" / "train" / "good" / "000.png").write_bytes(b"no image")
    outcome = train("--category", "bolts, nuts", "--out", tmp_path / "elsewhere")
    assert outcome.code == 1
    assert "bolts failed: " in outcome.err
    assert "1 of 2 categories are trained, 1 failed" in outcome.out
    assert "Traceback" not in outcome.err
    assert load_run(tmp_path / "elsewhere" / "nuts").progress.state == "finished"


def test_an_unknown_category_is_found_before_anything_is_trained(train, tmp_path):
    outcome = train("--category", "bolts,nots")
    assert outcome.code == 1
    assert "'nots'" in outcome.err
    assert "bolts, nuts, or all" in outcome.err
    assert not (tmp_path / "runs").exists()


def test_each_category_gets_the_settings_that_the_preset_has_for_it(train, monkeypatch, tmp_path):
    import uflow_cli.presets

    settings = uflow_cli.presets.preset_settings

    def changed(name, *, dataset, category, **more):
        values = settings(name, dataset=dataset, category=category, **more)
        return values | {"learning_rate": {"bolts": 1e-4, "nuts": 2e-4}[category]}

    monkeypatch.setattr(uflow_cli.presets, "preset_settings", changed)
    assert train("--category", "all").code == 0
    rates = {name: load_run(tmp_path / "runs" / "mvtec" / name).training.learning_rate for name in ("bolts", "nuts")}
    assert rates == {"bolts": 1e-4, "nuts": 2e-4}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_stops_all_categories(root, tmp_path, times):
    command = [
        sys.executable, "-m", "uflow_cli", "train", "--dataset", "mvtec", "--category", "all", "--data-root", str(root),
        "--out", str(tmp_path / "runs"), "--epochs", "5000", "--batch-size", "8", "--input-size", "64", "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGINT)
        if "starting no other category" in line:
            if times == 2:
                process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    if times == 1:
        assert process.returncode == 0, err
        assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["bolts", "stopped"], ["nuts", "not"]]
        assert load_run(tmp_path / "runs" / "bolts").progress.state == "stopped"
    else:
        assert process.returncode != 0
        assert "categories" not in out
        assert load_run(tmp_path / "runs" / "bolts").progress.state == "stopped"
    assert not (tmp_path / "runs" / "nuts").exists()
