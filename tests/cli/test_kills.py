"""Kills at random moments: `uflow detect --resume` and `uflow watch` lose no image, repeat none, and end the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import forked_program
import pytest
from products import defective_image, files_in, good_image

from uflow_cli.images import write_png
from uflow_cli.results import LINES_NAME

N_KILLS = int(os.environ.get("UFLOW_TEST_KILLS", "4"))  # of each kind
N_IMAGES = 12
PATIENCE = 240.0  # seconds
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals")]


@pytest.fixture(scope="module")
def camera(tmp_path_factory) -> Path:
    """Images, three of them defective, in two folders, and a file that is none."""
    folder = tmp_path_factory.mktemp("camera")
    for i in range(N_IMAGES):
        image = defective_image(i)[0] if i % 4 == 0 else good_image(i)
        write_png(folder / f"lot{i % 2}" / f"{i:02d}.png", image)
    (folder / "lot0" / "cut.png").write_bytes(b"cut")
    return folder


def contents(out: Path) -> dict[str, bytes]:
    """All files below a folder of results, without what names the folder itself."""
    return {name: data.replace(str(out).encode(), b"OUT") for name, data in files_in(out).items()}


def test_a_killed_detection_goes_on_to_the_same_bytes(graph_run, camera, tmp_path):
    output = tmp_path / "output.txt"

    def start(out: Path):
        return forked_program.start(
            ["detect", camera, "--model", graph_run, "--out", out, "--resume", "--quiet"], output
        )

    forked_program.start(["--version"], output).join()  # the server imports before the clock starts
    begun = time.monotonic()
    process = start(tmp_path / "whole")
    process.join(PATIENCE)
    seconds = time.monotonic() - begun
    assert process.exitcode == 1  # for the file that is no image
    expected = contents(tmp_path / "whole")
    rng, kills, n_runs, grown = random.Random(0), 0, 0, 0
    while kills < N_KILLS:
        out, n_runs, before = tmp_path / f"out{n_runs}", n_runs + 1, 0
        while True:
            process = start(out)
            process.join(rng.uniform(0.3, 1.0) * seconds)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            n_lines = (out / LINES_NAME).read_bytes().count(b"\n") if (out / LINES_NAME).exists() else 0
            assert n_lines >= before  # what was done stays
            grown += n_lines > before
            before = n_lines
        assert process.exitcode == 1, output.read_text()
        assert contents(out) == expected
        shutil.rmtree(out)
    assert grown


def test_a_killed_watch_sees_each_image_once_and_moves_it(graph_run, camera, tmp_path):
    output, watched, out = tmp_path / "output.txt", tmp_path / "in", tmp_path / "out"
    options = ["--model", graph_run, "--out", out, "--move-good", tmp_path / "good", "--move-defect", tmp_path / "defect",
               "--poll", 0.02, "--settle", 0, "--quiet", "--on-defect", f"/bin/sh -c 'echo \"$UFLOW_ID\" >> {tmp_path / 'told'}'"]  # fmt: skip

    def lines() -> list[dict]:
        text = (out / LINES_NAME).read_text() if (out / LINES_NAME).exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def done() -> bool:
        return not list(watched.rglob("*.png")) and not list((out / "errands").glob("*.json"))

    watched.mkdir()
    begun = time.monotonic()
    forked_program.start(["detect", camera / "lot0" / "04.png", *options[:2], "--out", tmp_path / "one"], output).join()
    seconds = time.monotonic() - begun
    rng, kills, n_came = random.Random(0), 0, 0
    while kills < N_KILLS or not done():
        process = forked_program.start(["watch", watched, *options], output)
        if kills < N_KILLS:
            source = sorted((camera / "lot1").iterdir())[kills % 6] if kills % 2 else camera / "lot0" / "04.png"
            shutil.copyfile(source, watched / f"{n_came:03d}.tmp")
            (watched / f"{n_came:03d}.tmp").rename(watched / f"{n_came:03d}.png")
            n_came += 1
            process.join(rng.uniform(0.3, 1.3) * seconds)
            assert process.exitcode is None, output.read_text()
            process.kill()
            process.join()
            kills += 1
        else:
            end = time.monotonic() + PATIENCE
            while not done():
                assert time.monotonic() < end, output.read_text()
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGTERM)
            process.join(PATIENCE)
            assert process.exitcode == 0, output.read_text()
    found = lines()
    assert Counter(Path(line["source"]).name for line in found) == Counter(f"{i:03d}.png" for i in range(n_came))
    assert all(Path(line[name]).is_file() for line in found for name in ("path", "mask", "overlay"))
    assert len(list((tmp_path / "good").iterdir())) + len(list((tmp_path / "defect").iterdir())) == n_came
    assert len(list((out / "masks").iterdir())) == n_came
    told = set((tmp_path / "told").read_text().split())
    assert told == {line["id"] for line in found if line["verdict"] == "defect"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_wish_to_end_ends_a_watch_cleanly(graph_run, camera, tmp_path, number):
    output, out = tmp_path / "output.txt", tmp_path / "out"
    process = forked_program.start(["watch", camera, "--model", graph_run, "--out", out, "--settle", 0.1], output)
    end = time.monotonic() + PATIENCE
    while not (out / LINES_NAME).exists() or not (out / LINES_NAME).read_bytes():
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.join(PATIENCE)
    said = output.read_text()
    assert process.exitcode == 0, said
    assert "Traceback" not in said
    n_lines = (out / LINES_NAME).read_text().count("\n")
    assert f" of {n_lines} images have a defect; results in {out}" in said
    assert "watching" in said
