"""The built-in sample: deterministic, in MVTec layout, with masks that are where the defects are."""

import json
from pathlib import Path

import numpy as np
import pytest
from products import files_in
from scipy import ndimage

from uflow_cli.errors import DatasetError, UflowError
from uflow_cli.images import read_image, read_mask, write_png
from uflow_cli.sample import CATEGORIES, KINDS, MARKER, sample_image, write_sample
from uflow_cli.sample import writing as sample_writing
from uflow_cli.sample.writing import PRODUCTS

categories = pytest.mark.parametrize("category", CATEGORIES)
defects = pytest.mark.parametrize(("category", "kind"), [(name, kind) for name in CATEGORIES for kind in KINDS[name]])


def write_small(root: Path, *, category: str = "fabric", seed: int = 0) -> Path:
    return write_sample(
        root, category=category, seed=seed, n_train=2, n_test_good=1, n_test_per_defect=1, size=(64, 80)
    )


@categories
def test_layout_is_mvtec(tmp_path: Path, category: str) -> None:
    folder = write_small(tmp_path / "new" / "root", category=category)
    assert folder == tmp_path / "new" / "root" / category
    expected = {MARKER, "train/good/000.png", "train/good/001.png", "test/good/000.png"}
    for kind in KINDS[category]:
        expected |= {f"test/{kind}/000.png", f"ground_truth/{kind}/000_mask.png"}
    assert set(files_in(folder)) == expected
    for kind in KINDS[category]:
        assert read_image(folder / f"test/{kind}/000.png").shape == (64, 80, 3)
        mask = read_mask(folder / f"ground_truth/{kind}/000_mask.png")
        assert mask.shape == (64, 80)
        assert 0 < mask.sum() < mask.size / 2


@categories
def test_same_seed_gives_the_same_bytes_and_another_seed_other_pictures(tmp_path: Path, category: str) -> None:
    first, again, other = (
        files_in(write_small(tmp_path / name, category=category, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert all(first[name] != other[name] for name in first if name.startswith(("train", "test")))


@categories
def test_an_image_does_not_depend_on_how_many_others_are_made(tmp_path: Path, category: str) -> None:
    folder, kind = write_small(tmp_path, category=category), KINDS[category][-1]
    picture, mask = sample_image(category=category, kind=kind, index=0, size=(64, 80))
    assert np.array_equal(picture, read_image(folder / f"test/{kind}/000.png"))
    assert np.array_equal(mask, read_mask(folder / f"ground_truth/{kind}/000_mask.png"))


@categories
def test_good_images_differ_among_themselves_and_from_training(category: str) -> None:
    pictures = [
        sample_image(category=category, split=split, index=i, size=(64, 64))[0]
        for split in ("train", "test")
        for i in range(3)
    ]
    for i, a in enumerate(pictures):
        assert all(np.abs(a.astype(int) - b.astype(int)).mean() > 3 for b in pictures[:i])
    assert not sample_image(category=category, index=0, size=(64, 64))[1].any()


@defects
def test_the_mask_covers_the_change_and_nothing_else(category: str, kind: str) -> None:
    product, areas = PRODUCTS[category], set()
    for index in range(4):
        part = product.make(np.random.default_rng(index), (128, 128), None)
        spoilt = product.defects[kind](np.random.default_rng([7, index]), part, 0.2 + 0.2 * index)
        # The same light for both.
        good, bad = (product.photograph(np.random.default_rng(0), each).astype(int) for each in (part, spoilt))
        mask = spoilt.image_mask
        change = np.abs(bad - good).max(axis=2)
        near = ndimage.binary_dilation(mask, iterations=7)  # blur, and the shade that a rim throws
        assert change[~near].max(initial=0) <= 2
        assert change[mask].mean() > (5 if kind in ("dent", "smear") else 10)  # shading and thin ink alone
        areas.add(int(mask.sum()))
    assert min(areas) > (3 if kind in ("pit", "spot") else 20)
    assert kind == "wrong_colour" or max(areas) > 1.5 * min(areas)


@defects
def test_no_defect_is_without_a_mask_however_slight(category: str, kind: str) -> None:
    product = PRODUCTS[category]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        part = product.make(rng, (128, 128), None)
        assert product.defects[kind](rng, part, 0.05 * (seed % 3)).image_mask.any()


@categories
def test_lots_take_turns_and_differ(tmp_path: Path, category: str) -> None:
    settings = {"category": category, "n_train": 4, "n_test_good": 2, "n_test_per_defect": 1, "size": (64, 64)}
    folder = write_sample(tmp_path, lots=2, **settings)  # type: ignore[arg-type]
    names = [path.name for path in sorted((folder / "train" / "good").iterdir())]
    assert names == ["lot1_000.png", "lot1_002.png", "lot2_001.png", "lot2_003.png"]
    assert (folder / "ground_truth" / KINDS[category][0] / "lot1_000_mask.png").is_file()
    first, second, none = (sample_image(category=category, size=(64, 64), lot=lot)[0] for lot in (1, 2, None))
    assert np.array_equal(first, read_image(folder / "test/good/lot1_000.png"))
    assert np.abs(first.astype(int) - second).mean() > 1
    assert np.abs(first.astype(int) - none).mean() > 1
    write_sample(tmp_path, **settings)  # type: ignore[arg-type]
    assert np.array_equal(none, read_image(folder / "test/good/000.png"))


def test_an_earlier_sample_is_replaced(tmp_path: Path) -> None:
    write_small(tmp_path, seed=1)
    folder = write_sample(tmp_path, n_train=1, n_test_good=0, n_test_per_defect=0, size=(64, 64))
    assert set(files_in(folder)) == {MARKER, "train/good/000.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["fabric"]


@pytest.mark.parametrize("with_marker", [False, True])
def test_a_folder_with_foreign_files_is_refused_and_untouched(tmp_path: Path, *, with_marker: bool) -> None:
    folder = tmp_path / "fabric"
    if with_marker:
        write_small(tmp_path)
    (folder / "test").mkdir(parents=True, exist_ok=True)
    (folder / "test" / "mine.txt").write_text("weeks of work")
    before = files_in(folder)
    with pytest.raises(DatasetError, match=r"mine\.txt was added" if with_marker else "is no sample"):
        write_small(tmp_path, seed=9)
    assert files_in(folder) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', '{"files": [1]}', "\ufffd"])
def test_a_damaged_marker_makes_no_folder_ours(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "fabric"
    folder.mkdir()
    (folder / MARKER).write_text(text, encoding="utf-8")
    (folder / "photo.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"photo\.png"):
        write_small(tmp_path)
    assert (folder / "photo.png").read_bytes() == b"x"


def test_a_file_or_a_link_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fabric").write_text("a file")
    with pytest.raises(DatasetError, match="in the way"):
        write_small(tmp_path)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "fabric").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="in the way"):
        write_small(tmp_path / "linked")


def test_a_run_stopped_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_small(tmp_path)
    before = files_in(folder)
    written: list[Path] = []

    def write_three(path: Path, array: np.ndarray) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write_png(path, array)

    monkeypatch.setattr(sample_writing, "write_png", write_three)
    with pytest.raises(KeyboardInterrupt):
        write_small(tmp_path, seed=5)
    assert files_in(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["fabric"]


def test_a_run_stopped_between_the_two_renames_puts_the_old_sample_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_small(tmp_path)
    before = files_in(folder)
    rename = Path.rename

    def rename_old_only(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_old_only)
    with pytest.raises(KeyboardInterrupt):
        write_small(tmp_path, seed=5)
    assert files_in(folder) == before


def test_a_root_that_cannot_be_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UflowError, match="cannot be written"):
        write_small(tmp_path / "file" / "root")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"category": "steel"}, r"no category 'steel'; known: fabric, label, metal, strip"),
        ({"n_train": 0}, "at least 1 training image"),
        ({"n_test_good": -1}, "no count may be negative"),
        ({"size": (63, 256)}, "63 x 256 is too small"),
        ({"lots": 0}, "0 lots of 60 training images"),
        ({"lots": 61}, "there must be 1 to 60"),
        ({"seed": -1}, "seed -1 is negative"),
    ],
)
def test_settings_that_make_no_sample_are_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        write_sample(tmp_path / "root", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "root").exists()


def test_the_marker_says_how_it_was_made(tmp_path: Path) -> None:
    marker = json.loads((write_small(tmp_path, seed=7) / MARKER).read_text())
    assert (marker["format"], marker["seed"], marker["size"]) == (1, 7, [64, 80])
