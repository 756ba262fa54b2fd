"""Files are whole or as they were."""

from __future__ import annotations

import stat

import pytest

from uflow_cli.errors import UflowError
from uflow_cli.files import replacing, write_text


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
