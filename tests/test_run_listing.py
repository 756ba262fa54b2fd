"""The list of runs: every run folder with its true state, and the damaged ones with what is wrong."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from uflow_cli.errors import UflowError
from uflow_cli.run.listing import list_runs, runs_to_dict
from uflow_cli.run.lock import sole_training
from uflow_cli.run.record import STATE_NAME, load_run


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def copy(small_run, root):
    """`copy(name, state)` makes a run of that name whose training is in that state."""

    def make(name, state="finished", *, modified=None):
        folder = shutil.copytree(small_run, root / name)
        config = json.loads((folder / "config.json").read_text())
        config["progress"]["state"] = state
        (folder / "config.json").write_text(json.dumps(config))
        for path in folder.iterdir():
            if modified is not None:
                os.utime(path, (modified, modified))
        return folder

    return make


def test_runs_are_listed_newest_first_at_any_depth(copy, root):
    copy("old", modified=1_000_000)
    copy("deep/er/new", modified=3_000_000)
    copy("deep/middle", modified=2_000_000)
    (root / "empty").mkdir()
    found = list_runs([root])
    assert [str(listed.folder.relative_to(root)) for listed in found] == ["deep/er/new", "deep/middle", "old"]
    assert found[-1].modified == datetime(1970, 1, 12, 13, 46, 40, tzinfo=UTC)


def test_a_run_can_be_named_itself_and_counts_once(copy, root):
    folder = copy("one")
    assert [listed.folder for listed in list_runs([folder, root, root])] == [folder]


@pytest.mark.parametrize(
    ("written", "idle", "busy"),
    [
        ("finished", "finished", "finished"),
        ("stopped", "stopped", "training"),
        ("failed", "failed", "training"),
        ("training", "interrupted", "training"),
    ],
)
def test_the_state_is_what_a_process_does_now_else_what_was_written(copy, written, idle, busy):
    folder = copy("run", written)
    assert [listed.state for listed in list_runs([folder])] == [idle]
    with sole_training(folder):
        assert [listed.state for listed in list_runs([folder])] == [busy]


def test_a_training_before_its_first_epoch_is_listed(root):
    folder = root / "begun"
    folder.mkdir(parents=True)
    (folder / STATE_NAME).write_bytes(b"")
    [listed] = list_runs([root])
    assert (listed.state, listed.run, listed.problem) == ("interrupted", None, "")
    with sole_training(folder):
        assert [listed.state for listed in list_runs([root])] == ["training"]


@pytest.mark.parametrize("what", ["no configuration", "cut short", "not ours", "no weights", "newer"])
def test_damaged_runs_are_listed_with_what_is_wrong(copy, root, what):
    copy("whole")
    folder = copy("hurt")
    config = folder / "config.json"
    if what == "no configuration":
        config.unlink()
    elif what == "cut short":
        config.write_text(config.read_text()[:100])
    elif what == "not ours":
        config.write_text('{"architectures": ["Bert"]}')
    elif what == "no weights":
        (folder / load_run(folder).weights).unlink()
    else:
        config.write_text(config.read_text().replace('"version": 3', '"version": 99'))
    by_name = {listed.folder.name: listed for listed in list_runs([root])}
    assert by_name["whole"].state == "finished"
    assert (by_name["hurt"].state, by_name["hurt"].run) == ("damaged", None)
    assert str(folder) in by_name["hurt"].problem


def test_folders_of_other_programs_are_not_listed(copy, root):
    copy("whole")
    (root / "bert").mkdir()
    (root / "bert" / "config.json").write_text('{"architectures": ["Bert"]}')
    assert [listed.folder.name for listed in list_runs([root])] == ["whole"]


def test_a_run_that_may_not_be_read_is_listed_as_damaged(copy, root, monkeypatch):
    copy("whole")
    secret = copy("secret") / "config.json"
    read_text = Path.read_text

    def refuse(path, *arguments, **options):
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    by_name = {listed.folder.name: listed for listed in list_runs([root])}
    assert by_name["whole"].state == "finished"
    assert "Permission denied" in by_name["secret"].problem


def test_the_size_is_that_of_the_run_without_runs_below_it(copy, root):
    folder = copy("one")
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    copy("one/two")
    (folder / "notes").mkdir()
    (folder / "notes" / "table.csv").write_bytes(b"x" * 1000)
    sizes = {listed.folder.name: listed.n_bytes for listed in list_runs([root])}
    assert sizes["one"] == own + 1000
    assert sizes["two"] == own


def test_a_missing_root_is_an_error(tmp_path):
    with pytest.raises(UflowError, match="no such folder"):
        list_runs([tmp_path / "nowhere"])


def test_json_has_the_key_figures(copy, root):
    folder = copy("run")
    run = load_run(folder)
    [values] = runs_to_dict(list_runs([root]))["runs"]
    assert values["folder"] == str(folder)
    assert (values["dataset"], values["category"], values["preset"]) == ("mvtec", "stripes", "lite")
    assert (values["images"], values["epochs_done"], values["epochs"]) == (20, 4, 4)
    assert values["best_epoch"] == run.progress.best_epoch
    assert values["held_out_loss"] == run.progress.held_out_loss
    assert values["smallest_false_alarm_rate"] == pytest.approx(1 / 9)  # 8 images are held out
    assert json.loads(json.dumps(values)) == values
