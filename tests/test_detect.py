"""Detection in files: outputs on disk, names that never collide, and unreadable images among good ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from products import defective_image, good_image

from uflow_cli.calibration import choose_threshold
from uflow_cli.detect import EARLIER, RESULT_NAME, detect_images, find_images, output_names
from uflow_cli.errors import UflowError
from uflow_cli.images import read_image, read_mask, write_png
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
    result = detect_images(load_run(small_run), find_images([folder])[0], out=out, device="cpu")
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
    assert {path.name for path in out.iterdir()} == {
        RESULT_NAME, "good_mask.png", "good_overlay.png", "bad_mask.png", "bad_overlay.png",
    }  # fmt: skip


def test_unreadable_image_is_told_and_the_others_are_inspected(small_run, folder, tmp_path):
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:300])
    paths = [*find_images([folder])[0], tmp_path / "missing.png"]
    result = detect_images(load_run(small_run), paths, out=tmp_path / "out", device="cpu")
    assert len(result.images) == 2
    assert [error.path.name for error in result.errors] == ["cut.png", "missing.png"]
    assert "cut.png" in result.errors[0].message
    assert len(json.loads((tmp_path / "out" / RESULT_NAME).read_text())["errors"]) == 2


def test_folders_are_searched_and_an_image_named_twice_counts_once(folder):
    assert [p.name for p in find_images([folder, folder / "good.png"])[0]] == ["good.png", "bad.png"]


@pytest.mark.parametrize("below", ["", "found", "a/b"])
def test_earlier_masks_and_overlays_are_left_out(small_run, folder, below):
    out = folder / below

    def found_in(out):
        found, left_out = find_images([folder], out=out)
        return found, sum(item.reason == EARLIER for item in left_out)

    before, n_left_out = found_in(out)
    assert n_left_out == 0
    write_png(folder / "part_mask.png", good_image(3))  # not written by us
    before = sorted([*before, folder / "part_mask.png"])
    detect_images(load_run(small_run), before, out=out, device="cpu")
    for chosen in (out, None, folder / "elsewhere"):
        found, n_left_out = found_in(chosen)
        assert sorted(found) == before
        assert n_left_out == 6
    (out / RESULT_NAME).unlink()  # as where it was broken off
    found, n_left_out = found_in(out)
    assert (sorted(found), n_left_out) == (before, 6)
    assert find_images([out / "part_mask_mask.png"])[0] == [out / "part_mask_mask.png"]  # asked for by name


def test_folder_of_nothing_but_results_is_an_error(small_run, folder, tmp_path):
    detect_images(load_run(small_run), find_images([folder])[0], out=tmp_path / "out", device="cpu")
    with pytest.raises(UflowError, match="holds no images but the masks and overlays"):
        find_images([tmp_path / "out"])


def test_a_broken_result_file_hides_nothing(folder):
    (folder / RESULT_NAME).write_text('{"images": [3]}')
    assert len(find_images([folder])[0]) == 2


def test_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(UflowError, match="image"):
        find_images([tmp_path])


def test_long_names_and_control_characters_become_names_that_can_be_written():
    paths = [Path("ä" * 124 + end) for end in ("a.png", "b.png")] + [Path("line\nfeed\x1b[2J.png")]
    names = output_names(paths)
    assert len(set(names.values())) == 3
    assert all(len(name.encode()) <= 210 and name.isprintable() for name in names.values())


def test_names_never_collide():
    paths = [Path(p) for p in ("a/1.png", "b/1.png", "b/1.jpg", "c/2.png", "c/b_1.png", "x/a/1.png", "./2.tif")]
    names = output_names(paths)
    assert len(set(names.values())) == len(paths)
    assert output_names([Path("a/1.png"), Path("a/2.png")]) == {Path("a/1.png"): "1", Path("a/2.png"): "2"}


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
        detect_images(load_run(small_run), find_images([folder])[0], out=tmp_path / "file" / "out", device="cpu")


def test_overlay_shows_the_image(small_run, folder, tmp_path):
    [good] = detect_images(load_run(small_run), [folder / "good.png"], out=tmp_path / "out", device="cpu").images
    image, overlay = read_image(good.path).astype(float), read_image(good.overlay).astype(float)
    assert np.corrcoef(image.ravel(), overlay.ravel())[0, 1] > 0.5
