"""Several processes train the flow that one would have trained; what stops or breaks one of them ends them all."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time

import forked_program
import pytest
from products import good_image
from safetensors.torch import load_file

from uflow_cli.images import write_png
from uflow_cli.run.record import CONFIG_NAME, load_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for i in range(12):
        write_png(folder / f"{i}.png", good_image(i, side=64))
    return folder


def arguments(folder, out, *, epochs=3, batch_size=5):
    """Six images train: with batches of five the last one is a single image, and one process has nothing to do."""
    return ["train", "--images", folder, "--out", out, "--epochs", epochs, "--batch-size", batch_size,
            "--input-size", 64, "--learning-rate", 1e-3, "--flow-precision", "fp32", "--device", "cpu"]  # fmt: skip


def start_two(command, folder):
    """Two processes as torchrun starts them, each with an output of its own in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        forked_program.start(command, folder / f"output{rank}.txt", RANK=rank, LOCAL_RANK=rank, **group)
        for rank in (0, 1)
    ]


def join(processes, *, seconds=120):
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(deadline - time.monotonic())
        assert process.exitcode is not None
    return [process.exitcode for process in processes]


def wait_for(path, process):
    while not path.exists():
        assert process.exitcode is None
        time.sleep(0.01)


def losses(out):
    with (out / "log.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in ("loss", "held_out_loss")]


def assert_same_training(one, several):
    assert losses(several) == pytest.approx(losses(one), rel=1e-5)
    assert load_run(several).progress.best_epoch == load_run(one).progress.best_epoch
    weights = [load_file(out / load_run(out).weights) for out in (one, several)]
    for name, value in weights[0].items():
        assert weights[1][name].numpy() == pytest.approx(value.numpy(), abs=1e-4), name


def test_two_processes_train_as_one_does(good_folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    join([forked_program.start(arguments(good_folder, one), tmp_path / "output.txt")])
    codes = join(start_two(arguments(good_folder, two), tmp_path))
    assert codes == [0, 0], (tmp_path / "output0.txt").read_text()
    assert_same_training(one, two)
    assert (tmp_path / "output1.txt").read_text() == ""  # only the first process talks


def test_ctrl_c_on_one_stops_all_and_two_go_on(good_folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    processes = start_two(arguments(good_folder, two, epochs=8), tmp_path)
    wait_for(two / CONFIG_NAME, processes[0])
    os.kill(processes[1].pid, signal.SIGINT)
    assert join(processes) == [0, 0]
    assert load_run(two).progress.state == "stopped"
    assert load_run(two).progress.epochs_done < 8
    assert join(start_two(["train", "--resume", two, "--device", "cpu"], tmp_path)) == [0, 0]
    join([forked_program.start(arguments(good_folder, one, epochs=8), tmp_path / "output.txt")])
    assert_same_training(one, two)


def test_error_of_the_first_ends_all_and_is_told_once(good_folder, tmp_path):
    join([forked_program.start(arguments(good_folder, tmp_path / "run", epochs=1), tmp_path / "output.txt")])
    assert join(start_two(arguments(good_folder, tmp_path / "run"), tmp_path)) == [1, 1]
    assert "--overwrite" in (tmp_path / "output0.txt").read_text()
    assert (tmp_path / "output1.txt").read_text() == ""


@pytest.mark.parametrize("killed", [0, 1])
def test_kill_of_one_ends_the_other(good_folder, tmp_path, killed):
    processes = start_two(arguments(good_folder, tmp_path / "run", epochs=5000), tmp_path)
    wait_for(tmp_path / "run" / CONFIG_NAME, processes[0])
    processes[killed].kill()
    codes = join(processes)
    assert codes[1 - killed] == 1
    assert "broke off" in (tmp_path / f"output{1 - killed}.txt").read_text()


@pytest.mark.slow
def test_torchrun_starts_them(good_folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    join([forked_program.start(arguments(good_folder, one, epochs=1), tmp_path / "output.txt")])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "uflow_cli", *map(str, arguments(good_folder, two, epochs=1))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_training(one, two)
