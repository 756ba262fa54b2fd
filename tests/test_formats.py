"""Files of other versions of uflow: of a newer one they are refused in one line, of an older one read or told apart.

`data/run_of_<commit>.zip` holds a run that the code of that commit trained on 20 images of 64 x 64 pixels, most of its
flow's weights set to 0 thereafter so that it is small, and what that code then detected in two other images.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from products import defective_image, files_in, good_image
from safetensors import safe_open
from safetensors.torch import save_file

from uflow_cli.cache import CacheFolder
from uflow_cli.detection.detector import Detection
from uflow_cli.errors import CheckpointError, UflowError
from uflow_cli.evaluation import evaluation_from_dict
from uflow_cli.images import write_png
from uflow_cli.results import (
    LINES_NAME,
    RESULT_NAME,
    DetectedImage,
    Terms,
    lines_file,
    read_result,
    result_lines,
    stamp_of,
)
from uflow_cli.run.detector import open_detector
from uflow_cli.run.graph import GRAPH_NAME, find_graph
from uflow_cli.run.record import CONFIG_NAME, load_run
from uflow_cli.run.state import STATE_NAME, Split, TrainingState, read_state, write_state
from uflow_cli.sample import MARKER, write_sample
from uflow_cli.schema import VERSION
from uflow_cli.watch import Errands, Watched, command_of
from uflow_cli.watch.inspector import Inspector

NEWER = rf"^\S+ was written by a newer uflow: it has version {VERSION + 1}, this one reads up to {VERSION}; update uflow to use it$"
FOUND = (Detection(-3.0, -5.0, 12.0, (1, 2, 3, 4), (1.5, 2.5), 1),)


def make_newer(path: Path) -> None:
    """Let the JSON file at `path`, or each line of it, say a later version than this uflow writes."""
    text = path.read_text()
    assert f'"version": {VERSION}' in text
    path.write_text(text.replace(f'"version": {VERSION}', f'"version": {VERSION + 1}'))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with the results of one image."""
    (tmp_path / "a.png").write_bytes(b"a")
    image = DetectedImage(tmp_path / "a.png", "defect", -3.0, 5.0, 8, 8, FOUND, None, None)
    with result_lines(tmp_path / "out", Terms(Path("run"), 0.0, "digest", None), resume=False) as lines:
        lines.add(image, stamp_of(image.path))
        lines.finish([image.path], promise="a promise", caveat=None, out=tmp_path / "out")
    return tmp_path / "out"


def old_run(commit: str, folder: Path) -> Path:
    """The run of an old `commit`, unpacked into `folder`."""
    with zipfile.ZipFile(Path(__file__).parent / "data" / f"run_of_{commit}.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize(
    ("commit", "log_lot"),
    [
        ("1af6512", 2.0),  # format 1; counted per image and not yet in a lot of 100
        ("2e05018", 0.0),  # version 3: the first settled form of fused evidence
        ("48088fd", 0.0),  # results as lines
    ],
)
def test_a_run_of_an_older_uflow_finds_what_it_found_then(tmp_path, commit, log_lot):
    run = load_run(old_run(commit, tmp_path / "run"))
    assert run.training.dropout == 0.0
    before = json.loads((tmp_path / "run" / "detections.json").read_text())["images"]
    detector = open_detector(run, device="cpu", runtime="torch")
    for image, expected in zip((defective_image(200, 64)[0], good_image(100, 64)), before, strict=True):
        write_png(tmp_path / "image.png", image)
        found = detector.detect(tmp_path / "image.png")
        assert found.log_nfa == pytest.approx(expected["log_nfa"] + log_lot, rel=1e-4, abs=1e-4)
        assert found.is_defect == (expected["verdict"] == "defect") == (found.log_nfa < 0)
    assert [image["verdict"] for image in before] == ["defect", "good"]


@pytest.mark.parametrize("commit", ["7793acf", "6de49ad"])
def test_a_run_of_the_first_days_says_to_train_again(tmp_path, commit):
    run = old_run(commit, tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"^\S+config\.json was written by an early uflow, which .*; train again$"
    ):
        load_run(run)


@pytest.mark.parametrize("commit", ["7793acf", "1af6512", "6de49ad", "2e05018", "48088fd"])
def test_results_of_an_older_uflow_are_read_or_say_to_detect_again(tmp_path, commit):
    folder = old_run(commit, tmp_path / "out")
    stored = json.loads((folder / RESULT_NAME).read_text())
    if stored["version"] == VERSION:
        result = read_result(folder)
        assert [(str(image.path), image.log_nfa) for image in result.images] == [
            (image["path"], image["log_nfa"]) for image in stored["images"]
        ]
    else:
        with pytest.raises(UflowError, match=r"it has version 1, and this uflow reads version 3\); detect again$"):
            read_result(folder)


def test_the_record_of_an_older_graph_is_read(tmp_path):
    graph = find_graph(
        dataclasses.replace(load_run(old_run("2e05018", tmp_path)), weights="flow-0002-3940b2e97908.safetensors")
    )
    assert graph is not None
    assert (graph.file, graph.reach) == ("graph-ed16309347fc.onnx", (22, 10, 4))


def test_a_run_and_its_graph(graph_run, tmp_path):
    run = Path(shutil.copytree(graph_run, tmp_path / "run"))
    make_newer(run / GRAPH_NAME)
    with pytest.raises(UflowError, match=NEWER):
        find_graph(load_run(run))
    make_newer(run / CONFIG_NAME)
    with pytest.raises(UflowError, match=NEWER):
        load_run(run)


def test_the_state_of_a_training(small_run, tmp_path):
    run = load_run(small_run)
    state = TrainingState(run.model, run.training, run.origin, (), Split((), (), ()), run.extractor_digest)
    write_state(tmp_path, state, {"a": torch.zeros(1)})
    with safe_open(tmp_path / STATE_NAME, framework="pt") as file:
        text = file.metadata()["state"]
    newer = text.replace(f'"version": {VERSION}', f'"version": {VERSION + 1}')
    save_file({"a": torch.zeros(1)}, tmp_path / STATE_NAME, {"state": newer})
    with pytest.raises(UflowError, match=NEWER):
        read_state(tmp_path)


def test_results_in_json(results):
    make_newer(results / RESULT_NAME)
    with pytest.raises(UflowError, match=NEWER):
        read_result(results)


def test_lines_of_results_are_neither_read_nor_replaced(results):
    (results / RESULT_NAME).unlink()
    make_newer(results / LINES_NAME)
    before = files_in(results)
    with pytest.raises(UflowError, match=NEWER):
        read_result(results)
    terms = Terms(Path("run"), 0.0, "digest", None)
    with pytest.raises(UflowError, match=NEWER), result_lines(results, terms, resume=True):
        pass
    waiting = Errands(results / "errands", [], print)
    with pytest.raises(UflowError, match=NEWER), lines_file(results) as file:
        Inspector(Watched(results, results), terms, waiting, file, predict=lambda _: pytest.fail("no image is read"))
    assert files_in(results) == before


def test_errands_wait_for_the_newer_one(tmp_path):
    troubles: list[str] = []
    waiting = Errands(tmp_path, [command_of("false")], troubles.append)
    for number, version in (("a", VERSION + 1), ("b", VERSION)):
        waiting.write(number, {"version": version, "verdict": "defect", "path": "x", "log_nfa": -1.0})
    (tmp_path / "c.command.json").write_text("[]")
    for number in ("c", "a", "b"):
        waiting.release(number)
    with waiting.at_work():
        while len(troubles) < 3:
            time.sleep(0.01)
    assert troubles[0].startswith(f"{tmp_path / 'c.command.json'}: ")
    assert "a.command.json was written by a newer uflow" in troubles[1]
    assert troubles[2] == "command for b is given up: exit code 1"
    assert sorted(files_in(tmp_path)) == ["a.command.json", "b.command.failed", "c.command.json"]


def test_an_evaluation():
    with pytest.raises(UflowError, match=NEWER.replace(r"\S+", "an evaluation")):
        evaluation_from_dict({"version": VERSION + 1})


def test_a_mark_of_what_is_in_use(tmp_path):
    cache = CacheFolder(tmp_path, 1)
    (tmp_path / "in-use").mkdir()
    (tmp_path / "in-use" / "1.json").write_text(json.dumps({"version": VERSION + 1}))
    lock = FileLock(tmp_path / "in-use" / "1.lock")
    with lock, pytest.raises(UflowError, match=NEWER):
        cache.clear()
    assert cache.clear() == (0, 0)  # its process is gone


def test_a_sample(tmp_path):
    folder = write_sample(tmp_path, n_train=1, n_test_good=0, n_test_per_defect=0, size=(64, 64))
    marker = json.loads((folder / MARKER).read_text())
    (folder / MARKER).write_text(json.dumps({**marker, "format": 2}))
    before = files_in(folder)
    with pytest.raises(UflowError, match="newer uflow: it has version 2, this one reads up to 1"):
        write_sample(tmp_path, n_train=1, n_test_good=0, n_test_per_defect=0, size=(64, 64))
    assert files_in(folder) == before
