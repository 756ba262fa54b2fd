"""`uflow detect`: verdicts as a table and as JSON, pictures, exit codes."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from products import defective_image, good_image

from uflow_cli.images import read_mask, write_png
from uflow_cli.run.record import CONFIG_NAME
from uflow_cli.text import cells


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "parts with space"
    write_png(folder / "good é.png", good_image(1))
    write_png(folder / "bad.png", defective_image(2)[0])
    return folder


def test_table_says_verdict_and_regions(uflow, small_run, images, tmp_path):
    outcome = uflow("detect", images, "--model", small_run, "--nfa-threshold", 0, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    for heading in ("image", "verdict", "log NFA", "area px", "bounding box", "centroid", "scale"):
        assert heading in outcome.out
    assert "defect" in outcome.out
    assert "1 of 2 images have a defect at log NFA < 0" in outcome.out
    assert read_mask(tmp_path / "out" / "masks" / "bad.png").any()
    assert not read_mask(tmp_path / "out" / "masks" / "good é.png").any()


def test_table_names_images_by_what_tells_them_apart(uflow, small_run, images, tmp_path):
    write_png(images / "deep" / "good é.png", good_image(5))
    outcome = uflow("detect", images, "--model", small_run, "--out", tmp_path / "out")
    names = [line.split("  ")[0] for line in outcome.out.splitlines()]
    assert {"bad.png", "good é.png", "deep/good é.png"} <= set(names)


def test_json_is_alone_on_stdout_and_equals_the_file(uflow, small_run, images, tmp_path):
    outcome = uflow("detect", images, "--model", small_run, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0
    values = json.loads(outcome.out)
    assert values == json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {"version", "model", "nfa_threshold", "promise", "images", "errors"} <= values.keys()
    [bad] = [entry for entry in values["images"] if entry["verdict"] == "defect"]
    assert bad["path"].endswith("bad.png")
    assert min(region["log_nfa"] for region in bad["regions"]) == bad["log_nfa"] < 0


def test_fail_on_defect_exits_with_three_only_if_there_is_one(uflow, small_run, images, tmp_path):
    out = ["--model", small_run, "--out", tmp_path / "out", "--fail-on-defect"]
    assert uflow("detect", images, *out).code == 3
    assert uflow("detect", images / "good é.png", *out).code == 0


def test_false_alarm_rate_below_what_can_be_promised_names_the_smallest(uflow, small_run, images, tmp_path):
    outcome = uflow("detect", images, "--model", small_run, "--out", tmp_path / "out", "--false-alarm-rate", 0.001)
    assert outcome.code == 1
    assert "smallest is 0.1111" in outcome.err
    assert not (tmp_path / "out").exists()
    assert uflow("detect", images, "--model", small_run, "--out", tmp_path / "out", "--false-alarm-rate", 0.2).code == 0


def test_unreadable_image_is_named_others_go_on_exit_one(uflow, small_run, images, tmp_path):
    (images / "cut.png").write_bytes((images / "bad.png").read_bytes()[:400])
    outcome = uflow("detect", images, "--model", small_run, "--out", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err.count("uflow: ") == 1
    assert "cut.png" in outcome.err
    assert "of 2 images have a defect" in outcome.out
    assert (tmp_path / "out" / "masks" / "bad.png").exists()


def test_newest_run_is_used_and_named(uflow, small_run, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_run, tmp_path / "runs" / "mine")
    outcome = uflow("detect", images)
    assert outcome.code == 0
    assert "using the newest run, runs/mine" in outcome.err
    assert (tmp_path / "detections" / "detections.json").exists()


def test_no_run_at_all_says_how_to_get_one(uflow, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = uflow("detect", images)
    assert outcome.code == 1
    assert "uflow train" in outcome.err


@pytest.mark.parametrize(
    ("change", "message"), [("remove", "incomplete"), ("newer", "update uflow"), ("missing", "does not exist")]
)
def test_bad_model_folder_is_one_line(uflow, small_run, images, tmp_path, change, message):
    run = tmp_path / "run"
    if change != "missing":
        shutil.copytree(small_run, run)
    if change == "remove":
        next(run.glob("*.safetensors")).unlink()
    if change == "newer":
        values = json.loads((run / CONFIG_NAME).read_text())
        (run / CONFIG_NAME).write_text(json.dumps({**values, "version": 99}))
    outcome = uflow("detect", images, "--model", run, "--out", tmp_path / "out")
    assert outcome.code == 1
    assert message in outcome.err
    assert outcome.err.startswith("uflow: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_nothing_to_inspect_is_an_error(uflow, small_run, tmp_path, what):
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    outcome = uflow("detect", path, "--model", small_run, "--out", tmp_path / "out")
    assert outcome.code == 1
    assert str(path) in outcome.err
    assert not outcome.out


def test_a_second_run_over_the_same_folder_inspects_no_results(uflow, small_run, images):
    runs = [uflow("detect", images, "--model", small_run, "--out", images / "out", "--json") for _ in range(2)]
    assert [json.loads(run.out)["n_images"] for run in runs] == [2, 2]
    assert "left out" not in runs[0].err
    assert "4 masks and overlays of earlier detections are left out" in runs[1].err


@pytest.mark.parametrize("threshold", ["400", "-400"])
def test_huge_thresholds_are_taken(uflow, small_run, images, tmp_path, threshold):
    outcome = uflow("detect", images, "--model", small_run, "--out", tmp_path / "out", "--nfa-threshold", threshold)
    assert outcome.code == 0, outcome.err
    assert f"{2 if threshold == '400' else 0} of 2 images have a defect" in outcome.out
    assert f"10^{threshold}" in outcome.out


@pytest.mark.parametrize("command", ["detect", "check", "evaluate"])
@pytest.mark.parametrize("threshold", ["nan", "inf", "-inf"])
def test_thresholds_that_are_no_number_are_wrong_usage(uflow, small_run, images, tmp_path, command, threshold):
    given = {"detect": [images, "--out", tmp_path / "out"], "check": ["--images", images], "evaluate": []}[command]
    outcome = uflow(command, *given, "--model", small_run, "--nfa-threshold", threshold)
    assert outcome.code == 2
    assert "--nfa-threshold" in outcome.err
    assert "finite" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_report_shows_every_image_with_its_regions(uflow, small_run, product, tmp_path):
    images = product / "stripes" / "test"
    outcome = uflow("detect", images, "--model", small_run, "--out", tmp_path / "out", "--report", tmp_path / "report")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert f"report to look at: {tmp_path / 'report' / 'index.html'}" in outcome.err
    assert page.count('class="card"') == page.count("data:image/png;base64") == 8
    assert 'data-truth=""' in page
    result = json.loads((tmp_path / "out" / "detections.json").read_text())
    for image in result["images"]:
        assert f'data-nfa="{image["log_nfa"]!r}" data-path="{image["path"]}"' in page


def test_names_come_from_stdin_in_lines_or_with_zero_bytes(uflow, small_run, images, tmp_path, monkeypatch):
    monkeypatch.chdir(images.parent)
    for end in (b"\n", b"\r\n", b"\0"):
        names = b"".join(f"{images.name}/{name}".encode() + end for name in ("good é.png", "bad.png"))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names)))
        outcome = uflow("detect", "-", "--model", small_run, "--out", tmp_path / "out", "--json")
        assert outcome.code == 0, outcome.err
        assert [Path(image["path"]).name for image in json.loads(outcome.out)["images"]] == ["good é.png", "bad.png"]
        assert (tmp_path / "out" / "masks" / images.name / "bad.png").is_file()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    outcome = uflow("detect", "-", "--model", small_run)
    assert (outcome.code, outcome.err) == (1, "uflow: -: stdin names no image; give it a path a line, as `find` does\n")


def test_lines_are_streamed_and_nothing_else_is_said(uflow, small_run, images, tmp_path):
    common = ["--model", small_run, "--out", tmp_path / "out", "--quiet"]
    outcome = uflow("detect", images / "*.png", "--jsonl", "-", *common)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (tmp_path / "out" / "detections.jsonl").read_text()
    assert [json.loads(line)["verdict"] for line in outcome.out.splitlines()] == ["defect", "good"]
    (images / "cut.png").write_bytes(b"cut")
    outcome = uflow("detect", images, "--resume", "--jsonl", tmp_path / "lines", *common)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("uflow: ")
    assert len(outcome.err.splitlines()) == 1
    assert json.loads((tmp_path / "lines").read_text())["path"].endswith("cut.png")  # of what was not done
    assert "cannot be written" in uflow("detect", images, "--jsonl", tmp_path / "no" / "lines", *common).err
    assert uflow("detect", images, "--jsonl", "-", "--json", *common).code == 2


def test_a_detection_says_what_was_broken_off_and_what_is_done(uflow, small_run, images, tmp_path):
    common = ["detect", images, "--model", small_run, "--out", tmp_path / "out"]
    assert "broken off" not in uflow(*common).err
    (tmp_path / "out" / "detections.json").unlink()
    assert "held 2 results of a detection broken off, which --resume goes on with" in uflow(*common).err
    assert "2 of 2 images are done\n" in uflow(*common, "--resume").err
    again = uflow(*common, "--resume", "--nfa-threshold", 0.1)
    assert "0 of 2 images are done, 2 are done again, for something has changed" in again.err
    outcome = uflow(*common, "--resume", "--nfa-threshold", 0.1, "--report", tmp_path / "report")
    assert (tmp_path / "report" / "index.html").read_text(encoding="utf-8").count('class="card"') == 2
    assert "1 of 2 images have a defect" in outcome.out


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools as it decodes
def test_masks_as_run_lengths_are_those_of_the_mask(uflow, small_run, images, tmp_path):
    from pycocotools.mask import decode  # noqa: TID251

    outcome = uflow("detect", images, "--model", small_run, "--out", tmp_path / "out", "--rle", "--json")
    for image in json.loads(outcome.out)["images"]:
        assert image["rle"]["size"] == [image["height"], image["width"]]
        assert np.array_equal(decode(image["rle"]), read_mask(Path(image["mask"])))


def test_a_table_of_many_images_shows_the_first_defects(uflow, small_run, images, tmp_path, monkeypatch):
    monkeypatch.setattr("uflow_cli.cli.console.results.IMAGES_SHOWN", 1)
    outcome = uflow("detect", images, "--model", small_run, "--out", tmp_path / "out")
    assert "good é.png" not in outcome.out
    assert "bad.png" in outcome.out
    assert "and 1 more images, all of which are in the files\n1 of 2 images have a defect" in outcome.out


def test_wide_characters_leave_the_columns_where_they_are(uflow, small_run, tmp_path):
    for name in ("良品.png", "a.png", "e\u0301.png", "長" * 60 + ".png"):
        write_png(tmp_path / "in" / name, good_image(1))
    outcome = uflow("detect", tmp_path / "in", "--model", small_run, "--out", tmp_path / "out")
    rows = outcome.out.splitlines()[:5]
    places = [cells(row[: row.index("good")]) for row in rows[1:]]
    assert places == [cells(rows[0][: rows[0].index("verdict")])] * 4
    assert max(map(cells, rows)) <= 120


def test_nothing_is_left_where_no_image_was_there(uflow, small_run, tmp_path):
    for names in (["nowhere.png"], ["nowhere.tif", "neither.png"]):
        outcome = uflow("detect", *names, "--model", small_run, "--out", tmp_path / "out")
        assert outcome.code == 1
        assert outcome.err.startswith(f"uflow: {names[0]}: no such file")
        assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_workers_without_a_cluster_are_wrong_usage(uflow, small_run, images):
    outcome = uflow("detect", images, "--model", small_run, "--workers", 2)
    assert outcome.code == 2
    assert "workers belong to --engine ray" in outcome.err
