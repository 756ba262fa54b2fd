"""Good images that are not to be trained on, as files name them."""

import json
import os
from pathlib import Path

import pytest

from uflow_cli.datasets import GOOD, Dataset, LabelledImage, read_exclusion, without
from uflow_cli.errors import DatasetError
from uflow_cli.run.suspects import SUSPECTS_NAME, Suspect, read_suspects, write_suspects


def data_in(folder: Path) -> Dataset:
    return Dataset("d", "c", tuple(LabelledImage(folder / name, GOOD) for name in ("a.png", "b, c.png", "d.png")))


def kept(folder: Path, file: Path) -> list[str]:
    return [image.path.name for image in without(data_in(folder), read_exclusion(file))[0].train]


def test_what_training_names_can_be_excluded(tmp_path: Path) -> None:
    suspects = [Suspect(tmp_path / "b, c.png", -3.25), Suspect(tmp_path / "d.png", -0.5)]
    write_suspects(tmp_path, suspects)
    assert read_suspects(tmp_path) == suspects
    assert kept(tmp_path, tmp_path / SUSPECTS_NAME) == ["a.png"]
    write_suspects(tmp_path, [])
    assert not (tmp_path / SUSPECTS_NAME).exists()
    assert read_suspects(tmp_path) == []


NAMES = [
    "line\nbreak.png",
    "return\r.png",
    "next\x85line.png",
    "separator\u2028.png",
    "no unicode\udcff.png",
    '"=1+2".png',
]


@pytest.mark.skipif(os.name == "nt", reason="file names of bytes")
def test_any_name_that_training_writes_down_can_be_excluded(tmp_path: Path) -> None:
    images = tuple(LabelledImage(tmp_path / name, GOOD) for name in [*NAMES, "other.png"])
    write_suspects(tmp_path, [Suspect(image.path, -1.0) for image in images[:-1]])
    assert [suspect.path for suspect in read_suspects(tmp_path)] == [image.path for image in images[:-1]]
    named = read_exclusion(tmp_path / SUSPECTS_NAME)
    assert without(Dataset("d", "c", images), named)[0].train == images[-1:]
    (tmp_path / "list.txt").write_bytes(os.fsencode("\n".join(NAMES[2:])))  # one a line, so no name with a line end
    assert read_exclusion(tmp_path / "list.txt") == tuple(NAMES[2:])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("suffix", [".csv", ".txt", ".json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(DatasetError, match="is a device, pipe or socket"):
        read_exclusion(tmp_path / f"pipe{suffix}")


@pytest.mark.parametrize("text", ["b, c.png\n\n", "./b, c.png", "{folder}/b, c.png"])
def test_lists_of_one_s_own_name_a_path_or_a_file_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text.format(folder=tmp_path))
    assert kept(tmp_path, tmp_path / "list.txt") == ["a.png", "d.png"]


def test_a_name_of_no_training_image_is_an_error_unless_other_categories_may_have_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"1 of 2 are no training images, such as x\.png"):
        without(data_in(tmp_path), ["a.png", "x.png"])
    data, gone = without(data_in(tmp_path), ["a.png", "x.png"], strict=False)
    assert (len(data.train), gone) == (2, (str(tmp_path / "a.png"),))


def test_a_file_that_names_nothing_or_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("image,log_nfa\n")
    with pytest.raises(DatasetError, match="names no image"):
        read_exclusion(tmp_path / "empty.csv")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_exclusion(tmp_path / "missing.txt")


def test_images_that_a_report_marks_as_missed_are_excluded(tmp_path: Path) -> None:
    marks = {"a.png": "good after all", "b, c.png": "missed"}
    images = [{"path": str(tmp_path / name), "mark": mark, "log_nfa": 1.0} for name, mark in marks.items()]
    (tmp_path / "marked.json").write_text(json.dumps({"version": 3, "threshold": 0.0, "images": images}))
    assert kept(tmp_path, tmp_path / "marked.json") == ["a.png", "d.png"]
    (tmp_path / "marked.json").write_text("[]")
    with pytest.raises(DatasetError, match="not a list that a report's page saved"):
        read_exclusion(tmp_path / "marked.json")
