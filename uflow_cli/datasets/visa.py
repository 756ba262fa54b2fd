"""VisA with its one-class split `<root>/split_csv/1cls.csv`: object, split, label, image, mask (paths below root)."""

import csv
from pathlib import Path

from uflow_cli.datasets.labelled_image import GOOD, Dataset, LabelledImage
from uflow_cli.errors import DatasetError

LAYOUT = "expected <root>/split_csv/1cls.csv (columns object, split, label, image, mask) and <root>/<object>/Data/"
_COLUMNS = ("object", "split", "label", "image", "mask")
_NORMAL = "normal"


def categories(root: Path) -> list[str]:
    """Name the objects of the split, in its order. Raises DatasetError for a split that cannot be read."""
    return list(dict.fromkeys(row["object"] for row in _rows(root)))


def load(root: Path, category: str) -> Dataset:
    """Load one object; the kind of defect is the split's label. Raises DatasetError, also for a missing image."""
    rows = [row for row in _rows(root) if row["object"] == category]
    train = tuple(_labelled(root, row) for row in rows if row["split"] == "train" and row["label"] == _NORMAL)
    test = tuple(_labelled(root, row) for row in rows if row["split"] == "test")
    if not train:
        raise DatasetError(f"{_split_file(root)}: has no normal training image of {category!r}; {LAYOUT}")
    return Dataset("visa", category, train, test)


def _split_file(root: Path) -> Path:
    return root / "split_csv" / "1cls.csv"


def _rows(root: Path) -> list[dict[str, str]]:
    path = _split_file(root)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or [])]
            rows = list(reader)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; {LAYOUT}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); {LAYOUT}") from error
    if missing:
        raise DatasetError(f"{path}: has no column {', '.join(missing)}; {LAYOUT}")
    if any(None in row.values() for row in rows):
        raise DatasetError(f"{path}: a line has fewer than {len(_COLUMNS)} columns; {LAYOUT}")
    return rows


def _labelled(root: Path, row: dict[str, str]) -> LabelledImage:
    path = root / row["image"]
    if not path.is_file():
        raise DatasetError(f"{path}: no such file, but {_split_file(root)} names it; {LAYOUT}")
    if row["label"] == _NORMAL:
        return LabelledImage(path, GOOD)
    return LabelledImage(path, row["label"], root / row["mask"] if row["mask"] else None)
