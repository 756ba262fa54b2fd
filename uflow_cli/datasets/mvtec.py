"""MVTec AD, and every data set laid out like it.

`<root>/<category>/train/good/*`, `test/good/*`, `test/<kind of defect>/*`, `ground_truth/<kind>/<name>_mask.png`.
"""

from pathlib import Path

from uflow_cli.datasets.labelled_image import GOOD, Dataset, LabelledImage, find_mask, subfolders
from uflow_cli.errors import DatasetError
from uflow_cli.images import list_images

LAYOUT = "expected <root>/<category>/train/good/, test/<kind>/ and ground_truth/<kind>/<name>_mask.png"


def categories(root: Path) -> list[str]:
    """Name the folders of `root` that hold `train/good`. Raises DatasetError where `root` is not a folder."""
    names = [folder.name for folder in subfolders(root, layout=LAYOUT) if (folder / "train" / "good").is_dir()]
    if not names and (root / "train" / "good").is_dir():
        return [root.resolve().name]  # the category's own folder was given
    return names


def load(root: Path, category: str, *, name: str = "mvtec", mask_above: int | None = None) -> Dataset:
    """Load one category. Without a `test` folder there are no test images. Raises DatasetError."""
    folder = root / category
    if not folder.is_dir() and root.resolve().name == category:
        folder = root
    good = folder / "train" / "good"
    if not good.is_dir():
        raise DatasetError(f"{good}: no such folder; {LAYOUT}")
    train = tuple(LabelledImage(path, GOOD) for path in list_images(good))
    test: list[LabelledImage] = []
    kinds = subfolders(folder / "test", layout=LAYOUT) if (folder / "test").is_dir() else []
    for kind in kinds:
        for path in list_images(kind):
            if kind.name == GOOD:
                test.append(LabelledImage(path, GOOD))
                continue
            mask = find_mask(folder / "ground_truth" / kind.name, [f"{path.stem}_mask", path.stem])
            test.append(LabelledImage(path, kind.name, mask, mask_above=mask_above))
    return Dataset(name, category, train, tuple(test))


def load_magnetic_tile(root: Path, category: str) -> Dataset:
    """Load Magnetic Tile Defects in this layout; its masks carry grey noise around 0, so 127 divides them."""
    return load(root, category, name="mtd", mask_above=127)
