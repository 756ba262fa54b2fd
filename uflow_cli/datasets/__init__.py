"""Data sets: from folders on disk to good images for training and labelled images for tests. One module per layout."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from uflow_cli.datasets import btad, folder, kolektor, lgg_mri, mvtec, shanghaitech, visa
from uflow_cli.datasets.doubts import doubtful_masks, doubtful_split, folders_as_read, shared_files
from uflow_cli.datasets.exclusion import good_after_all, read_exclusion, without
from uflow_cli.datasets.folder import folder_dataset
from uflow_cli.datasets.groups import groups_of
from uflow_cli.datasets.labelled_image import GOOD, Dataset, LabelledImage, has_masks, read_label_mask, require_mask
from uflow_cli.datasets.places import places
from uflow_cli.errors import DatasetError

__all__ = [
    "DATASETS",
    "GOOD",
    "Dataset",
    "LabelledImage",
    "choose_categories",
    "doubtful_masks",
    "doubtful_split",
    "find_root",
    "folder_dataset",
    "folders_as_read",
    "good_after_all",
    "groups_of",
    "has_masks",
    "list_categories",
    "load_dataset",
    "read_exclusion",
    "read_label_mask",
    "require_mask",
    "shared_files",
    "without",
]


@dataclass(frozen=True)
class DatasetLayout:
    """How to find and load the categories below a root, and in words what is expected there."""

    expected: str
    categories: Callable[[Path], list[str]]
    load: Callable[[Path, str], Dataset]


DATASETS: dict[str, DatasetLayout] = {
    "btad": DatasetLayout(btad.LAYOUT, btad.categories, btad.load),
    "folder": DatasetLayout(folder.LAYOUT, folder.categories, folder.load),
    "ksdd": DatasetLayout(kolektor.LAYOUT_KSDD, kolektor.categories_ksdd, kolektor.load_ksdd),
    "ksdd2": DatasetLayout(kolektor.LAYOUT_KSDD2, kolektor.categories_ksdd2, kolektor.load_ksdd2),
    "lgg_mri": DatasetLayout(lgg_mri.LAYOUT, lgg_mri.categories, lgg_mri.load),
    "mtd": DatasetLayout(mvtec.LAYOUT, mvtec.categories, mvtec.load_magnetic_tile),
    "mvtec": DatasetLayout(mvtec.LAYOUT, mvtec.categories, mvtec.load),
    "mvtec_ad_2": DatasetLayout(mvtec.LAYOUT_AD_2, mvtec.categories, mvtec.load_ad_2),
    "shanghaitech": DatasetLayout(shanghaitech.LAYOUT, shanghaitech.categories, shanghaitech.load),
    "visa": DatasetLayout(visa.LAYOUT, visa.categories, visa.load),
}


def find_root(
    name: str, wish: str | None = None, *, root: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Path:
    """The folder that holds the categories of data set `name`, in or below `root` or wherever data sets usually lie.

    The first one that has what `wish` names, see `choose_categories`; else the first that has any category, or `root`
    itself: whoever loads from it says what is wrong. Without `root`, DatasetError that says where was looked.
    """
    layout, looked, found = _layout(name), dict[Path, None](), list[Path]()
    for place in places(name, root=root, environment=environment):
        looked[place] = None
        try:
            there = list_categories(name, root=place)
        except DatasetError:
            continue
        wanted = _wanted(wish or "all", there)
        if wanted and set(wanted) <= set(there):
            return place
        found.append(place)
    if found or root is not None:
        return found[0] if found else Path(root or "")
    raise DatasetError(
        f"data set {name} was not found in {', '.join(map(str, looked))}; {layout.expected}, in one of these or where "
        "--data-root says"
    )


def list_categories(name: str, *, root: Path) -> list[str]:
    """Name the categories of data set `name` that are there below `root`. Raises DatasetError where there is none."""
    layout, root = _layout(name), Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; {layout.expected}")
    found = layout.categories(root)
    if not found:
        raise DatasetError(f"{root}: holds no category of {name}; {layout.expected}")
    return found


def choose_categories(name: str, wish: str, *, root: Path) -> list[str]:
    """The categories of data set `name` that `wish` names: "all", or some with commas between them.

    Raises DatasetError for one that is not below `root`.
    """
    found = list_categories(name, root=root)
    wanted = _wanted(wish, found)
    unknown = [part for part in wanted if part not in found]
    if unknown or not wanted:
        lacking = unknown[0] if unknown else wish
        raise DatasetError(f"{root}: has no category {lacking!r} of {name}; there are {', '.join(found)}, or all")
    return wanted


def _wanted(wish: str, found: list[str]) -> list[str]:
    """The categories that `wish` names, whether they are among those that were `found` or not."""
    if wish == "all" or wish in found:  # whose name may hold a comma
        return found if wish == "all" else [wish]
    return list(dict.fromkeys(part.strip() for part in wish.split(",") if part.strip()))


def load_dataset(name: str, *, root: Path, category: str | None = None) -> Dataset:
    """Load one category of a known data set; `category` may be left out where there is only one.

    Raises DatasetError for an unknown name or category (it lists those there are) and for a layout that does not fit.
    """
    found = list_categories(name, root=root)
    if category is None and len(found) > 1:
        raise DatasetError(f"{root}: holds several categories of {name}; choose one of {', '.join(found)}")
    if category is not None and category not in found:
        raise DatasetError(f"{root}: has no category {category!r} of {name}; there are {', '.join(found)}")
    return _layout(name).load(Path(root), category or found[0])


def _layout(name: str) -> DatasetLayout:
    if name not in DATASETS:
        raise DatasetError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    return DATASETS[name]
