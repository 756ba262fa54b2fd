"""Detection shared out to a Ray cluster: the bytes of one process, also when a worker dies, and what is said without."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import forked_program
import pytest
from products import defective_image, files_in, good_image

from uflow_cli.cluster import mapped
from uflow_cli.errors import UflowError
from uflow_cli.images import write_png
from uflow_cli.results import LINES_NAME

N_IMAGES = 24
PATIENCE = 300.0  # seconds
OUT = "out"


def workers_of(process: int) -> list[int]:
    """The actors of ours below `process`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if not (entry / "cmdline").read_bytes().startswith(b"ray::Worker"):
                continue
            ancestor = int(entry.name)
            while ancestor not in (0, process):
                ancestor = int(Path(f"/proc/{ancestor}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if ancestor == process:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_two_workers_one_of_them_killed_leave_the_bytes_of_one_process(graph_run, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tmp_path / "in"
    for i in range(N_IMAGES):
        write_png(folder / f"lot{i % 2}" / f"{i:02d}.png", defective_image(i)[0] if i % 4 == 0 else good_image(i))
    (folder / "lot0" / "cut.png").write_bytes(b"cut")
    said = tmp_path / "said.txt"

    def start(place: str, *options: str):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)  # results name their pictures as --out was given
        command = ["detect", folder, "--model", graph_run, "--out", OUT, "--jsonl", "lines.jsonl", "--quiet", *options]
        return forked_program.start(command, said)

    start("whole").join(PATIENCE)
    process = start("shared", "--engine", "ray", "--workers", "2")
    end = time.monotonic() + PATIENCE
    while len(workers := workers_of(process.pid)) < 2:
        assert time.monotonic() < end, said.read_text()
        assert process.is_alive(), said.read_text()
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)
    lines = tmp_path / "shared" / OUT / LINES_NAME
    assert not lines.exists() or lines.read_text().count("\n") < N_IMAGES
    process.join(PATIENCE)
    assert process.exitcode == 1, said.read_text()  # for the file that is no image
    whole, shared = files_in(tmp_path / "whole"), files_in(tmp_path / "shared")
    assert shared.keys() == whole.keys()
    assert [name for name in whole if shared[name] != whole[name]] == []


def test_ray_that_is_not_here_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UflowError, match=r'^ray is not installed; pip install "uflow-cli\[ray\]"'):
        next(mapped(lambda: str, [1], n_workers=2, on_gpu=False))


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UflowError, match=r"no Ray cluster at RAY_ADDRESS=127\.0\.0\.1:9 .*refused.*; begin one there"):
        next(mapped(lambda: str, [1], n_workers=2, on_gpu=False))
