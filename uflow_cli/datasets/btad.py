"""BeanTech (BTAD): `<root>/<01|02|03>/train/ok/*`, `test/ok/*`, `test/ko/*`, `ground_truth/ko/<name>.<any suffix>`."""

from pathlib import Path

from uflow_cli.datasets.labelled_image import GOOD, Dataset, LabelledImage, find_mask, subfolders
from uflow_cli.errors import DatasetError
from uflow_cli.images import list_images

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
    train = tuple(LabelledImage(path, GOOD) for path in list_images(folder / "train" / "ok"))
    test = [LabelledImage(path, GOOD) for path in list_images(folder / "test" / "ok")]
    masks = folder / "ground_truth" / "ko"
    test += [LabelledImage(path, "ko", find_mask(masks, [path.stem])) for path in list_images(folder / "test" / "ko")]
    return Dataset("btad", category, train, tuple(test))
