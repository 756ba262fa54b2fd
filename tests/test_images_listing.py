"""One listing for all commands: what it takes, and that nothing is left out in silence."""

import os
from pathlib import Path
from typing import Any

import pytest

from uflow_cli.errors import DatasetError, ImageError
from uflow_cli.images import LeftOut, describe_left_out, list_images, read_image


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def reasons(left_out: list[LeftOut], root: Path) -> dict[str, str]:
    return {item.path.relative_to(root).as_posix(): item.reason for item in left_out}


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "gif", "jp2", "avif", "tga", "pgm", "JPG", "dib", "ppm"])
def test_other_suffixes_of_images_are_taken(tmp_path: Path, suffix: str) -> None:
    touched(tmp_path / f"a.{suffix}")
    assert list_images(tmp_path) == [tmp_path / f"a.{suffix}"]


def test_everything_that_is_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    touched(root / "a.png", root / "deep" / "er" / "b.jpg", elsewhere / "c.bmp")
    touched(root / "notes.txt", root / "photo.heic", root / "Thumbs.db", root / "desktop.ini", root / ".hidden.png")
    touched(root / "__MACOSX" / "._a.png")
    (root / "gone.png").symlink_to(root / "not there.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "round").symlink_to(root)
    (root / "self.png").symlink_to("self.png")
    os.mkfifo(root / "pipe.png")
    left_out: list[LeftOut] = []
    found = list_images(root, recursive=True, left_out=left_out)
    assert [path.relative_to(root).as_posix() for path in found] == ["a.png", "deep/er/b.jpg", "linked/c.bmp"]
    assert reasons(left_out, root) == {
        "notes.txt": "no images", "photo.heic": "no images", "Thumbs.db": "files of the system",
        "desktop.ini": "files of the system", "__MACOSX": "files of the system", ".hidden.png": "hidden images",
        "gone.png": "links that lead nowhere", "self.png": "links that lead nowhere", "pipe.png": "devices or pipes",
        "round": "links to what is listed already",
    }  # fmt: skip
    line = describe_left_out(left_out)
    assert "\n" not in line
    for words in ("left out 10", "2 no images (.heic, .txt)", "2 links that lead nowhere", "3 files of the system"):
        assert words in line


def test_folders_inside_are_named_where_they_are_not_searched(tmp_path: Path) -> None:
    touched(tmp_path / "a.png", tmp_path / "inside" / "b.png")
    left_out: list[LeftOut] = []
    assert list_images(tmp_path, left_out=left_out) == [tmp_path / "a.png"]
    assert reasons(left_out, tmp_path) == {"inside": "folders inside"}


def test_a_folder_that_cannot_be_read_is_left_out_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched(tmp_path / "a.png", tmp_path / "locked" / "b.png")
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    left_out: list[LeftOut] = []
    assert list_images(tmp_path, recursive=True, left_out=left_out) == [tmp_path / "a.png"]
    assert reasons(left_out, tmp_path) == {"locked": "folders that cannot be read"}
    with pytest.raises(DatasetError, match=r"locked: cannot be listed \(Permission denied\); check its permissions"):
        list_images(tmp_path / "locked")


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    touched(tmp_path / "a.heic", tmp_path / "b.psd")
    with pytest.raises(DatasetError, match=r"holds no images; .*\(left out: 2 no images \(\.heic, \.psd\)\)"):
        list_images(tmp_path)


def test_pipes_and_devices_and_dangling_links_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    for path, reason in (
        (tmp_path / "pipe.png", "is a device, pipe or socket"),
        (Path("/dev/zero"), "is a device, pipe or socket"),
        (tmp_path / "gone.png", r"is a link to nowhere\.png, which is not there"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "zero\0byte", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=reason):
            read_image(path)
