"""Plain folders of one's own: good images, and if there are any, test images and masks."""

from pathlib import Path

from uflow_cli.datasets.labelled_image import (
    GOOD,
    Dataset,
    LabelledImage,
    find_mask,
    good_folder,
    is_good_name,
    require_mask,
    subfolders,
)
from uflow_cli.errors import DatasetError
from uflow_cli.images import LeftOut, list_images, read_mask

LAYOUT = "expected <root>/<category>/good/, and for tests test/good/, test/<kind>/ and masks/<kind>/<name>.png"


def folder_dataset(
    good: Path | None,
    *,
    test: Path | None = None,
    masks: Path | None = None,
    name: str = "folder",
    category: str | None = None,
) -> Dataset:
    """Make a data set of the images in `good`, if given, and those in `test`'s folders, labelled by the folder's name.

    Folders inside these are searched too. `test/good` (or ok, normal) holds good images, any other folder that kind of
    defect; their masks are `masks/<kind>/<name>.png`, also `<name>_mask.png` and other suffixes. A `test` without
    folders needs `masks/<name>.png` for each of its images: an empty mask means good, any other "defect".
    Raises DatasetError.
    """
    left_out: list[LeftOut] = []
    found = [] if good is None else list_images(Path(good), recursive=True, left_out=left_out)
    train = tuple(LabelledImage(path, GOOD) for path in found)
    labelled = _labelled(Path(test), None if masks is None else Path(masks), left_out) if test is not None else []
    named_after = Path(good or test or ".").resolve().name
    return Dataset(name, named_after if category is None else category, train, tuple(labelled), tuple(left_out))


def categories(root: Path) -> list[str]:
    """Name the folders of `root` that hold `good`, or `root` itself where it does. Raises DatasetError."""
    names = [folder.name for folder in subfolders(root, layout=LAYOUT) if good_folder(folder).is_dir()]
    if not names and good_folder(root).is_dir():
        return [root.resolve().name]
    return names


def load(root: Path, category: str) -> Dataset:
    """Load `<root>/<category>/{good,test,masks}`; `test` and `masks` may be missing. Raises DatasetError."""
    folder = root / category
    if not folder.is_dir() and root.resolve().name == category:
        folder = root
    test, masks = folder / "test", folder / "masks"
    return folder_dataset(
        good_folder(folder),
        test=test if test.exists() else None,
        masks=masks if masks.exists() else None,
        category=category,
    )


def _labelled(test: Path, masks: Path | None, left_out: list[LeftOut]) -> list[LabelledImage]:
    n_before = len(left_out)
    kinds = subfolders(test, layout=LAYOUT, left_out=left_out)
    if masks is not None and not masks.is_dir():
        raise DatasetError(f"{masks}: no such folder; expected masks/<kind>/<name>.png")
    if not kinds:
        del left_out[n_before:]
        return _labelled_by_mask(test, masks, left_out)
    labelled: list[LabelledImage] = []
    for kind in kinds:
        for path in list_images(kind, recursive=True, left_out=left_out):
            if is_good_name(kind.name):
                labelled.append(LabelledImage(path, GOOD))
                continue
            inside = None if masks is None else masks / path.parent.relative_to(test)
            mask = None if inside is None else find_mask(inside, [path.stem, f"{path.stem}_mask"])
            labelled.append(LabelledImage(path, kind.name, mask))
    return labelled


def _labelled_by_mask(test: Path, masks: Path | None, left_out: list[LeftOut]) -> list[LabelledImage]:
    """Label the images of a folder without subfolders by whether their mask is empty."""
    images = list_images(test, left_out=left_out)
    if masks is None:
        raise DatasetError(f"{test}: nothing says which images are good; {LAYOUT}, or a folder of masks")
    labelled: list[LabelledImage] = []
    for path in images:
        image = LabelledImage(path, "defect", find_mask(masks, [path.stem, f"{path.stem}_mask"]))
        require_mask(image)
        assert image.mask_path is not None
        labelled.append(image if read_mask(image.mask_path).any() else LabelledImage(path, GOOD))
    return labelled
