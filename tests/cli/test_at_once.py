"""Several processes at once on one run, one folder of results, one cache: right results, or one line that says why not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import forked_program
import pytest
from products import files_in, good_image

from uflow_cli.images import write_png
from uflow_cli.results import LINES_NAME, RESULT_NAME
from uflow_cli.run.record import load_run

N_DETECTIONS = 8
PATIENCE = 240.0  # seconds
TRAINING = ["--epochs", 2, "--batch-size", 4, "--input-size", 64, "--device", "cpu", "--seed", 3]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="forks")]


class Process:
    """`uflow ARGUMENTS`, begun."""

    def __init__(self, folder: Path, *arguments: object, **environment: object) -> None:
        self.output = folder / f"{len(list(folder.glob('*.txt')))}.txt"
        self.output.touch()
        self._process = forked_program.start(list(arguments), self.output, **environment)

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    def end(self) -> tuple[int | None, str]:
        """Exit code and both streams."""
        self._process.join(PATIENCE)
        return self._process.exitcode, self.output.read_text()


@pytest.fixture
def start(tmp_path):
    """`start(*arguments)` begins a command; what it writes to streams is kept apart."""
    said = tmp_path / "said"
    said.mkdir()

    def begin(*arguments, **environment):
        return Process(said, *arguments, **environment)

    assert begin("--version").end()[0] == 0  # the server imports before others wait for it
    return begin


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Good images to train on."""
    folder = tmp_path_factory.mktemp("parts")
    for i in range(12):
        write_png(folder / f"{i:02d}.png", good_image(i, side=64))
    return folder


def results(out: Path) -> dict[str, bytes]:
    """All files below a folder of results, without what names the folder itself."""
    return {name: data.replace(str(out).encode(), b"OUT") for name, data in files_in(out).items()}


def model_of(run: Path) -> tuple[str, object]:
    """What stays the same when a training is repeated: weights by their digest, and what calibrates them."""
    found = load_run(run)
    return found.weights, found.calibration


def test_of_two_trainings_into_one_folder_one_is_refused_and_the_other_right(start, parts, tmp_path):
    train = ["train", "--images", parts, *TRAINING]
    assert start(*train, "--out", tmp_path / "alone").end()[0] == 0
    both = [start(*train, "--out", tmp_path / "run") for _ in range(2)]
    ends = sorted(process.end() for process in both)
    assert [code for code, _ in ends] == [0, 1]
    refusal = ends[1][1].strip().splitlines()[-1]
    assert "another process is training in" in refusal or "already holds a run" in refusal
    assert model_of(tmp_path / "run") == model_of(tmp_path / "alone")


def test_eight_detections_into_one_folder_leave_what_one_would(start, graph_run, product, tmp_path):
    detect = ["detect", product / "stripes" / "test", "--model", graph_run]
    assert start(*detect, "--out", tmp_path / "alone").end()[0] == 0
    ends = [process.end() for process in [start(*detect, "--out", tmp_path / "out") for _ in range(N_DETECTIONS)]]
    assert any(code == 0 for code, _ in ends)
    for code, said in ends:  # a late one finds the others gone, and does it all again
        assert code == 0 or (code == 1 and "another process writes" in said and "Traceback" not in said), said
    assert results(tmp_path / "out") == results(tmp_path / "alone")


def test_eight_detections_with_one_run_give_the_same_bytes(start, graph_run, product, tmp_path):
    outs = [tmp_path / f"out{i}" for i in range(N_DETECTIONS)]
    begun = [start("detect", product / "stripes" / "test", "--model", graph_run, "--out", out) for out in outs]
    assert [process.end()[0] for process in begun] == [0] * N_DETECTIONS
    assert len({tuple(sorted(results(out).items())) for out in outs}) == 1


@pytest.mark.parametrize("exported", [False, True], ids=["run", "exported"])
def test_a_recalibration_beside_detections_is_seen_whole_or_not_at_all(
    start, graph_run, product, parts, tmp_path, exported
):
    run = tmp_path / "model"
    if exported:
        assert start("export", "--model", graph_run, "--out", run, "--images", parts).end()[0] == 0
    else:
        shutil.copytree(graph_run, run)
    images = product / "stripes" / "test"

    def log_nfas(out):
        return [json.loads(line)["log_nfa"] for line in (out / LINES_NAME).read_text().splitlines()]

    def detected(name):
        process = start("detect", images, "--model", run, "--out", tmp_path / name)
        return process, tmp_path / name

    before, out = detected("before")
    assert before.end()[0] == 0
    states = [log_nfas(out)]
    changes = start("check", "--model", run, "--images", product / "stripes" / "train" / "good", "--recalibrate")
    beside = []
    while changes.runs or not beside:
        beside += [one := detected(f"beside{len(beside)}")]
        one[0].end()
    assert changes.end()[0] == 0, changes.end()[1]
    after, out = detected("after")
    assert after.end()[0] == 0
    states.append(log_nfas(out))
    assert states[0] != states[1]
    for process, out in beside:
        code, said = process.end()
        assert code == 0, said
        assert log_nfas(out) in states
        assert json.loads((out / RESULT_NAME).read_text())["n_images"] == len(states[0])


def test_a_cache_that_is_cleared_beside_trainings_changes_no_model(start, parts, tmp_path):
    cache = {"UFLOW_CACHE_DIR": tmp_path / "cache"}
    train = ["train", "--images", parts, *TRAINING]
    assert start(*train, "--no-cache", "--out", tmp_path / "alone").end()[0] == 0
    trainings = [start(*train, "--out", tmp_path / f"run{i}", **cache) for i in range(2)]
    n_cleared = 0
    while any(training.runs for training in trainings):
        code, said = start("cache", "--clear", **cache).end()
        assert code == 0, said
        n_cleared += 1
    assert n_cleared > 1
    for i, training in enumerate(trainings):
        code, said = training.end()
        assert code == 0, said
        assert model_of(tmp_path / f"run{i}") == model_of(tmp_path / "alone")
