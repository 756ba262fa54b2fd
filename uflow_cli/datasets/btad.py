"""BeanTech (BTAD): `<root>/<01|02|03>/train/ok/*`, `test/ok/*`, `test/ko/*`, `ground_truth/ko/<name>.<any suffix>`."""

from pathlib import Path

from uflow_cli.datasets.labelled_image import GOOD, Dataset, LabelledImage, find_mask, subfolders
from uflow_cli.errors import DatasetError
from uflow_cli.images import LeftOut, list_images

LAYOUT = "expected <root>/<01|02|03>/train/ok/, test/ok/, test/ko/ and ground_truth/ko/<name>.png or .bmp"


def categories(root: Path) -> list[str]:
    """Name the folders of `root` that hold `train/ok`."""
    return [folder.name for folder in subfolders(root, layout=LAYOUT) if (folder / "train" / "ok").is_dir()]


def load(root: Path, category: str) -> Dataset:
    """Load one product; its one kind of defect is "ko". Raises DatasetError."""
    folder = root / category
    for part in (folder / "train" / "ok", folder / "test" / "ok", folder / "test" / "ko"):
        if not part.is_dir():
            raise DatasetError(f"{part}: no such folder; {LAYOUT}")
    left_out: list[LeftOut] = []
    train_ok, test_ok, test_ko = (
        list_images(folder / part, recursive=True, left_out=left_out) for part in ("train/ok", "test/ok", "test/ko")
    )
    masks = folder / "ground_truth" / "ko"
    test = [LabelledImage(path, GOOD) for path in test_ok]
    test += [LabelledImage(path, "ko", find_mask(masks, [path.stem])) for path in test_ko]
    train = tuple(LabelledImage(path, GOOD) for path in train_ok)
    return Dataset("btad", category, train, tuple(test), tuple(left_out))
