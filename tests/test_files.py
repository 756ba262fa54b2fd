"""Files are whole or as they were."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from uflow_cli.errors import UflowError
from uflow_cli.files import remove, remove_litter, replacing, swap_folder, workshop, write_text


def test_failure_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_litter_that_may_not_be_removed_stays(tmp_path, monkeypatch):
    (tmp_path / ".a1b2c3d4.tmp").touch()
    with monkeypatch.context() as readonly:
        readonly.setattr(Path, "unlink", refused)
        remove_litter(tmp_path)
    assert (tmp_path / ".a1b2c3d4.tmp").exists()
    remove_litter(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_must_not_stay_and_cannot_be_removed_is_one_line(tmp_path, monkeypatch):
    remove(tmp_path / "never there")
    (tmp_path / "a").touch()
    with monkeypatch.context() as readonly:
        readonly.setattr(Path, "unlink", refused)
        with pytest.raises(UflowError, match=r"a: cannot be removed \(Read-only file system\)"):
            remove(tmp_path / "a")
    remove(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def refused(path, *_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_parents_are_made_and_others_may_read(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "text")
    assert path.read_text() == "text"
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_impossible_path_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UflowError, match=r"cannot be written.*another folder"):
        write_text(tmp_path / "file" / "below.txt", "text")


@pytest.mark.skipif(not __import__("pathlib").Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.mkstemp", lambda **_: (__import__("os").open("/dev/null", 1), str(tmp_path / "link")))
    (tmp_path / "link").symlink_to("/dev/full")
    with pytest.raises(UflowError, match="No space left"):
        write_text(tmp_path / "a.txt", "text" * 100_000)
    assert not (tmp_path / "a.txt").exists()


def killed_in_a_workshop(place, *, swapping):
    """A process that dies as by a kill while it makes `place` anew, or between the two halves of the swap."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    with workshop(place) as bench:
        (bench / "made").mkdir()
        if swapping:
            place.rename(bench / "old")
        os._exit(0)


def broken_off(folder, **_):
    """The removal of a folder that a kill breaks off after its files and before its folders."""
    for path in Path(folder).iterdir():
        if path.is_file():
            path.unlink()
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_while_a_workshop_is_removed_leaves_nothing_for_ever(tmp_path, monkeypatch):
    if not (child := os.fork()):
        monkeypatch.setattr("shutil.rmtree", broken_off)
        try:
            with workshop(tmp_path / "place") as bench:
                (bench / "made").mkdir()
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert any(tmp_path.rglob("made"))
    with workshop(tmp_path / "place"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("swapping", [False, True])
def test_what_a_kill_left_of_a_workshop_goes_and_what_was_replaced_comes_back(tmp_path, swapping):
    place = tmp_path / "place"
    write_text(place / "a.txt", "old")
    killed_in_a_workshop(place, swapping=swapping)
    assert place.exists() != swapping
    with workshop(tmp_path / "other"):
        assert place.exists() != swapping  # others' are left alone
    with workshop(place) as bench:
        assert (place / "a.txt").read_text() == "old"
        with workshop(place) as second:  # of a living process
            assert bench.exists()
            assert second != bench
        write_text(bench / "made" / "a.txt", "new")
        swap_folder(bench / "made", place, old=bench / "old")
    assert (place / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
