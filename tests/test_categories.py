"""Training and evaluation of many categories: no failure takes others with it, and nothing is done twice."""

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
from uflow_cli import workers
from uflow_cli.categories import (
    EvaluationSettings,
    EvaluationTask,
    evaluate_categories,
    is_evaluated,
    train_categories,
    write_table,
)
from uflow_cli.config import TrainingConfig
from uflow_cli.datasets import load_dataset
from uflow_cli.errors import TrainingError, UflowError
from uflow_cli.evaluation import evaluate_run
from uflow_cli.report import table_csv, table_markdown, table_rows
from uflow_cli.run.record import load_run
from uflow_cli.run.state import has_state
from uflow_cli.workers import Outcome

CONFIG = TrainingConfig(epochs=2, batch_size=8)
SETTINGS = EvaluationSettings()


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


class Warned:
    """Observes in a category's process, and notes in `folder` at once that it heard a warning."""

    def __init__(self, folder):
        self.folder = folder

    @contextlib.contextmanager
    def __call__(self, task):
        recorder = Recorder([])
        recorder.on_warning = lambda message: (self.folder / "warned").write_text(message)
        yield recorder


@pytest.fixture
def root(product, tmp_path):
    """Three categories with the same images; one image of the second is cut short."""
    for name in ("bolts", "nuts", "washers"):
        shutil.copytree(product / "stripes" / "train", tmp_path / "data" / name / "train")
    broken = tmp_path / "data" / "nuts" / "train" / "good" / "003.png"
    broken.write_bytes(broken.read_bytes()[:200])
    return tmp_path / "data"


@pytest.fixture
def trained(root, tmp_path):
    """`trained(*categories, ...)` trains them below tmp_path / "runs" and gives the outcomes as a list."""

    def run(*categories, config=CONFIG, observe=silent, on_bug=None, **options):
        def unexpected(traceback):
            raise AssertionError(traceback)

        return list(
            train_categories(
                "mvtec", categories, root=root, out=tmp_path / "runs", settings=lambda *_: (SMALL_MODEL, config),
                device=torch.device("cpu"), observe=observe, on_bug=on_bug or unexpected, **options,
            )
        )  # fmt: skip

    return run


def states(outcomes):
    return {outcome.category: outcome.state for outcome in outcomes}


def test_a_failure_does_not_keep_the_others_from_their_training(trained, tmp_path):
    outcomes = trained("bolts", "nuts", "washers", observe=Warned(tmp_path))
    assert states(outcomes) == {"bolts": "finished", "nuts": "failed", "washers": "finished"}
    assert "003.png" in outcomes[1].message
    for name in ("bolts", "washers"):
        run = load_run(tmp_path / "runs" / name)
        assert (run.origin.category, run.progress.epochs_done, run.progress.state) == (name, 2, "finished")
    assert not (tmp_path / "runs" / "nuts" / "config.json").exists()
    assert not (tmp_path / "warned").exists()  # neither a failure nor an end is a reason to tell of a stop


def test_what_is_finished_is_not_trained_again(trained, tmp_path):
    [first] = trained("bolts")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "bolts").iterdir()}

    [second] = trained("bolts", observe=must_not)
    assert second.state == "done before"
    assert second.result == first.result
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "bolts").iterdir()} == before


def test_a_run_of_other_settings_is_neither_taken_nor_lost(trained, tmp_path):
    trained("bolts")
    other = dataclasses.replace(CONFIG, epochs=1, seed=7)
    [outcome] = trained("bolts", config=other)
    assert outcome.state == "failed"
    assert "epochs = 2 instead of 1, seed = 0 instead of 7" in outcome.message
    assert "--overwrite" in outcome.message
    assert load_run(tmp_path / "runs" / "bolts").training == CONFIG
    [outcome] = trained("bolts", config=other, overwrite=True)
    assert outcome.state == "finished"
    assert load_run(tmp_path / "runs" / "bolts").training == other


def test_a_run_of_another_version_is_neither_taken_nor_lost(trained, tmp_path):
    trained("bolts")
    config = tmp_path / "runs" / "bolts" / "config.json"
    values = json.loads(config.read_text())
    for version, told in (("0.0.1", "0.0.1"), (None, "an unknown version")):
        values["origin"]["version"] = version
        config.write_text(json.dumps(values))
        [outcome] = trained("bolts")
        assert outcome.state == "failed"
        assert f"uflow = {told} instead of {uflow_cli.__version__}; replace it with --overwrite" in outcome.message
        assert json.loads(config.read_text()) == values


def test_a_run_on_fewer_images_than_there_are_now_is_not_taken(trained, root):
    trained("bolts")
    good = root / "bolts" / "train" / "good"
    shutil.copy(good / "000.png", good / "extra.png")
    [outcome] = trained("bolts")
    assert outcome.state == "failed"
    assert "20 images and there are 21 now" in outcome.message


def test_a_stopped_training_goes_on_where_it_was_stopped(trained, tmp_path):
    noting = Noting(tmp_path, waits=True)
    outcomes = trained("bolts", "washers", observe=noting, should_stop=noting.should_stop)
    assert states(outcomes) == {"bolts": "stopped", "washers": "not started"}
    assert load_run(tmp_path / "runs" / "bolts").progress.epochs_done == 1
    assert has_state(tmp_path / "runs" / "bolts")
    [[*_, warnings]] = noting.heard()
    assert len(warnings) == 1
    assert "starting no other category" in warnings[0]
    outcomes = trained("bolts", "washers", observe=Noting(tmp_path))
    assert states(outcomes) == {"bolts": "finished", "washers": "finished"}
    assert noting.heard()[1:] == [["bolts", True, [2], []], ["washers", False, [1, 2], []]]
    bolts, washers = (outcome.result.progress for outcome in outcomes)
    assert bolts == washers  # of the same images: a stop in between makes no difference


def test_an_unfinished_training_of_other_settings_is_not_gone_on_with(trained, tmp_path):
    noting = Noting(tmp_path, waits=True)
    trained("bolts", observe=noting, should_stop=noting.should_stop)
    [outcome] = trained("bolts", config=dataclasses.replace(CONFIG, batch_size=4))
    assert outcome.state == "failed"
    assert "batch_size = 8 instead of 4" in outcome.message


def test_a_bug_is_told_with_its_traceback_and_the_training_goes_on(trained):
    tracebacks = []
    outcomes = trained("bolts", "washers", observe=broken_first, on_bug=tracebacks.append)
    assert states(outcomes) == {"bolts": "failed", "washers": "finished"}
    assert outcomes[0].message == "ZeroDivisionError: a bug in between"
    assert "Traceback" in tracebacks[0]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_process_that_is_killed_is_told_and_the_training_goes_on(trained):
    outcomes = trained("bolts", "washers", observe=killed_first)
    assert states(outcomes) == {"bolts": "failed", "washers": "finished"}
    assert "signal 9; too little memory is a common cause" in outcomes[0].message


def test_a_second_interrupt_ends_the_training_at_once(trained, tmp_path):
    noting = Noting(tmp_path, waits=True)

    def should_stop():
        if noting.should_stop():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        trained("bolts", "washers", observe=noting, should_stop=should_stop)
    assert not multiprocessing.active_children()
    assert load_run(tmp_path / "runs" / "bolts").progress.state == "stopped"
    assert not (tmp_path / "runs" / "washers").exists()


def test_several_processes_are_sent_away(trained, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="once per category"):
        trained("bolts")


@pytest.fixture
def tasks(small_run, product, tmp_path):
    """The same product as two categories, each with a run."""
    data, runs = tmp_path / "data", tmp_path / "runs"
    for name in ("dots", "stripes"):
        shutil.copytree(product / "stripes", data / name)
        shutil.copytree(small_run, runs / name)
    return [EvaluationTask("mvtec", name, data, runs / name, tmp_path / "out" / name) for name in ("dots", "stripes")]


def evaluated(tasks, settings):
    return list(evaluate_categories(tasks, settings, device="cpu"))


def test_a_failed_evaluation_is_told_and_the_rest_is_done_and_kept(tasks):
    (tasks[0].run / "config.json").write_text("{}")
    outcomes = evaluated(tasks, SETTINGS)
    assert [outcome.category for outcome in outcomes] == ["dots", "stripes"]
    assert "config.json is damaged" in outcomes[0].message
    assert outcomes[0].result is None
    assert outcomes[1].result.image_auroc == 1.0
    again = evaluated(tasks, SETTINGS)
    assert [outcome.state for outcome in again] == ["failed", "done before"]
    assert (tasks[1].out / "sweep.svg").read_text().startswith("<svg")


def test_a_worker_that_is_killed_is_told(tasks, monkeypatch):
    monkeypatch.setattr(workers, "_work", _die)
    outcomes = evaluated(tasks[:1], SETTINGS)
    assert "signal 9" in outcomes[0].message
    assert "memory" in outcomes[0].message


def _die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_result_is_current_only_for_the_same_uflow_images_run_and_settings(tasks, monkeypatch):
    task = tasks[1]
    evaluated([task], SETTINGS)
    assert is_evaluated(task, SETTINGS)
    assert not is_evaluated(task, EvaluationSettings(nfa_threshold=-1.0))
    with monkeypatch.context() as other:
        other.setattr(uflow_cli, "__version__", "0.0.1", raising=False)
        assert not is_evaluated(task, SETTINGS)
    config = task.run / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"shared": true', '"shared": false'))
    assert not is_evaluated(task, SETTINGS)
    config.write_text(text)
    image = next((task.root / "stripes" / "test" / "spot").iterdir())
    os.utime(image, (1, 1))
    assert not is_evaluated(task, SETTINGS)


def test_means_are_over_the_papers_groups_and_over_all(small_run, product):
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
    nasty = [
        dataclasses.replace(row, name=name) for row, name in zip(rows, ("=1+2", "@x", "a|<b>", "-0.5"), strict=False)
    ]
    assert [line.partition(",")[0] for line in table_csv(nasty).splitlines()[1:]] == ["'=1+2", "'@x", "a|<b>", "-0.5"]
    assert r"| a\|&lt;b&gt; |" in table_markdown(nasty, title="t")
    unknown = table_rows([dataclasses.replace(one, category=n) for n in ("carpet", "stripes")])
    assert unknown[-1].cell("pixel_auroc")[1] == ""  # a published mean over other categories would mislead


def test_written_table_tells_failures(tasks, tmp_path):
    outcomes = [Outcome("dots", "failed", message="no such thing")]
    write_table(tmp_path / "t", [], outcomes, dataset="mvtec")
    values = json.loads((tmp_path / "t" / "table.json").read_text())
    assert values["errors"] == {"dots": "no such thing"}
    with pytest.raises(UflowError):
        write_table(tmp_path / "t" / "table.json", [], outcomes, dataset="mvtec")
