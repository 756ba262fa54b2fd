"""Kolektor surface defects, both data sets. An empty mask means good.

KSDD: `<root>/kos<NN>/Part<N>.jpg` with `Part<N>_label.bmp`. It comes without a split for training on good images only,
so ours is stated: a seeded half of the items train, on their good parts; all parts of the others test.
KSDD2: `<root>/{train,test}/<NNNNN>.png` with `<NNNNN>_GT.png`; the good images of `train` train.
"""

import re
from pathlib import Path

from uflow_cli.datasets.groups import split_by_group
from uflow_cli.datasets.labelled_image import GOOD, Dataset, LabelledImage, require_mask, subfolders
from uflow_cli.errors import DatasetError
from uflow_cli.images import LeftOut, list_images, read_mask

LAYOUT_KSDD = "expected <root>/kos<NN>/Part<N>.jpg and Part<N>_label.bmp"
LAYOUT_KSDD2 = "expected <root>/train/<NNNNN>.png and <NNNNN>_GT.png, and the same in <root>/test"
CATEGORY_KSDD = "commutator"
CATEGORY_KSDD2 = "surface"
TRAIN_SHARE = 0.5
COPY = re.compile(r" ?\((copy|\d+)\)$| - copy", re.IGNORECASE)  # what file managers name copies


def categories_ksdd(root: Path) -> list[str]:
    """Name the one category where `root` holds an item's folder."""
    return [CATEGORY_KSDD] if _items(root) else []


def load_ksdd(root: Path, category: str = CATEGORY_KSDD, *, seed: int = 0) -> Dataset:
    """Load KSDD, reading every mask once to know which parts are good. Raises DatasetError and ImageError."""
    items = _items(root)
    if not items:
        raise DatasetError(f"{root}: holds no item; {LAYOUT_KSDD}")
    left_out: list[LeftOut] = []
    groups = {item.name: _labelled(item, "_label", ".bmp", left_out=left_out) for item in items}
    train, test = split_by_group(groups, train_share=TRAIN_SHARE, seed=seed)
    return Dataset("ksdd", category, train, test, tuple(left_out))


def categories_ksdd2(root: Path) -> list[str]:
    """Name the one category where `root` holds `train` and `test` with masks."""
    return [CATEGORY_KSDD2] if all(any((root / part).glob("*_GT.png")) for part in ("train", "test")) else []


def load_ksdd2(root: Path, category: str = CATEGORY_KSDD2) -> Dataset:
    """Load KSDD2, reading every mask once to know which images are good. Raises DatasetError and ImageError."""
    left_out: list[LeftOut] = []
    train, test = (_labelled(root / part, "_GT", ".png", left_out=left_out) for part in ("train", "test"))
    good = tuple(image for image in train if image.is_good)
    return Dataset("ksdd2", category, good, tuple(test), tuple(left_out))


def _items(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root, layout=LAYOUT_KSDD) if any(folder.glob("Part*_label.bmp"))]


def _labelled(folder: Path, mask_ending: str, mask_suffix: str, *, left_out: list[LeftOut]) -> list[LabelledImage]:
    labelled: list[LabelledImage] = []
    for path in list_images(folder, left_out=left_out):
        if COPY.search(path.stem):  # KSDD2's archive holds a pair of these
            left_out.append(LeftOut(path, "stray copies"))
            continue
        if path.stem.endswith(mask_ending):
            continue
        defective = LabelledImage(path, "defect", path.with_name(f"{path.stem}{mask_ending}{mask_suffix}"))
        require_mask(defective)
        assert defective.mask_path is not None
        labelled.append(defective if read_mask(defective.mask_path).any() else LabelledImage(path, GOOD))
    return labelled
