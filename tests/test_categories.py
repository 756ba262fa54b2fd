"""Training of many categories: each gets its own, whatever becomes of the others, and nothing is done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from products import SMALL_MODEL, Recorder

import uflow_cli
from uflow_cli.categories import train_categories
from uflow_cli.config import TrainingConfig
from uflow_cli.errors import TrainingError
from uflow_cli.run.record import load_run
from uflow_cli.run.state import has_state

CONFIG = TrainingConfig(epochs=2, batch_size=8)


@contextlib.contextmanager
def silent(task):
    yield Recorder([])


def must_not(task):
    raise AssertionError(f"{task.data.category} is trained again")


@contextlib.contextmanager
def broken_first(task):
    if task.number == 1:
        raise ZeroDivisionError("a bug in between")
    yield Recorder([])


@contextlib.contextmanager
def killed_first(task):
    if task.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    yield Recorder([])


class Noting:
    """Observes in a category's process, and notes in `folder` for the test what it heard; may wait for the stop."""

    def __init__(self, folder, *, waits=False):
        self.folder, self.waits = folder, waits

    @contextlib.contextmanager
    def __call__(self, task):
        recorder = Waiting([], folder=self.folder) if self.waits else Recorder([])
        yield recorder
        heard = [task.data.category, task.resumed, [record.epoch for record in recorder.epochs], recorder.warnings]
        with (self.folder / "heard").open("a") as file:
            file.write(json.dumps(heard) + "\n")

    def heard(self):
        return [json.loads(line) for line in (self.folder / "heard").read_text().splitlines()]

    @property
    def should_stop(self):
        return (self.folder / "epoch").exists


@dataclasses.dataclass
class Waiting(Recorder):
    """Lets the first epoch end only when it was told to stop."""

    folder: Path = Path()

    def on_epoch(self, record):
        super().on_epoch(record)
        (self.folder / "epoch").touch()
        while not self.warnings:
            time.sleep(0.01)


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

    def run(*categories, config=CONFIG, observe=silent, on_bug=None, **options):
        def unexpected(traceback):
            raise AssertionError(traceback)

        return list(
            train_categories(
                "mvtec", categories, root=root, out=tmp_path / "runs", settings=lambda dataset, category: (SMALL_MODEL, config),
                device=torch.device("cpu"), observe=observe, on_bug=on_bug or unexpected, **options,
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
    noting = Noting(tmp_path, waits=True)
    outcomes = series("bolts", "washers", observe=noting, should_stop=noting.should_stop)
    assert states(outcomes) == {"bolts": "stopped", "washers": "not started"}
    assert load_run(tmp_path / "runs" / "bolts").progress.epochs_done == 1
    assert has_state(tmp_path / "runs" / "bolts")
    [[*_, warnings]] = noting.heard()
    assert len(warnings) == 1
    assert "starting no other category" in warnings[0]
    outcomes = series("bolts", "washers", observe=Noting(tmp_path))
    assert states(outcomes) == {"bolts": "finished", "washers": "finished"}
    assert noting.heard()[1:] == [["bolts", True, [2], []], ["washers", False, [1, 2], []]]
    bolts, washers = (outcome.run.progress for outcome in outcomes)
    assert bolts == washers  # of the same images: a stop in between makes no difference


def test_an_unfinished_training_of_other_settings_is_not_gone_on_with(series, tmp_path):
    noting = Noting(tmp_path, waits=True)
    series("bolts", observe=noting, should_stop=noting.should_stop)
    [outcome] = series("bolts", config=dataclasses.replace(CONFIG, batch_size=4))
    assert outcome.state == "failed"
    assert "batch_size = 8 instead of 4" in outcome.message


def test_a_bug_is_told_with_its_traceback_and_the_series_goes_on(series):
    tracebacks = []
    outcomes = series("bolts", "washers", observe=broken_first, on_bug=tracebacks.append)
    assert states(outcomes) == {"bolts": "failed", "washers": "finished"}
    assert outcomes[0].message == "ZeroDivisionError: a bug in between"
    assert "Traceback" in tracebacks[0]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_process_that_is_killed_is_told_and_the_series_goes_on(series):
    outcomes = series("bolts", "washers", observe=killed_first)
    assert states(outcomes) == {"bolts": "failed", "washers": "finished"}
    assert "signal 9; too little memory is a common cause" in outcomes[0].message


def test_a_second_interrupt_ends_the_series_at_once(series, tmp_path):
    noting = Noting(tmp_path, waits=True)

    def should_stop():
        if noting.should_stop():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        series("bolts", "washers", observe=noting, should_stop=should_stop)
    assert not multiprocessing.active_children()
    assert load_run(tmp_path / "runs" / "bolts").progress.state == "stopped"
    assert not (tmp_path / "runs" / "washers").exists()


def test_several_processes_are_sent_away(series, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="once per category"):
        series("bolts")
