"""Which good image is of which group."""

from pathlib import Path

import pytest

from uflow_cli.datasets import GOOD, LabelledImage, groups_of
from uflow_cli.errors import DatasetError


def images(*names: str, groups: tuple[str | None, ...] = ()) -> list[LabelledImage]:
    known = groups or (None,) * len(names)
    return [LabelledImage(Path("/data") / name, GOOD, group=group) for name, group in zip(names, known, strict=True)]


def test_folders_are_groups() -> None:
    assert groups_of(images("a/1.png", "a/2.png", "b/x/1.png"), "folders") == ("a", "a", "b/x")


def test_a_pattern_on_file_names_names_groups() -> None:
    lots = images("lot1_000.png", "lot2_001.png", "lot1_002.png")
    assert groups_of(lots, "lot[0-9]+") == ("lot1", "lot2", "lot1")
    assert groups_of(lots, "lot([0-9]+)_") == ("1", "2", "1")


def test_a_table_names_groups_by_path_or_name(tmp_path: Path) -> None:
    there = [LabelledImage(tmp_path / "good" / name, GOOD) for name in ("1.png", "2.png", "3, four.png")]
    table = tmp_path / "groups.csv"
    table.write_text('\ufeffimage,group\ngood/1.png,monday\n2.png, tuesday\n"3, four.png",monday\n\n', encoding="utf-8")
    assert groups_of(there, str(table)) == ("monday", "tuesday", "monday")


def test_a_data_set_knows_groups_unless_told_otherwise() -> None:
    known = images("1.png", "2.png", groups=("p", "q"))
    assert groups_of(known, None) == ("p", "q")
    assert groups_of(known, "none") == ()
    assert groups_of(images("1.png", "2.png", groups=("p", None)), None) == ()
    assert groups_of(images("1.png", "2.png", groups=("p", "p")), None) == ()
    assert groups_of(images("1.png", "2.png"), None) == ()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("folders", "all 2 images are of one group"),
        ("(lot", "not a regular expression"),
        ("lot1", "finds nothing in the name of .*lot2_1.png"),
        ("lot(x?)", "names no group for .*lot1_1.png"),
        ("lot", "one group, 'lot'; two or more are needed"),
        ("missing.csv", "cannot be read"),
    ],
)
def test_a_rule_that_does_not_fit_is_one_line(rule: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        groups_of(images("lot1_1.png", "lot2_1.png"), rule)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("lot1_1.png,a\n", "no group of 1 of 2 images, such as .*lot2_1.png"),
        ("lot1_1.png,a\nlot2_1.png\n", "line 2: 'lot2_1.png' has no group"),
        ("lot1_1.png,a\nlot1_1.png,b\n", "line 2: lot1_1.png is in 'b' and in 'a'"),
    ],
)
def test_a_table_that_does_not_fit_names_the_line_or_the_image(tmp_path: Path, lines: str, message: str) -> None:
    table = tmp_path / "groups.csv"
    table.write_text(lines, encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        groups_of(images("lot1_1.png", "lot2_1.png"), str(table))
