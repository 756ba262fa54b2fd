"""A series of trainings: every category gets its own, whatever becomes of the others, and nothing is done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil

import pytest
import torch
from products import SMALL_MODEL, Recorder

import uflow_cli
from uflow_cli.config import TrainingConfig
from uflow_cli.errors import TrainingError
from uflow_cli.run.record import load_run
from uflow_cli.run.state import has_state
from uflow_cli.series import train_series

CONFIG = TrainingConfig(epochs=2, batch_size=8)


@pytest.fixture
def root(product, tmp_path):
    """Three categories with the same images; one image of the second is cut short."""
    for name in ("bolts", "nuts", "washers"):
        shutil.copytree(product / "stripes" / "train", tmp_path / "data" / name / "train")
    broken = tmp_path / "data" / "nuts" / "train" / "good" / "003.png"
    broken.write_bytes(broken.read_bytes()[:200])
    return tmp_path / "data"


@pytest.fixture
def series(root, tmp_path):
    """`series(*categories, ...)` trains them below tmp_path / "runs" and gives the outcomes as a list."""

    def run(*categories, config=CONFIG, observe=None, on_bug=None, **options):
        @contextlib.contextmanager
        def silent(task):
            yield Recorder([])

        def unexpected(traceback):
            raise AssertionError(traceback)

        return list(
            train_series(
                "mvtec", categories, root=root, out=tmp_path / "runs", settings=lambda dataset, category: (SMALL_MODEL, config),
                device=torch.device("cpu"), observe=observe or silent, on_bug=on_bug or unexpected, **options,
            )
        )  # fmt: skip

    return run


def states(outcomes):
    return {outcome.category: outcome.state for outcome in outcomes}


def test_a_failure_does_not_keep_the_others_from_their_training(series, tmp_path):
    outcomes = series("bolts", "nuts", "washers")
    assert states(outcomes) == {"bolts": "finished", "nuts": "failed", "washers": "finished"}
    assert "003.png" in outcomes[1].message
    for name in ("bolts", "washers"):
        run = load_run(tmp_path / "runs" / name)
        assert (run.origin.category, run.progress.epochs_done, run.progress.state) == (name, 2, "finished")
    assert not (tmp_path / "runs" / "nuts" / "config.json").exists()


def test_what_is_finished_is_not_trained_again(series, tmp_path):
    [first] = series("bolts")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "bolts").iterdir()}

    def must_not(task):
        raise AssertionError(f"{task.data.category} is trained again")

    [second] = series("bolts", observe=must_not)
    assert second.state == "done before"
    assert second.run == first.run
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "bolts").iterdir()} == before


def test_a_run_of_other_settings_is_neither_taken_nor_lost(series, tmp_path):
    series("bolts")
    other = dataclasses.replace(CONFIG, epochs=1, seed=7)
    [outcome] = series("bolts", config=other)
    assert outcome.state == "failed"
    assert "epochs = 2 instead of 1, seed = 0 instead of 7" in outcome.message
    assert "--overwrite" in outcome.message
    assert load_run(tmp_path / "runs" / "bolts").training == CONFIG
    [outcome] = series("bolts", config=other, overwrite=True)
    assert outcome.state == "finished"
    assert load_run(tmp_path / "runs" / "bolts").training == other


def test_a_run_of_another_version_is_neither_taken_nor_lost(series, tmp_path):
    series("bolts")
    config = tmp_path / "runs" / "bolts" / "config.json"
    values = json.loads(config.read_text())
    for version, told in (("0.0.1", "0.0.1"), (None, "an unknown version")):
        values["origin"]["version"] = version
        config.write_text(json.dumps(values))
        [outcome] = series("bolts")
        assert outcome.state == "failed"
        assert f"uflow = {told} instead of {uflow_cli.__version__}; replace it with --overwrite" in outcome.message
        assert json.loads(config.read_text()) == values


def test_a_run_on_fewer_images_than_there_are_now_is_not_taken(series, root):
    series("bolts")
    good = root / "bolts" / "train" / "good"
    shutil.copy(good / "000.png", good / "extra.png")
    [outcome] = series("bolts")
    assert outcome.state == "failed"
    assert "20 images and there are 21 now" in outcome.message


def test_a_stopped_series_goes_on_where_it_was_stopped(series, tmp_path):
    outcomes = series("bolts", "washers", should_stop=iter([False, True, True]).__next__)
    assert states(outcomes) == {"bolts": "stopped", "washers": "not started"}
    assert load_run(tmp_path / "runs" / "bolts").progress.epochs_done == 1
    assert has_state(tmp_path / "runs" / "bolts")
    resumed = []

    @contextlib.contextmanager
    def observe(task):
        recorder = Recorder([])
        yield recorder
        resumed.append((task.data.category, task.resumed, [record.epoch for record in recorder.epochs]))

    outcomes = series("bolts", "washers", observe=observe)
    assert states(outcomes) == {"bolts": "finished", "washers": "finished"}
    assert resumed == [("bolts", True, [2]), ("washers", False, [1, 2])]
    bolts, washers = (outcome.run.progress for outcome in outcomes)
    assert bolts == washers  # of the same images: a stop in between makes no difference


def test_an_unfinished_training_of_other_settings_is_not_gone_on_with(series):
    series("bolts", should_stop=iter([False, True]).__next__)
    [outcome] = series("bolts", config=dataclasses.replace(CONFIG, batch_size=4))
    assert outcome.state == "failed"
    assert "batch_size = 8 instead of 4" in outcome.message


def test_a_bug_is_told_with_its_traceback_and_the_series_goes_on(series):
    tracebacks = []

    @contextlib.contextmanager
    def observe(task):
        if task.number == 1:
            raise ZeroDivisionError("a bug in between")
        yield Recorder([])

    outcomes = series("bolts", "washers", observe=observe, on_bug=tracebacks.append)
    assert states(outcomes) == {"bolts": "failed", "washers": "finished"}
    assert outcomes[0].message == "ZeroDivisionError: a bug in between"
    assert "Traceback" in tracebacks[0]


def test_a_second_interrupt_ends_the_series_at_once(series):
    @contextlib.contextmanager
    def observe(task):
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        series("bolts", "washers", observe=observe)


def test_several_processes_are_sent_away(series, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="once per category"):
        series("bolts")
