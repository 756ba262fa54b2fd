"""`uflow train --resume`: after a kill or Ctrl-C at any moment to the same model, and one clear line for the rest."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import threading
import time

import forked_program
import pytest
from products import good_image
from safetensors.numpy import load_file

from uflow_cli.images import write_png
from uflow_cli.run.lock import LOCK_NAME
from uflow_cli.run.record import CONFIG_NAME, load_run

N_KILLS = 20
needs_signals = pytest.mark.skipif(os.name == "nt", reason="signals")


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for i in range(12):
        write_png(folder / f"{i}.png", good_image(i))
    return folder


def settings(folder, out, epochs):
    return ["train", "--images", folder, "--out", out, "--epochs", epochs, "--batch-size", 3, "--input-size", 96,
            "--learning-rate", 3e-4, "--flow-precision", "fp32", "--device", "cpu"]  # fmt: skip


def outcome(folder):
    """All that a training left, without what the clock says."""
    config = json.loads((folder / CONFIG_NAME).read_text())
    head, *rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    clock = {"seconds", "images_per_second"}
    log = [{name: cell for name, cell in zip(head, row, strict=True) if name not in clock} for row in rows]
    names = sorted(path.name for path in folder.iterdir())
    tensors = load_file(folder / config["weights"])
    weights = {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}
    return names, config, log, weights


def command(folder, out, epochs):
    """How a user goes on: resumes what there is, and otherwise begins."""
    is_begun = (out / "training.safetensors").exists() or (out / CONFIG_NAME).exists()
    return ["train", "--resume", out, "--device", "cpu"] if is_begun else settings(folder, out, epochs)


def wait_for(path, process):
    while not path.exists():
        assert process.exitcode is None
        time.sleep(0.01)


@pytest.mark.slow
@needs_signals
def test_kills_at_random_moments_change_nothing(good_folder, tmp_path):
    output = tmp_path / "output.txt"
    forked_program.start(["--version"], output).join()  # the server imports before the clock starts
    start = time.monotonic()
    process = forked_program.start(settings(good_folder, tmp_path / "whole", 5), output)
    wait_for(tmp_path / "whole" / CONFIG_NAME, process)
    until_first_epoch = time.monotonic() - start
    process.join()
    expected = outcome(tmp_path / "whole")
    rng, kills, runs = random.Random(0), 0, 0
    while kills < N_KILLS:
        out, runs = tmp_path / f"run{runs}", runs + 1
        while True:
            process = forked_program.start(command(good_folder, out, 5), output)
            process.join(rng.uniform(0, 1.5 * until_first_epoch))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
        assert process.exitcode == 0, output.read_text()
        assert outcome(out) == expected
    assert runs < N_KILLS  # some were killed more than once


@pytest.mark.slow
@needs_signals
def test_ctrl_c_once_finishes_the_epoch_and_twice_stops_at_once(good_folder, tmp_path):
    out, output, epochs = tmp_path / "run", tmp_path / "output.txt", 8
    process = forked_program.start(settings(good_folder, out, epochs), output)
    wait_for(out / CONFIG_NAME, process)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 0, output.read_text()
    done = load_run(out).progress.epochs_done
    assert (load_run(out).progress.state, done < epochs) == ("stopped", True)
    before = (out / CONFIG_NAME).read_bytes()
    process = forked_program.start(command(good_folder, out, epochs), output)
    while (out / CONFIG_NAME).read_bytes() == before:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    if load_run(out).progress.state != "finished":
        assert process.exitcode != 0
    process = forked_program.start(command(good_folder, out, epochs), output)
    process.join()
    assert process.exitcode == 0, output.read_text()
    forked_program.start(settings(good_folder, tmp_path / "whole", epochs), output).join()
    assert outcome(out) == outcome(tmp_path / "whole")


def test_finished_training_says_so(uflow, good_folder, tmp_path):
    assert uflow(*settings(good_folder, tmp_path / "run", 1)).code == 0
    before = outcome(tmp_path / "run")
    for left in (LOCK_NAME, ".0123abcd.tmp"):  # by a kill in the last moment
        (tmp_path / "run" / left).touch()
    again = uflow("train", "--resume", tmp_path / "run")
    assert again.code == 0
    assert "is finished" in again.err
    assert outcome(tmp_path / "run") == before


@pytest.fixture
def interrupted(uflow, good_folder, tmp_path, monkeypatch):
    """Images of one's own and a run folder whose training was stopped after an epoch."""
    folder = shutil.copytree(good_folder, tmp_path / "images")

    @contextlib.contextmanager
    def interrupted_at_once(_warn):
        event = threading.Event()
        event.set()
        yield event

    monkeypatch.setattr(importlib.import_module("uflow_cli.cli.train"), "stop_on_interrupt", interrupted_at_once)
    assert uflow(*settings(folder, tmp_path / "run", 2)).code == 0
    monkeypatch.undo()
    assert load_run(tmp_path / "run").progress.state == "stopped"
    return folder, tmp_path / "run"


def test_stopped_training_goes_on(uflow, interrupted):
    outcome = uflow("train", "--resume", interrupted[1])
    assert outcome.code == 0, outcome.err
    assert "resuming" in outcome.err
    assert "after epoch 1" in outcome.err
    assert load_run(interrupted[1]).progress.state == "finished"


def test_changed_folder_is_one_line(uflow, interrupted):
    folder, run = interrupted
    write_png(folder / "new.png", good_image(77))
    outcome = uflow("train", "--resume", run)
    assert outcome.code == 1
    [line] = [line for line in outcome.err.splitlines() if line.startswith("uflow:")]
    assert "new.png was not there when this training began" in line


@pytest.mark.parametrize("option", [["--epochs", 9], ["--seed", 0], ["--out", "x"], ["--overwrite"]])
def test_settings_beside_resume_are_wrong_usage(uflow, interrupted, option):
    outcome = uflow("train", "--resume", interrupted[1], *option)
    assert outcome.code == 2
    assert option[0] in outcome.err


def test_nothing_to_resume_is_one_line(uflow, tmp_path):
    outcome = uflow("train", "--resume", tmp_path)
    assert outcome.code == 1
    assert "holds no training to resume" in outcome.err
