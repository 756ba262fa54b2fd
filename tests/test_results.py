"""The files of a detection: names that mirror the input, lines, JSON and table that say the same."""

from __future__ import annotations

import csv
import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uflow_cli.detection.detector import Detection
from uflow_cli.detection.stream import UnreadableImage
from uflow_cli.errors import UflowError
from uflow_cli.results import (
    LINES_NAME,
    RESULT_NAME,
    TABLE_NAME,
    DetectedImage,
    DetectionResult,
    Terms,
    common_folder,
    mirrored_name,
    read_result,
    result_lines,
    stamp_of,
)
from uflow_cli.schema import from_json, to_json

BASE = Path("/base")
REGION = Detection(-3.0, -5.0, 12.0, (1, 2, 3, 4), (1.5, 2.5), 1)
parts = st.sampled_from(
    ["a", "a.png", "a.jpg", "a.jpg.png", "a.png.png", "A.PNG", "a\n.png", "a_.png", "a" * 300 + ".png"]
)


def test_names_mirror_the_folders_below_the_base():
    for path, expected in {
        "/base/a.png": "a.png", "/base/sub/a.png": "sub/a.png", "/base/sub/a.jpg": "sub/a.jpg.png",
        "/base/sub/../b.png": "b.png", "/elsewhere/b.png": "elsewhere/b.png",
    }.items():  # fmt: skip
        assert mirrored_name(Path(path), BASE) == Path(expected)


@given(st.lists(parts, min_size=1, max_size=3), st.lists(parts, min_size=1, max_size=3))
def test_no_two_images_have_one_name_and_all_can_be_written(one, other):
    names = [mirrored_name(BASE.joinpath(*path), BASE) for path in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    for part in itertools.chain(*(name.parts for name in names)):
        assert part.isprintable()
        assert len(part.encode()) < 240
    assert all(name.suffix == ".png" for name in names)


def test_the_common_folder_follows_no_link_and_is_the_root_of_several_drives():
    assert common_folder([Path("/a/b/../c"), Path("/a/d")]) == Path("/a")
    assert common_folder([]) == Path(Path.cwd().anchor)


def an_image(path: Path, *regions: Detection) -> DetectedImage:
    return DetectedImage(path, "defect" if regions else "good", -0.0, 0.5, 8, 9, regions, None, None)


@pytest.fixture
def found(tmp_path):
    return [
        an_image(tmp_path / "a.png", REGION, REGION), an_image(Path("=cmd.png")),
        UnreadableImage(Path("-c.png"), "-c.png: not an image"), an_image(tmp_path / "d\udcff.png"),
    ]  # fmt: skip


def write(out, found, *, order=None, end=True):
    with result_lines(out, Terms(Path("run"), 0.0, "digest", None), resume=False) as lines:
        for one in found:
            lines.add(one, stamp_of(one.path))
        if end:
            return lines.finish([one.path for one in order or found], promise="a promise", caveat=None, out=out)
    return None


def test_the_json_is_what_it_would_be_if_it_was_written_at_once(tmp_path, found):
    write(tmp_path / "out", found[::-1], order=found)
    images = tuple(one for one in found if isinstance(one, DetectedImage))
    expected = DetectionResult(Path("run"), 0.0, "a promise", None, tmp_path / "out", 3, 1, images, (found[2],), None)
    assert (tmp_path / "out" / RESULT_NAME).read_text() == to_json(expected)
    write(tmp_path / "none", [])
    assert from_json(DetectionResult, (tmp_path / "none" / RESULT_NAME).read_text()).images == ()


def test_results_that_another_process_replaces_are_one_line(tmp_path, found):
    result = write(tmp_path / "out", found)
    assert len(list(result.images)) == 3
    (tmp_path / "out" / LINES_NAME).write_bytes(b'{"path": "other.png"}\n')
    with pytest.raises(UflowError, match="another process writes results there since"):
        list(result.images)


def test_lines_are_in_the_order_of_the_images_in_the_end_and_tell_what_the_json_tells(tmp_path, found):
    write(tmp_path / "out", found[::-1], order=found)
    lines = [json.loads(line) for line in (tmp_path / "out" / LINES_NAME).read_text().splitlines()]
    assert [line["path"] for line in lines] == [str(one.path) for one in found]
    images = json.loads((tmp_path / "out" / RESULT_NAME).read_text())["images"]
    for image, line in zip(images, [line for line in lines if "verdict" in line], strict=True):
        assert {name: line[name] for name in image} == image
        assert {"version", "model", "nfa_threshold", "settings", "bytes", "modified_ns"} <= line.keys()


def test_a_spreadsheet_has_a_row_for_each_region_and_computes_no_name(tmp_path, found):
    write(tmp_path / "out", found)
    with (tmp_path / "out" / TABLE_NAME).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == ["defect", "defect", "good", "good", "unreadable"]
    assert [row["region"] for row in rows] == ["1", "2", "", "", ""]
    assert (rows[0]["left"], rows[0]["bottom"], rows[0]["area"]) == ("1", "4", "12.0")
    assert (rows[2]["path"], rows[4]["path"]) == ("'=cmd.png", "'-c.png")
    assert "\udcff" not in rows[3]["path"]


def test_what_was_broken_off_can_be_read_and_what_came_later_counts(tmp_path, found):
    out = tmp_path / "out"
    write(out, [UnreadableImage(found[0].path, "message"), *found], end=False)
    result = read_result(out)
    assert list(result.images) == [one for one in found if isinstance(one, DetectedImage)][:2] + list(result.images)[2:]
    assert (result.n_defects, [error.path for error in result.errors]) == (1, [Path("-c.png")])
    assert result.promise == "what its run promises at log NFA < 0"
    assert result.images[-1] == result.images[2]
    assert list(result.images[:2]) == list(result.images)[:2]
    write(out, found)
    assert read_result(out).promise == "a promise"
    os.utime(out / LINES_NAME, ns=(2**62, 2**62))
    assert read_result(out).promise != "a promise"
    write(out, [], end=False)
    assert read_result(out).promise == "a promise"  # of before


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UflowError, match="cannot be written"):
        write(tmp_path / "file" / "out", [])
