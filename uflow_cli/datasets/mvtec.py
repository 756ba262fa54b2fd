"""MVTec AD, and every data set laid out like it.

`<root>/<category>/train/good/*`, `test/good/*`, `test/<kind of defect>/*`, `ground_truth/<kind>/<name>_mask.png`.
"""

from pathlib import Path

from uflow_cli.datasets.labelled_image import (
    GOOD,
    Dataset,
    LabelledImage,
    find_mask,
    good_folder,
    is_good_name,
    subfolders,
)
from uflow_cli.errors import DatasetError
from uflow_cli.images import LeftOut, list_images

LAYOUT_AD_2 = (
    "expected <root>/<category>/train/good/, test_public/good/, test_public/bad/ and test_public/ground_truth/bad/"
)
LAYOUT = "expected <root>/<category>/train/good/, test/<kind>/ and ground_truth/<kind>/<name>_mask.png"


def categories(root: Path) -> list[str]:
    """Name the folders of `root` that hold `train/good`. Raises DatasetError where `root` is not a folder."""
    names = [folder.name for folder in subfolders(root, layout=LAYOUT) if good_folder(folder / "train").is_dir()]
    if not names and good_folder(root / "train").is_dir():
        return [root.resolve().name]  # the category's own folder was given
    return names


def load(root: Path, category: str, *, name: str = "mvtec", mask_above: int | None = None) -> Dataset:
    """Load one category. Without a `test` folder there are no test images. Raises DatasetError."""
    folder = _folder(root, category)
    good, left_out = good_folder(folder / "train"), list[LeftOut]()
    if not good.is_dir():
        raise DatasetError(f"{good}: no such folder; {LAYOUT}")
    train = tuple(LabelledImage(path, GOOD) for path in list_images(good, recursive=True, left_out=left_out))
    test: list[LabelledImage] = []
    if (folder / "test").is_dir():
        for kind in subfolders(folder / "test", layout=LAYOUT, left_out=left_out):
            for path in list_images(kind, recursive=True, left_out=left_out):
                if is_good_name(kind.name):
                    test.append(LabelledImage(path, GOOD))
                    continue
                masks = folder / "ground_truth" / path.parent.relative_to(folder / "test")
                mask = find_mask(masks, [f"{path.stem}_mask", path.stem])
                test.append(LabelledImage(path, kind.name, mask, mask_above=mask_above))
    return Dataset(name, category, train, tuple(test), tuple(left_out))


def load_ad_2(root: Path, category: str) -> Dataset:
    """Load MVTec AD 2: good images of `train` and `validation` train, public test images test; others have no masks.

    `<root>/<category>/{train,validation}/good/`, `test_public/{good,bad}/`, `test_public/ground_truth/bad/*_mask.png`.
    """
    folder, left_out = _folder(root, category), list[LeftOut]()
    parts = [folder / "train" / GOOD, folder / "validation" / GOOD]
    train = [image for part in parts if part.is_dir() for image in list_images(part, left_out=left_out)]
    tests, test = folder / "test_public", list[LabelledImage]()
    for kind in (GOOD, "bad") if tests.is_dir() else ():
        for path in list_images(tests / kind, left_out=left_out):
            mask = None if kind == GOOD else find_mask(tests / "ground_truth" / kind, [f"{path.stem}_mask", path.stem])
            test.append(LabelledImage(path, kind, mask))
    labelled = tuple(LabelledImage(path, GOOD) for path in train)
    return Dataset("mvtec_ad_2", category, labelled, tuple(test), tuple(left_out))


def load_magnetic_tile(root: Path, category: str) -> Dataset:
    """Load Magnetic Tile Defects in this layout; its masks carry grey noise around 0, so 127 divides them."""
    return load(root, category, name="mtd", mask_above=127)


def _folder(root: Path, category: str) -> Path:
    """The folder of `category`: in `root`, or `root` itself."""
    folder = root / category
    return root if not folder.is_dir() and root.resolve().name == category else folder
