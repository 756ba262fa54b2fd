"""Data sets are found where people put them, under the names that people give them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from uflow_cli.datasets import DATASETS, find_root
from uflow_cli.datasets.places import NAMES, places, plain
from uflow_cli.errors import DatasetError
from uflow_cli.images import write_png

BLACK = np.zeros((4, 4, 3), dtype=np.uint8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder; the cache of the system is another one."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("UFLOW_DATA", raising=False)
    return folder


def category(folder, name="screw"):
    write_png(folder / name / "train" / "good" / "000.png", BLACK)
    return folder


@pytest.mark.parametrize(
    "place",
    [
        "data", "data/mvtec", "data/MVTec", "data/MVTecAD", "data/mvtec_anomaly_detection", "data/mvtec_ad", "data/MVTec-AD",
        "datasets", "datasets/MVTecAD", "data/mvtec/mvtec_anomaly_detection", "../cache/uflow/datasets/mvtec",
    ],
)  # fmt: skip
def test_mvtec_is_found_under_the_names_that_people_use(here, place):
    category(here / place)
    assert find_root("mvtec", "screw").resolve() == (here / place).resolve()


def test_btad_is_found_under_its_archives_name(here):
    write_png(here / "data" / "BTech_Dataset_transformed" / "01" / "train" / "ok" / "0000.bmp", BLACK)
    assert find_root("btad") == Path("data/BTech_Dataset_transformed")


def test_visa_is_found(here):
    split = here / "datasets" / "VisA" / "split_csv" / "1cls.csv"
    split.parent.mkdir(parents=True)
    split.write_text("object,split,label,image,mask\npcb1,train,normal,a.png,\n", encoding="utf-8")
    assert find_root("visa", "pcb1") == Path("datasets/VisA")


def test_the_variable_comes_before_the_usual_folders_and_an_option_stands_alone(here, monkeypatch, tmp_path):
    category(here / "data")
    far = category(tmp_path / "far" / "mvtec")
    assert find_root("mvtec") == Path("data")
    monkeypatch.setenv("UFLOW_DATA", str(far.parent))
    assert find_root("mvtec") == far
    assert find_root("mvtec", root=Path("data")) == Path("data")
    assert find_root("mvtec", "bolt", root=Path("data")) == Path("data")  # whoever loads from it says what is wrong


def test_the_folder_that_has_what_is_wished_for_wins(here):
    category(here / "data", "fabric")
    category(here / "data" / "mvtec", "screw")
    category(here / "datasets" / "mvtec", "cable")
    assert find_root("mvtec", "fabric") == Path("data")
    assert find_root("mvtec", "screw", root=Path("data")) == Path("data/mvtec")
    assert find_root("mvtec", "cable") == Path("datasets/mvtec")
    assert find_root("mvtec", "all") == Path("data")
    assert find_root("mvtec", "bolt") == Path("data")


def test_a_data_set_that_is_nowhere_is_one_line_that_says_where_was_looked(here):
    with pytest.raises(DatasetError) as raised:
        find_root("mvtec", "screw")
    text = str(raised.value)
    assert "\n" not in text
    for place in ("data, ", "data/mvtec, ", "datasets, ", "cache/uflow/datasets/mvtec;", "--data-root", "train/good"):
        assert place in text


def test_names_are_plain_and_of_known_data_sets(here):
    assert set(NAMES) <= set(DATASETS)
    assert all(plain(name) == name for names in NAMES.values() for name in names)
    assert all(plain(name) in names for name, names in NAMES.items())
    (here / "mvtec_ad_2").mkdir()
    assert here / "mvtec_ad_2" not in places("mvtec", root=here)  # another data set
