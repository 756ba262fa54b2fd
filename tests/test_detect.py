"""Detection in files: outputs on disk, names that never collide, and unreadable images among good ones."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from products import defective_image, files_in, good_image

from uflow_cli.calibration import choose_threshold
from uflow_cli.detect import detect_images
from uflow_cli.errors import UflowError
from uflow_cli.images import read_image, read_mask, write_png
from uflow_cli.inputs import find_images
from uflow_cli.results import LINES_NAME, RESULT_NAME, TABLE_NAME, read_result
from uflow_cli.run.record import load_run
from uflow_cli.schema import VERSION

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_png(tmp_path / "in" / "good.png", good_image(1))
    write_png(tmp_path / "in" / "sub" / "bad.png", defective_image(2)[0][:80])
    return tmp_path / "in"


def test_outputs_have_the_size_of_their_image_and_agree_with_the_json(small_run, folder, tmp_path):
    out = tmp_path / "out"
    result = detect_images(load_run(small_run), find_images([folder]).images, out=out, device="cpu")
    values = json.loads((out / RESULT_NAME).read_text())
    assert values["version"] == VERSION
    assert values["n_images"] == 2
    assert values["errors"] == []
    for entry in values["images"]:
        image, mask, overlay = read_image(entry["path"]), read_mask(Path(entry["mask"])), read_image(entry["overlay"])
        assert mask.shape == image.shape[:2] == (entry["height"], entry["width"])
        assert overlay.shape == image.shape
        assert mask.any() == (entry["verdict"] == "defect") == bool(entry["regions"])
        for region in entry["regions"]:
            assert set(region) == {
                "log_nfa", "log_pfa", "area", "bounding_box", "centroid", "scale", "is_whole_image", "parts",
            }  # fmt: skip
            assert region["log_nfa"] < 0
    assert values["n_defects"] == result.n_defects == 1
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        RESULT_NAME, LINES_NAME, TABLE_NAME, "masks/good.png", "overlays/good.png", "masks/sub/bad.png",
        "overlays/sub/bad.png",
    }  # fmt: skip


def test_unreadable_image_is_told_and_the_others_are_inspected(small_run, folder, tmp_path):
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:300])
    paths = [*find_images([folder]).images, tmp_path / "missing.png"]
    result = detect_images(load_run(small_run), paths, out=tmp_path / "out", device="cpu")
    assert len(result.images) == 2
    assert [error.path.name for error in result.errors] == ["cut.png", "missing.png"]
    assert "cut.png" in result.errors[0].message
    assert len(json.loads((tmp_path / "out" / RESULT_NAME).read_text())["errors"]) == 2


def test_threshold_is_zero_by_default_and_says_what_it_promises(small_run):
    run = load_run(small_run)
    threshold, promise = choose_threshold(run.calibration, nfa_threshold=None, false_alarm_rate=None)
    assert threshold == 0.0
    assert "at most 1 expected false detection" in promise
    assert f"of {run.calibration.n_images} held-out" in promise


def test_rate_threshold_flags_at_most_its_share_of_the_held_out_images(small_run):
    run = load_run(small_run)
    threshold, promise = choose_threshold(run.calibration, nfa_threshold=None, false_alarm_rate=0.3)
    assert run.calibration.false_alarm_images(threshold) <= 0.3 * run.calibration.n_images
    assert "approximate" in promise  # few images: the same ones chose the epoch


@pytest.mark.parametrize("threshold", [400.0, -400.0])
def test_a_threshold_beyond_floating_point_is_told_as_a_power(small_run, threshold):
    _, promise = choose_threshold(load_run(small_run).calibration, nfa_threshold=threshold, false_alarm_rate=None)
    assert f"at most 10^{threshold:g} expected false detections" in promise
    assert ("extrapolated" in promise) == (threshold < 0)


def test_full_disk_or_forbidden_folder_is_one_error(small_run, folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UflowError, match="cannot be written"):
        detect_images(load_run(small_run), find_images([folder]).images, out=tmp_path / "file" / "out", device="cpu")


def test_overlay_shows_the_image(small_run, folder, tmp_path):
    [good] = detect_images(load_run(small_run), [folder / "good.png"], out=tmp_path / "out", device="cpu").images
    image, overlay = read_image(good.path).astype(float), read_image(good.overlay).astype(float)
    assert np.corrcoef(image.ravel(), overlay.ravel())[0, 1] > 0.5


def contents(out):
    """All files below a folder of results but the overlays, without what names the folder itself."""
    files = {name: data for name, data in files_in(out).items() if not name.startswith("overlays")}
    return {name: data.replace(str(out).encode(), b"OUT") for name, data in files.items()}


def test_what_is_done_and_unchanged_is_skipped_and_the_end_is_the_same(small_run, folder, tmp_path):
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:300])
    run, paths = load_run(small_run), find_images([folder]).images
    detect_images(run, paths, out=tmp_path / "whole", device="cpu")
    expected = contents(tmp_path / "whole")
    lines = expected[LINES_NAME].splitlines(keepends=True)

    def resumed(before: bytes, **settings):
        out, done, seen = tmp_path / "out", [], []
        (out / LINES_NAME).write_bytes(before.replace(b"OUT", str(out).encode()))
        detect_images(
            run, paths, out=out, resume=True, device="cpu", on_done_before=lambda *n: done.append(n),
            on_prediction=lambda path, _: seen.append(path.name), **settings,
        )  # fmt: skip
        return done[0], seen

    (tmp_path / "out").mkdir()
    assert resumed(b"") == ((0, 0), ["good.png", "bad.png"])
    assert contents(tmp_path / "out") == expected
    assert resumed(lines[1]) == ((1, 0), ["bad.png"])  # in another order
    assert contents(tmp_path / "out") == expected
    assert resumed(b"".join(lines)) == ((2, 0), [])  # but the one that cannot be read
    assert contents(tmp_path / "out") == expected
    (tmp_path / "out" / "masks" / ".abcdefgh.tmp").touch()  # of a killed writer
    assert resumed(lines[1] + b"\0\0\n" + lines[2][:-5]) == ((1, 0), ["bad.png"])  # a line broken off
    assert contents(tmp_path / "out") == expected
    assert resumed(b"".join(lines), nfa_threshold=-3.0) == ((0, 2), ["good.png", "bad.png"])
    assert resumed(b"".join(lines), overlays=False) == ((0, 2), ["good.png", "bad.png"])
    os.utime(folder / "good.png", ns=(0, 0))
    assert resumed(b"".join(lines)) == ((1, 1), ["good.png"])
    assert [image.path.name for image in read_result(tmp_path / "out").images] == ["good.png", "bad.png"]


def test_a_batch_that_is_not_done_is_computed_as_a_whole(small_run, photographs, tmp_path):
    """In PyTorch the last bits follow the batch."""
    run, seen = load_run(small_run), []

    def detect():
        def tell(path, _prediction):
            seen.append(path.name)

        detect_images(
            run, photographs, out=tmp_path / "out", resume=True, device="cpu", batch_size=2, on_prediction=tell
        )

    detect()
    lines = (tmp_path / "out" / LINES_NAME).read_text().splitlines(keepends=True)
    (tmp_path / "out" / LINES_NAME).write_text(lines[0] + lines[2])
    before = contents(tmp_path / "out") | {LINES_NAME: "".join(lines).replace(str(tmp_path / "out"), "OUT").encode()}
    seen.clear()
    detect()
    assert seen == ["a.png", "b.png"]
    assert contents(tmp_path / "out") == before


def test_the_files_tell_of_each_image_before_the_next_one_comes(small_run, photographs, tmp_path):
    def look(line: str) -> None:
        written = (tmp_path / "out" / LINES_NAME).read_text()
        assert written.endswith(line)
        values = json.loads(line)
        assert read_image(values["overlay"]).shape == (values["height"], values["width"], 3)
        n_lines.append(written.count("\n"))

    n_lines: list[int] = []
    detect_images(load_run(small_run), photographs, out=tmp_path / "out", device="cpu", on_line=look)
    assert n_lines == [1, 2, 3]


def test_folders_of_masks_that_are_no_results_are_left_alone(small_run, folder, tmp_path):
    write_png(tmp_path / "masks" / "sub" / "bad.png", good_image(1))
    with pytest.raises(UflowError, match="masks is there and no result of uflow detect; choose another folder"):
        detect_images(load_run(small_run), find_images([folder]).images, out=tmp_path, device="cpu")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "masks"}


def test_two_detections_into_one_folder_are_refused(small_run, folder, tmp_path):
    paths = find_images([folder]).images

    def again(_line: str) -> None:
        with pytest.raises(UflowError, match="another process writes results to"):
            detect_images(load_run(small_run), paths, out=tmp_path / "out", device="cpu", resume=True)

    result = detect_images(load_run(small_run), paths, out=tmp_path / "out", device="cpu", on_line=again)
    assert len(result.images) == 2


@pytest.mark.parametrize("full", [LINES_NAME, "masks"])
def test_a_full_disk_ends_it_in_one_line_and_what_is_there_holds(small_run, photographs, tmp_path, monkeypatch, full):
    run, out = load_run(small_run), tmp_path / "out"
    written, opened = Path.open, []

    def no_room(self: Path, *arguments, **options):
        if self.name == full or (full in self.parts and "w" in "".join(map(str, arguments))):
            opened.append(self)
            if len(opened) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return written(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", no_room)
    with pytest.raises(UflowError, match="cannot be written \\(No space left"):
        detect_images(run, photographs, out=out, device="cpu")
    monkeypatch.undo()
    assert len(detect_images(run, photographs, out=out, device="cpu", resume=True).images) == 3
