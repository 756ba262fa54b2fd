"""LGG MRI (kaggle_3m): `<root>/<patient>/<patient>_<slice>.tif` with `<patient>_<slice>_mask.tif`, empty if good.

It comes without a split and the paper names none, so ours is stated: a seeded half of the patients train, on their
slices without tumour; all slices of the others test. Slices of one patient are never on both sides.
"""

from pathlib import Path

from uflow_cli.datasets.groups import split_by_group
from uflow_cli.datasets.labelled_image import GOOD, Dataset, LabelledImage, require_mask, subfolders
from uflow_cli.errors import DatasetError
from uflow_cli.images import LeftOut, list_images, read_mask

LAYOUT = "expected <root>/<patient>/<patient>_<slice>.tif and <patient>_<slice>_mask.tif"
CATEGORY = "lgg_mri"
TRAIN_SHARE = 0.5


def categories(root: Path) -> list[str]:
    """Name the one category where `root` (or its folder kaggle_3m) holds a patient's slice with its mask."""
    return [CATEGORY] if _patients(root) else []


def load(root: Path, category: str = CATEGORY, *, seed: int = 0) -> Dataset:
    """Load all patients, reading every mask once to know which slices are good. Raises DatasetError and ImageError."""
    patients = _patients(root)
    if not patients:
        raise DatasetError(f"{root}: holds no patient; {LAYOUT}")
    left_out: list[LeftOut] = []
    groups = {patient.name: [_labelled(path) for path in _slices(patient, left_out)] for patient in patients}
    train, test = split_by_group(groups, train_share=TRAIN_SHARE, seed=seed)
    return Dataset("lgg_mri", category, train, test, tuple(left_out))


def _patients(root: Path) -> list[Path]:
    inner = root / "kaggle_3m"
    folders = subfolders(inner if inner.is_dir() else root, layout=LAYOUT)
    return [folder for folder in folders if any(folder.glob(f"{folder.name}_*_mask.tif"))]


def _slices(patient: Path, left_out: list[LeftOut]) -> list[Path]:
    return [path for path in list_images(patient, left_out=left_out) if not path.stem.endswith("_mask")]


def _labelled(path: Path) -> LabelledImage:
    tumour = LabelledImage(path, "tumour", path.with_name(f"{path.stem}_mask{path.suffix}"))
    require_mask(tumour)
    assert tumour.mask_path is not None
    return tumour if read_mask(tumour.mask_path).any() else LabelledImage(path, GOOD)
