"""Which images a command is given: folders, patterns and lists, and never what an earlier detection left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from products import good_image

from uflow_cli.errors import UflowError
from uflow_cli.images import write_png
from uflow_cli.inputs import EARLIER, find_images
from uflow_cli.results import LINES_NAME, RESULT_NAME


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("good.png", "sub/bad.png", "sub/deep/bad.png"):
        write_png(tmp_path / "in" / name, good_image(1, side=8))
    return tmp_path / "in"


def names(found, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found.images]


def test_folders_are_searched_and_an_image_named_twice_counts_once(folder):
    found = find_images([folder, folder / "good.png"])
    assert names(found, folder) == ["good.png", "sub/bad.png", "sub/deep/bad.png"]
    assert found.base == folder


@pytest.mark.parametrize(
    ("pattern", "expected", "base"),
    [
        ("**/*.png", ["good.png", "sub/bad.png", "sub/deep/bad.png"], "."),
        ("**", ["good.png", "sub/bad.png", "sub/deep/bad.png"], "."),
        ("*.png", ["good.png"], "."),
        ("sub/*.p[nm]g", ["sub/bad.png"], "sub"),
        ("s?b", ["sub/bad.png", "sub/deep/bad.png"], "."),
    ],
)
def test_patterns_are_those_of_shells(folder, pattern, expected, base):
    (folder / "sub" / "notes.txt").touch()
    found = find_images([folder / pattern])
    assert names(found, folder) == expected
    assert found.base == folder / base


def test_a_pattern_that_fits_nothing_says_so_and_a_file_of_such_a_name_is_one(folder):
    with pytest.raises(UflowError, match=r"\*\.jpg: fits no image; put it in quotes"):
        find_images([folder / "*.jpg"])
    write_png(folder / "a[1].png", good_image(1, side=8))
    assert names(find_images([folder / "a[1].png"]), folder) == ["a[1].png"]


def test_a_list_mirrors_the_current_folder_or_the_root(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_images([], listed=[Path("sub/bad.png"), Path("good.png")]).base == folder
    found = find_images([], listed=[Path("sub/../good.png"), folder.parent / "x.png", Path("good.png")])
    assert (len(found.images), found.base) == (2, Path(folder.anchor))


@pytest.mark.parametrize("out", ["", "found", "sub/deep"])
def test_earlier_masks_and_overlays_are_left_out(folder, out):
    before = find_images([folder]).images
    (folder / out).mkdir(exist_ok=True)
    (folder / out / LINES_NAME).touch()
    write_png(folder / out / "masks" / "sub" / "bad.png", good_image(1, side=8))
    write_png(folder / out / "overlays" / "bad.png", good_image(1, side=8))
    for given in (folder, folder / "**" / "*.png"):
        found = find_images([given])
        assert found.images == before
        assert sum(item.reason == EARLIER for item in found.left_out) == 2
    assert find_images([folder / out / "masks" / "sub" / "bad.png"]).images  # asked for by name
    with pytest.raises(UflowError, match="holds no images but the masks and overlays"):
        find_images([folder / out / "masks"])


@pytest.mark.parametrize("is_over", [False, True])
def test_pictures_of_before_there_were_folders_for_them_are_left_out_too(folder, is_over):
    for name in ("good_mask.png", "good_overlay.png", "part_mask.png"):  # the last is no picture of ours
        write_png(folder / name, good_image(1, side=8))
    images = [{"mask": "x/good_mask.png", "overlay": "x/good_overlay.png"}, {"mask": None, "overlay": None}]
    (folder / RESULT_NAME).write_text(json.dumps({"images": images}))
    if is_over:
        (folder / LINES_NAME).touch()
        (folder / RESULT_NAME).unlink()
    assert names(find_images([folder]), folder) == ["good.png", "part_mask.png", "sub/bad.png", "sub/deep/bad.png"]


def test_masks_of_somebody_else_are_images(folder):
    write_png(folder / "masks" / "a.png", good_image(1, side=8))
    (folder / RESULT_NAME).write_text('{"images": [3]}')
    assert "masks/a.png" in names(find_images([folder]), folder)


def test_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(UflowError, match="image"):
        find_images([tmp_path])
