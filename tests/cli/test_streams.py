"""What is printed: any name, any encoding, no room; and what a user may not read or write, each in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from uflow_cli.images import write_png
from uflow_cli.run.record import CONFIG_NAME


def run(arguments: str, *, encoding: str = "utf-8", **streams: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"}
    command = [sys.executable, "-m", "uflow_cli", *arguments.split()]
    return subprocess.run(command, check=False, env=environment, **{"stderr": subprocess.PIPE, **streams})  # type: ignore[call-overload]


@pytest.mark.parametrize("arguments", ["runs --json", "--help"])
def test_a_full_disk_behind_stdout_is_one_line(arguments: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        result = run(arguments, stdout=full)
    assert result.returncode == 1
    assert result.stderr == b"uflow: the result cannot be written to stdout (No space left on device)\n"


def test_nobody_listening_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        assert b"Traceback" not in run("--help", stdout=pipe).stderr
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            assert run("runs nowhere", stdout=subprocess.PIPE, stderr=full).returncode in (0, 1)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_names_that_an_encoding_lacks_are_shown_all_the_same(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a\u5091\udcff\x1b[31m").mkdir()
    (tmp_path / "a\u5091\udcff\x1b[31m" / CONFIG_NAME).write_text('{"version": 3, "weights": "x", "calibration": 1}')
    (tmp_path / "a\u5091\udcff\x1b[31m" / "flow-1-a.safetensors").write_bytes(b"")
    result = run(f"runs {tmp_path}", encoding=encoding, stdout=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"a???[31m" in result.stdout
    assert b"\x1b" not in result.stdout


def test_names_with_control_characters_stay_on_their_line(small_run, product, tmp_path, uflow, capsys):
    good = product / "stripes" / "test" / "good" / "000.png"
    name = "a\nb\x1b[31mc\x07.png"
    (tmp_path / name).write_bytes(good.read_bytes())
    (tmp_path / f"no{name}").write_bytes(b"nothing")
    outcome = uflow("detect", tmp_path, "--model", small_run, "--out", tmp_path / "out")
    assert outcome.code == 1
    shown = name.translate({ord(c): "\N{REPLACEMENT CHARACTER}" for c in "\n\x1b\x07"})
    assert any(line.startswith(shown) for line in outcome.out.splitlines())
    assert f"no{shown}: not an image" in outcome.err
    assert not set("\x1b\x07") & set(outcome.out + outcome.err)


@pytest.mark.parametrize(
    "arguments",
    [["detect", ""], ["detect", "a.png", "--out", ""], ["detect", "a.png", "--out="], ["train", "--images", ""],
     ["check", "--images", "x", "--model", ""]],
)  # fmt: skip
def test_an_empty_text_is_no_path(uflow, arguments: list[str]) -> None:
    outcome = uflow(*arguments)
    assert outcome.code == 2
    assert "an empty text is no value" in outcome.err


def test_a_missing_permission_is_named_by_its_file(small_run, product, tmp_path, uflow, monkeypatch):
    good, opened = product / "stripes" / "test" / "good" / "000.png", Path.open

    def forbid(suffix: str) -> None:
        def refuse(self: Path, *args, **options):
            if str(self).endswith(suffix):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
            return opened(self, *args, **options)

        monkeypatch.setattr(Path, "open", refuse)

    for suffix, words in (
        (CONFIG_NAME, f"uflow: {small_run / CONFIG_NAME}: Permission denied; check its permissions"),
        (".safetensors", "cannot be read (Permission denied); check its permissions"),
    ):
        forbid(suffix)
        outcome = uflow("detect", good, "--model", small_run, "--out", tmp_path / "out")
        assert outcome.code == 1
        assert words in outcome.err
        assert len(outcome.err.splitlines()) == 1
        monkeypatch.undo()


def test_one_picture_that_cannot_be_written_ends_nothing(small_run, product, tmp_path, uflow):
    out = tmp_path / "out"
    (out / "masks" / "000.png").mkdir(parents=True)  # in the way
    (out / "detections.jsonl").touch()
    images = product / "stripes" / "test" / "good"
    outcome = uflow("detect", images, "--model", small_run, "--out", out)
    assert outcome.code == 1
    assert "000.png: cannot be written" in outcome.err
    assert (out / "masks" / "001.png").is_file()
    assert (out / "detections.json").is_file()


def test_a_training_that_is_refused_leaves_nothing_behind(tmp_path, uflow):
    images = tmp_path / "images"
    write_png(images / "a.png", np.zeros((8, 8, 3), np.uint8))
    (images / "b.png").write_bytes(b"no image")
    outcome = uflow("train", "--images", images, "--out", tmp_path / "run", "--cache-dir", tmp_path / "cache")
    assert outcome.code == 1
    assert "b.png: not an image" in outcome.err
    assert not (tmp_path / "run").exists()
