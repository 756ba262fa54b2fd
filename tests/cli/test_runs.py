"""`uflow runs`: a table for people, JSON for programs, and no failure for what is damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from uflow_cli.schema import VERSION


def test_runs_are_found_below_the_working_folder(uflow, small_run, tmp_path, monkeypatch):
    shutil.copytree(small_run, tmp_path / "runs" / "mvtec" / "stripes")
    monkeypatch.chdir(tmp_path)
    outcome = uflow("runs")
    assert (outcome.code, outcome.err) == (0, "")
    header, line = outcome.out.splitlines()
    assert header.split()[:2] == ["run", "state"]
    assert line.split()[:2] == ["runs/mvtec/stripes", "finished"]
    assert "4/4" in line
    assert "0.111" in line


def test_damaged_runs_are_told_and_do_no_harm(uflow, small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "whole")
    hurt = shutil.copytree(small_run, tmp_path / "hurt")
    (hurt / "config.json").write_text("{")
    outcome = uflow("runs", tmp_path)
    assert outcome.code == 0
    assert "damaged" in outcome.out
    assert f"damaged: {hurt}/config.json is damaged: it is not a run configuration" in outcome.out
    assert "finished" in outcome.out


def test_json_is_all_there_is_on_stdout(uflow, small_run, tmp_path):
    outcome = uflow("runs", small_run, "--json")
    values = json.loads(outcome.out)
    assert values["version"] == VERSION
    assert [run["folder"] for run in values["runs"]] == [str(small_run)]


def test_no_run_yet_is_no_error(uflow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = uflow("runs")
    assert outcome.code == 0
    assert "no run below runs; train one" in outcome.out
    assert json.loads(uflow("runs", "--json").out) == {"version": VERSION, "runs": []}


def test_a_folder_that_is_not_there_is_one_line(uflow, tmp_path):
    outcome = uflow("runs", tmp_path / "nowhere")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "nowhere: no such folder" in outcome.err


def test_the_list_does_not_wait_for_torch(small_run):
    code = (
        "import sys\nfrom uflow_cli.cli import main\n"
        f"sys.argv = ['uflow', 'runs', {str(small_run)!r}]\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "finished" in result.stdout
