"""Each layout in a tiny tree: who trains, who tests, whose mask is whose, and what is said when it does not fit."""

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from uflow_cli import datasets
from uflow_cli.datasets import Dataset, LabelledImage, kolektor, lgg_mri
from uflow_cli.datasets.groups import split_by_group
from uflow_cli.errors import DatasetError, UflowError
from uflow_cli.images import write_png

SIZE = (6, 8)
# Every word that a loader looks for stands in the root's own path: names are resolved by relation, never by replacing.
TRAP = "train/test/good/ground_truth/image_mask/frames/ok"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / TRAP
    folder.mkdir(parents=True)
    return folder


def picture(path: Path) -> Path:
    """PNG bytes under any suffix: the content decides."""
    write_png(path, np.full((*SIZE, 3), 50, dtype=np.uint8))
    return path


def mask(path: Path, *, marked: int = 3, value: int = 255, size: tuple[int, int] = SIZE) -> Path:
    pixels = np.zeros(size, dtype=np.uint8)
    pixels.ravel()[:marked] = value
    write_png(path, pixels)
    return path


def marked(labelled: LabelledImage, size: tuple[int, int] = SIZE) -> int:
    return int(datasets.read_label_mask(labelled, size).sum())


def kinds(dataset: Dataset) -> dict[str, int]:
    return dict(Counter(image.defect for image in dataset.test))


def names(images: tuple[LabelledImage, ...], root: Path) -> list[str]:
    return [image.path.relative_to(root).as_posix() for image in images]


# MVTec AD


def mvtec_tree(root: Path, category: str = "screw") -> Path:
    folder = root / category
    for number in (0, 1, 2, 10):
        picture(folder / "train" / "good" / f"{number}.png")
    picture(folder / "test" / "good" / "000.png")
    for kind in ("scratch", "dent10", "dent2"):
        for stem in ("000", "001"):
            picture(folder / "test" / kind / f"{stem}.png")
            mask(folder / "ground_truth" / kind / f"{stem}_mask.png", marked=len(kind))
    return folder


def test_mvtec_trains_on_good_and_tests_by_kind(root: Path) -> None:
    mvtec_tree(root)
    dataset = datasets.load_dataset("mvtec", root=root, category="screw")
    assert (dataset.name, dataset.category) == ("mvtec", "screw")
    assert names(dataset.train, root / "screw/train/good") == ["0.png", "1.png", "2.png", "10.png"]
    assert all(image.is_good and image.mask_path is None for image in dataset.train)
    assert kinds(dataset) == {"dent2": 2, "dent10": 2, "good": 1, "scratch": 2}
    assert list(kinds(dataset)) == ["dent2", "dent10", "good", "scratch"]
    for image in dataset.test:
        assert marked(image) == (0 if image.is_good else len(image.defect))


def test_mvtec_lists_its_categories_and_accepts_a_category_of_its_own(root: Path) -> None:
    mvtec_tree(root, "screw")
    mvtec_tree(root, "cable")
    (root / "notes").mkdir()
    assert datasets.list_categories("mvtec", root=root) == ["cable", "screw"]
    own = root / "screw"
    assert datasets.list_categories("mvtec", root=own) == ["screw"]
    assert datasets.load_dataset("mvtec", root=own) == datasets.load_dataset("mvtec", root=own, category="screw")
    with pytest.raises(DatasetError, match=r"several categories of mvtec; choose one of cable, screw"):
        datasets.load_dataset("mvtec", root=root)


@pytest.mark.parametrize(
    ("wish", "chosen"),
    [("all", ["a", "b,c", "d"]), ("d, a,d", ["d", "a"]), ("b,c", ["b,c"]), ("d", ["d"])],
)
def test_categories_are_chosen_by_name_or_all(tmp_path: Path, wish: str, chosen: list[str]) -> None:
    for name in ("a", "b,c", "d"):
        (tmp_path / name / "train" / "good").mkdir(parents=True)
    assert datasets.choose_categories("mvtec", wish, root=tmp_path) == chosen


@pytest.mark.parametrize("wish", ["a,e", ",", "e"])
def test_a_category_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, wish: str) -> None:
    for name in ("a", "d"):
        (tmp_path / name / "train" / "good").mkdir(parents=True)
    with pytest.raises(DatasetError, match="there are a, d, or all"):
        datasets.choose_categories("mvtec", wish, root=tmp_path)


@pytest.mark.parametrize("name", ["001_mask.bmp", "001_mask.PNG", "001.png", "001.tif"])
def test_mvtec_masks_may_have_another_suffix_or_plain_name(root: Path, name: str) -> None:
    folder = mvtec_tree(root)
    (folder / "ground_truth" / "scratch" / "001_mask.png").rename(folder / "ground_truth" / "scratch" / name)
    dataset = datasets.load_dataset("mvtec", root=root)
    found = {image.path.name: image for image in dataset.test if image.defect == "scratch"}
    assert found["001.png"].mask_path == folder / "ground_truth" / "scratch" / name
    assert marked(found["001.png"]) == 7


def test_mvtec_without_test_folder_has_nothing_to_test(root: Path) -> None:
    picture(root / "screw" / "train" / "good" / "0.png")
    assert datasets.load_dataset("mvtec", root=root).test == ()


def test_a_missing_mask_is_an_error_that_names_image_and_place(root: Path) -> None:
    folder = mvtec_tree(root)
    expected = folder / "ground_truth" / "scratch" / "001_mask.png"
    expected.unlink()
    image = datasets.load_dataset("mvtec", root=root).test[-1]
    with pytest.raises(DatasetError, match=re.escape(f"without mask; expected {expected}")) as raised:
        datasets.read_label_mask(image, SIZE)
    assert str(image.path) in str(raised.value)
    with pytest.raises(DatasetError):
        datasets.require_mask(image)


def test_a_mask_of_another_size_is_an_error_that_names_both_files_and_sizes(root: Path) -> None:
    folder = mvtec_tree(root)
    other = mask(folder / "ground_truth" / "scratch" / "001_mask.png", size=(8, 6))
    image = datasets.load_dataset("mvtec", root=root).test[-1]
    with pytest.raises(DatasetError) as raised:
        datasets.read_label_mask(image, SIZE)
    for text in (str(other), str(image.path), "8 x 6", "6 x 8"):
        assert text in str(raised.value)
    with pytest.raises(DatasetError, match="3 x 3"):
        datasets.read_label_mask(image, SIZE, image_size=(3, 3))


def test_masks_are_resized_and_good_ones_empty(root: Path) -> None:
    mvtec_tree(root)
    *_, good, _, defective = datasets.load_dataset("mvtec", root=root).test
    assert datasets.read_label_mask(good, (12, 16)).shape == (12, 16)
    assert marked(good, (12, 16)) == 0
    assert marked(defective, (12, 16)) > 7
    assert datasets.read_label_mask(defective, (12, 16), image_size=SIZE).dtype == np.bool_


def test_magnetic_tile_masks_are_divided_at_127(root: Path) -> None:
    folder = mvtec_tree(root, "magnetic_tile")
    mask(folder / "ground_truth" / "scratch" / "001_mask.png", value=127)
    mask(folder / "ground_truth" / "scratch" / "000_mask.png", value=128)
    dataset = datasets.load_dataset("mtd", root=root)
    assert (dataset.name, dataset.category) == ("mtd", "magnetic_tile")
    assert [marked(image) for image in dataset.test if image.defect == "scratch"] == [3, 0]


# Folders of one's own


def test_a_folder_of_good_images_is_a_data_set(root: Path) -> None:
    picture(root / "my parts" / "a.jpg")
    dataset = datasets.folder_dataset(root / "my parts")
    assert (dataset.name, dataset.category, dataset.test) == ("folder", "my parts", ())
    assert names(dataset.train, root) == ["my parts/a.jpg"]


@pytest.mark.parametrize("ending", [".png", "_mask.png", ".bmp"])
def test_folders_of_kinds_are_labelled_by_their_names(root: Path, ending: str) -> None:
    picture(root / "okay" / "a.png")
    picture(root / "line 3" / "good" / "b.png")
    picture(root / "line 3" / "hole" / "c.png")
    mask(root / "drawn" / "hole" / f"c{ending}")
    dataset = datasets.folder_dataset(root / "okay", test=root / "line 3", masks=root / "drawn")
    assert kinds(dataset) == {"good": 1, "hole": 1}
    assert [marked(image) for image in dataset.test] == [0, 3]
    assert dataset.test[0].mask_path is None
    without = datasets.folder_dataset(root / "okay", test=root / "line 3")
    assert kinds(without) == kinds(dataset)
    with pytest.raises(DatasetError, match=r"c\.png: a defective image \(hole\) without mask; no mask folder"):
        marked(without.test[1])


def test_a_flat_test_folder_is_labelled_by_its_masks(root: Path) -> None:
    picture(root / "okay" / "a.png")
    for stem, count in (("b", 0), ("c", 4)):
        picture(root / "mixed" / f"{stem}.png")
        mask(root / "drawn" / f"{stem}.png", marked=count)
    dataset = datasets.folder_dataset(root / "okay", test=root / "mixed", masks=root / "drawn")
    assert [(image.defect, marked(image)) for image in dataset.test] == [("good", 0), ("defect", 4)]
    (root / "drawn" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"expected .*drawn/b\.png"):
        datasets.folder_dataset(root / "okay", test=root / "mixed", masks=root / "drawn")
    with pytest.raises(DatasetError, match="nothing says which images are good"):
        datasets.folder_dataset(root / "okay", test=root / "mixed")
    with pytest.raises(DatasetError, match="gone: no such folder"):
        datasets.folder_dataset(root / "okay", test=root / "mixed", masks=root / "gone")


def test_the_folder_layout_is_found_below_a_root(root: Path) -> None:
    picture(root / "caps" / "good" / "a.png")
    picture(root / "caps" / "test" / "hole" / "c.png")
    mask(root / "caps" / "masks" / "hole" / "c.png")
    picture(root / "lids" / "good" / "a.png")
    assert datasets.list_categories("folder", root=root) == ["caps", "lids"]
    caps = datasets.load_dataset("folder", root=root, category="caps")
    assert (caps.category, len(caps.train), marked(caps.test[0])) == ("caps", 1, 3)
    assert datasets.load_dataset("folder", root=root, category="lids").test == ()
    assert datasets.load_dataset("folder", root=root / "caps") == caps


# BeanTech


def test_btad_takes_masks_of_another_suffix(root: Path) -> None:
    folder = root / "01"
    picture(folder / "train" / "ok" / "0000.bmp")
    picture(folder / "test" / "ok" / "0001.bmp")
    for stem, suffix in (("0002", ".png"), ("0003", ".bmp")):
        picture(folder / "test" / "ko" / f"{stem}.bmp")
        mask(folder / "ground_truth" / "ko" / f"{stem}{suffix}")
    assert datasets.list_categories("btad", root=root) == ["01"]
    dataset = datasets.load_dataset("btad", root=root, category="01")
    assert names(dataset.train, folder) == ["train/ok/0000.bmp"]
    assert kinds(dataset) == {"good": 1, "ko": 2}
    assert [marked(image) for image in dataset.test] == [0, 3, 3]


# LGG MRI


def lgg_tree(root: Path, patients: int = 5) -> list[str]:
    named = [f"TCGA_{number}_{'mask' if number == 1 else 'x'}" for number in range(patients)]
    for patient in named:
        for number in (1, 2, 10):
            picture(root / patient / f"{patient}_{number}.tif")
            mask(root / patient / f"{patient}_{number}_mask.tif", marked=4 if number == 10 else 0)
    return named


@pytest.mark.parametrize("inner", [".", "kaggle_3m"])
def test_lgg_is_split_by_patient_and_trains_on_empty_masks(root: Path, inner: str) -> None:
    patients = lgg_tree(root / inner)
    (root / inner / "data.csv").touch()
    dataset = datasets.load_dataset("lgg_mri", root=root)
    trained = {image.path.parent.name for image in dataset.train}
    tested = {image.path.parent.name for image in dataset.test}
    assert trained | tested == set(patients)
    assert not trained & tested
    assert {image.group for image in dataset.train} == trained
    assert len(trained) == round(lgg_mri.TRAIN_SHARE * len(patients))
    assert len(dataset.train) == 2 * len(trained)
    assert kinds(dataset) == {"good": 2 * len(tested), "tumour": len(tested)}
    assert not any("_mask" in image.path.stem.split("_x")[-1][-5:] for image in dataset.test)
    assert sum(marked(image) for image in dataset.test) == 4 * len(tested)


def test_lgg_names_the_mask_that_is_missing(root: Path) -> None:
    patients = lgg_tree(root)
    (root / patients[0] / f"{patients[0]}_2_mask.tif").unlink()
    with pytest.raises(DatasetError, match=rf"{patients[0]}_2\.tif: .*expected .*{patients[0]}_2_mask\.tif"):
        datasets.load_dataset("lgg_mri", root=root)


@given(st.sets(st.text("ab01", min_size=1), min_size=2, max_size=8), st.integers(0, 5), st.floats(0, 1))
def test_a_held_out_split_parts_groups_and_repeats(groups: set[str], seed: int, share: float) -> None:
    images = {name: [LabelledImage(Path(name), kind) for kind in ("good", "bad")] for name in groups}
    train, test = split_by_group(images, train_share=share, seed=seed)
    assert {image.path for image in train}.isdisjoint({image.path for image in test})
    assert {image.path.name for image in (*train, *test)} == groups
    assert test
    assert {image.defect for image in train} == {"good"}
    shuffled = dict(sorted(images.items(), reverse=True))
    assert split_by_group(shuffled, train_share=share, seed=seed) == (train, test)


def test_another_seed_draws_other_groups() -> None:
    images = {str(number): [LabelledImage(Path(str(number)), "good")] for number in range(20)}
    assert len({split_by_group(images, train_share=0.5, seed=seed)[0] for seed in range(5)}) > 1


def test_a_split_that_cannot_be_is_an_error() -> None:
    with pytest.raises(DatasetError, match="two or more"):
        split_by_group({"one": [LabelledImage(Path("a"), "good")]}, train_share=0.5)
    with pytest.raises(DatasetError, match="no good image"):
        split_by_group({name: [LabelledImage(Path("a"), "bad")] for name in "ab"}, train_share=0.5)


# ShanghaiTech Campus


def shanghai_tree(root: Path, *, frame_labels: bool) -> NDArray[np.uint8]:
    for clip in ("01_001", "01_002"):
        picture(root / "training" / "frames" / clip / "000.jpg")
    masks = np.zeros((12, *SIZE), dtype=np.uint8)
    masks[7, 0, :5] = 1
    masks[10, :2] = 1
    for number in range(len(masks)):
        picture(root / "testing" / "frames" / "01_0014" / f"{number}.jpg")  # 10 sorts before 2, unless naturally
    (root / "testing" / "test_pixel_mask").mkdir(parents=True)
    np.save(root / "testing" / "test_pixel_mask" / "01_0014.npy", masks)
    if frame_labels:
        (root / "testing" / "test_frame_mask").mkdir()
        np.save(root / "testing" / "test_frame_mask" / "01_0014.npy", masks.any(axis=(1, 2)).astype(np.int8))
    return masks


@pytest.mark.parametrize("frame_labels", [True, False])
def test_shanghaitech_gives_each_frame_its_own_mask(root: Path, frame_labels: bool) -> None:
    masks = shanghai_tree(root, frame_labels=frame_labels)
    dataset = datasets.load_dataset("shanghaitech", root=root)
    assert (dataset.category, len(dataset.train)) == ("campus", 2)
    assert [image.path.stem for image in dataset.test] == [str(number) for number in range(12)]
    assert kinds(dataset) == {"good": 10, "anomaly": 2}
    for image, expected in zip(dataset.test, masks, strict=True):
        np.testing.assert_array_equal(datasets.read_label_mask(image, SIZE), expected != 0)


def test_shanghaitech_says_that_frames_must_be_extracted(root: Path) -> None:
    shanghai_tree(root, frame_labels=False)
    (root / "training" / "frames").rename(root / "training" / "videos")
    with pytest.raises(DatasetError, match="extract"):
        datasets.load_dataset("shanghaitech", root=root)


def test_shanghaitech_compares_the_numbers_of_frames_and_masks(root: Path) -> None:
    masks = shanghai_tree(root, frame_labels=False)
    stack = root / "testing" / "test_pixel_mask" / "01_0014.npy"
    np.save(stack, masks[:-1])
    with pytest.raises(DatasetError, match=r"12 frames and .*01_0014\.npy 11 masks"):
        datasets.load_dataset("shanghaitech", root=root)
    np.save(stack, masks[:, 0, 0])
    with pytest.raises(DatasetError, match="not a stack of masks"):
        datasets.load_dataset("shanghaitech", root=root)
    stack.write_bytes(b"\x93NUMPY, half of it")
    with pytest.raises(DatasetError, match="cannot be read"):
        datasets.load_dataset("shanghaitech", root=root)
    stack.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        datasets.load_dataset("shanghaitech", root=root)


def test_shanghaitech_compares_frame_labels_with_masks(root: Path) -> None:
    shanghai_tree(root, frame_labels=True)
    np.save(root / "testing" / "test_frame_mask" / "01_0014.npy", np.zeros(3))
    with pytest.raises(DatasetError, match="one label each"):
        datasets.load_dataset("shanghaitech", root=root)


# VisA


def visa_tree(root: Path) -> list[list[str]]:
    rows = [
        ["candle", "train", "normal", "candle/Data/Images/Normal/0001.JPG", ""],
        ["candle", "test", "normal", "candle/Data/Images/Normal/0002.JPG", ""],
        ["candle", "test", "anomaly", "candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png"],
        ["pcb1", "train", "normal", "pcb1/Data/Images/Normal/0001.JPG", ""],
    ]
    for row in rows:
        picture(root / row[3])
        if row[4]:
            mask(root / row[4], value=1)  # VisA counts the kinds of defect 1, 2, ...
    save_split(root, [["object", "split", "label", "image", "mask"], *rows])
    return rows


def save_split(root: Path, rows: list[list[str]]) -> None:
    path = root / "split_csv" / "1cls.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_visa_follows_its_split(root: Path) -> None:
    visa_tree(root)
    assert datasets.list_categories("visa", root=root) == ["candle", "pcb1"]
    dataset = datasets.load_dataset("visa", root=root, category="candle")
    assert names(dataset.train, root) == ["candle/Data/Images/Normal/0001.JPG"]
    assert kinds(dataset) == {"good": 1, "anomaly": 1}
    assert [marked(image) for image in dataset.test] == [0, 3]


def test_visa_says_what_is_wrong_with_its_split(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"1cls\.csv: no such file"):
        datasets.list_categories("visa", root=root)
    rows = visa_tree(root)
    (root / rows[1][3]).unlink()
    with pytest.raises(DatasetError, match=r"Normal/0002\.JPG: no such file"):
        datasets.load_dataset("visa", root=root, category="candle")
    save_split(root, [["object", "split", "label", "image"], *[row[:4] for row in rows]])
    with pytest.raises(DatasetError, match="no column mask"):
        datasets.list_categories("visa", root=root)
    save_split(root, [["object", "split", "label", "image", "mask"], rows[0][:3]])
    with pytest.raises(DatasetError, match="fewer than 5 columns"):
        datasets.list_categories("visa", root=root)
    (root / "split_csv" / "1cls.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="cannot be read"):
        datasets.list_categories("visa", root=root)
    save_split(root, [["object", "split", "label", "image", "mask"], rows[2]])
    with pytest.raises(DatasetError, match="no normal training image"):
        datasets.load_dataset("visa", root=root)


# Kolektor


def test_ksdd_is_split_by_item(root: Path) -> None:
    for item in range(1, 7):
        for part in range(3):
            picture(root / f"kos{item:02}" / f"Part{part}.jpg")
            mask(root / f"kos{item:02}" / f"Part{part}_label.bmp", marked=5 if part == 1 else 0)
    dataset = datasets.load_dataset("ksdd", root=root)
    trained = {image.path.parent.name for image in dataset.train}
    assert len(trained) == round(kolektor.TRAIN_SHARE * 6)
    assert trained.isdisjoint({image.path.parent.name for image in dataset.test})
    assert len(dataset.train) == 6
    assert kinds(dataset) == {"good": 6, "defect": 3}
    assert sum(marked(image) for image in dataset.test) == 15


def test_ksdd2_trains_on_the_good_images_of_train(root: Path) -> None:
    for part in ("train", "test"):
        for number in (1, 2, 3):
            picture(root / part / f"{number:05}.png")
            mask(root / part / f"{number:05}_GT.png", marked=2 if number == 3 else 0)
    dataset = datasets.load_dataset("ksdd2", root=root)
    assert names(dataset.train, root) == ["train/00001.png", "train/00002.png"]
    assert kinds(dataset) == {"good": 2, "defect": 1}
    assert marked(dataset.test[-1]) == 2
    (root / "test" / "00002_GT.png").unlink()
    with pytest.raises(DatasetError, match=r"expected .*test/00002_GT\.png"):
        datasets.load_dataset("ksdd2", root=root)


def test_ksdd2_leaves_the_stray_copies_of_its_archive_out_and_says_so(root: Path) -> None:
    for part in ("train", "test"):
        for stem in ("10300", "10301"):
            picture(root / part / f"{stem}.png")
            mask(root / part / f"{stem}_GT.png", marked=0)
    picture(root / "train" / "10301 (copy).png")
    mask(root / "train" / "10301_GT (copy).png", marked=0)
    dataset = datasets.load_dataset("ksdd2", root=root)
    assert len(dataset.train) == len(dataset.test) == 2
    assert [(item.path.name, item.reason) for item in dataset.left_out] == [
        ("10301 (copy).png", "stray copies"), ("10301_GT (copy).png", "stray copies"),
    ]  # fmt: skip


# Nested, named otherwise, and left out


def test_nested_images_train_and_test_with_masks_nested_alike(root: Path) -> None:
    folder = mvtec_tree(root)
    picture(folder / "train" / "good" / "line 2" / "0.png")
    picture(folder / "test" / "scratch" / "line 2" / "007.png")
    mask(folder / "ground_truth" / "scratch" / "line 2" / "007_mask.png", marked=5)
    dataset = datasets.load_dataset("mvtec", root=root)
    assert len(dataset.train) == 5
    assert marked(next(image for image in dataset.test if image.path.name == "007.png")) == 5
    assert dataset.left_out == ()
    assert len(datasets.folder_dataset(folder / "train" / "good").train) == 5


@pytest.mark.parametrize("name", ["OK", "ok", "Good", "normal", "GOOD"])
def test_folders_of_good_images_may_have_another_name(root: Path, name: str) -> None:
    folder = mvtec_tree(root)
    (folder / "train" / "good").rename(folder / "train" / name)
    (folder / "test" / "good").rename(folder / "test" / name)
    dataset = datasets.load_dataset("mvtec", root=root)
    assert (len(dataset.train), kinds(dataset)["good"]) == (4, 1)
    plain = datasets.folder_dataset(folder / "train" / name, test=folder / "test")
    assert kinds(plain) == kinds(dataset)
    (folder / "test" / name).rename(folder / "test" / "NG")
    assert kinds(datasets.load_dataset("mvtec", root=root))["NG"] == 1


def test_what_archives_bring_along_is_left_out_and_said(root: Path) -> None:
    folder = mvtec_tree(root)
    for name in ("Thumbs.db", "desktop.ini"):
        (folder / "test" / name).touch()
        (folder / "test" / "scratch" / name).touch()
    picture(folder / "test" / "__MACOSX" / "._a.png")
    picture(folder / "test" / "lost.png")
    dataset = datasets.load_dataset("mvtec", root=root)
    assert kinds(dataset) == {"dent2": 2, "dent10": 2, "good": 1, "scratch": 2}
    assert Counter(item.reason for item in dataset.left_out) == {
        "files of the system": 5, "images beside the folders of their kinds": 1,
    }  # fmt: skip


# Doubts


def test_masks_that_mark_nothing_or_too_much_are_counted_and_named(root: Path) -> None:
    folder = mvtec_tree(root)
    assert datasets.doubtful_masks(datasets.load_dataset("mvtec", root=root).test) == []
    empty = mask(folder / "ground_truth" / "scratch" / "000_mask.png", marked=0)
    large = mask(folder / "ground_truth" / "dent2" / "001_mask.png", marked=30)
    first, second = datasets.doubtful_masks(datasets.load_dataset("mvtec", root=root).test)
    assert first.startswith(f"1 of 6 masks of defective images mark nothing, such as {empty}")
    assert second.startswith(f"1 of 6 masks of defective images mark more than half of the image, such as {large}")


def test_test_images_that_trained_are_found_by_content(root: Path) -> None:
    folder = mvtec_tree(root)
    shades = iter(range(100))
    for path in sorted(folder.rglob("*/good/*.png")):
        write_png(path, np.full((*SIZE, 3), next(shades), dtype=np.uint8))
    dataset = datasets.load_dataset("mvtec", root=root)
    assert datasets.doubtful_split(dataset.train, dataset.test) == []
    (folder / "test" / "good" / "000.png").write_bytes((folder / "train" / "good" / "2.png").read_bytes())
    [sentence] = datasets.doubtful_split(dataset.train, dataset.test)
    assert sentence.startswith("1 of 7 test images are training images too, such as ")
    assert "good/000.png" in sentence
    assert "good/2.png" in sentence


# Any layout


def test_an_unknown_name_or_category_lists_those_there_are(root: Path) -> None:
    mvtec_tree(root)
    with pytest.raises(DatasetError, match=r"unknown data set 'mvtech'; known are btad, folder, .*visa"):
        datasets.load_dataset("mvtech", root=root)
    with pytest.raises(DatasetError, match="has no category 'screws' of mvtec; there are screw"):
        datasets.load_dataset("mvtec", root=root, category="screws")


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_a_root_that_does_not_fit_is_one_line_with_the_layout(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for place in ("gone", "file", "empty"):
        with pytest.raises(UflowError) as raised:
            datasets.load_dataset(name, root=tmp_path / place)
        message = str(raised.value)
        assert "\n" not in message
        assert str(tmp_path / place) in message
        assert "expected <root>/" in message
