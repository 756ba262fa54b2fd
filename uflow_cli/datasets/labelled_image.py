"""Images of a data set of any layout: good ones to train on, labelled ones to test on, the mask of each defect."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import DatasetError
from uflow_cli.images import (
    IMAGE_SUFFIXES,
    LeftOut,
    is_of_the_system,
    natural_order,
    read_image,
    read_mask,
    resize_mask,
)

GOOD = "good"
GOOD_NAMES = ("good", "ok", "normal")  # of folders, in any case


@dataclass(frozen=True)
class LabelledImage:
    """An image, its label, and where its mask is: `mask_path` is None for good images and where no masks were given."""

    path: Path
    defect: str  # "good" or the kind of defect
    mask_path: Path | None = None
    mask_index: int | None = None  # of this image in a .npy stack of masks (N, H, W)
    group: str | None = None  # the item, patient or place that it shows, of which there are other images
    mask_above: int | None = None  # passed to `read_mask`: the level, on 0..255, above which a mask marks a defect

    @property
    def is_good(self) -> bool:
        """Whether the image is free of defects."""
        return self.defect == GOOD

    @property
    def has_mask(self) -> bool:
        """Whether its mask file exists."""
        return self.mask_path is not None and self.mask_path.is_file()


@dataclass(frozen=True)
class Dataset:
    """One category: the good images to train on, and labelled ones to test on (may be empty).

    `left_out` is what lay among them and was not taken.
    """

    name: str
    category: str
    train: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def read_label_mask(
    labelled: LabelledImage, size: tuple[int, int], *, image_size: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """Read the mask of a labelled image resized to `size` (height, width): bool, all False for a good image.

    `image_size` saves reading the image again where its (height, width) is known. Raises DatasetError for a defective
    image without mask, and for a mask of another size than its image; ImageError for an unreadable file.
    """
    if labelled.is_good:
        return np.zeros(size, dtype=np.bool_)
    require_mask(labelled)
    assert labelled.mask_path is not None
    mask = read_stored_mask(labelled)
    image_size = read_image(labelled.path).shape[:2] if image_size is None else image_size
    if mask.shape != tuple(image_size):
        raise DatasetError(
            f"{labelled.mask_path} is {mask.shape[0]} x {mask.shape[1]} pixels (height x width) and its image "
            f"{labelled.path} {image_size[0]} x {image_size[1]}; a mask must have the size of its image"
        )
    return resize_mask(mask, size)


def require_mask(labelled: LabelledImage) -> None:
    """Raise DatasetError, naming the place where it should be, unless the image is good or its mask file exists."""
    if labelled.is_good:
        return
    if labelled.mask_path is None:
        raise DatasetError(
            f"{labelled.path}: a defective image ({labelled.defect}) without mask; no mask folder was given"
        )
    if not labelled.mask_path.is_file():
        found = f"{labelled.path}: a defective image ({labelled.defect}) without mask"
        raise DatasetError(f"{found}; expected {labelled.mask_path}")


def has_masks(test: Sequence[LabelledImage]) -> bool:
    """Whether any defective image has a mask: where none has, only whole images can be judged."""
    return any(image.has_mask for image in test)


def find_mask(folder: Path, stems: Sequence[str]) -> Path:
    """Find the mask file in `folder` that has one of `stems` (in order of preference) and an image suffix.

    Where there is none, the path that was expected first, so that whoever needs it can name it.
    """
    for stem in stems:
        for suffix in (".png", *IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES)):
            path = folder / f"{stem}{suffix}"
            if path.is_file():
                return path
    return folder / f"{stems[0]}.png"


def subfolders(folder: Path, *, layout: str, left_out: list[LeftOut] | None = None) -> list[Path]:
    """List the folders inside `folder`, hidden ones left out, in natural order. Raises DatasetError for no folder.

    Images that lie beside these folders, and what operating systems add, are added to `left_out`.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; {layout}")
    try:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    left_out = [] if left_out is None else left_out
    for path in sorted(inside):
        if is_of_the_system(path.name):
            left_out.append(LeftOut(path, "files of the system"))
        elif path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
            left_out.append(LeftOut(path, "images beside the folders of their kinds"))
    return sorted((p for p in inside if p.is_dir() and not is_of_the_system(p.name)), key=natural_order)


def is_good_name(name: str) -> bool:
    """Whether a folder of this name holds good images: good, ok or normal, in any case."""
    return name.casefold() in GOOD_NAMES


def good_folder(parent: Path) -> Path:
    """The folder of good images in `parent`, whichever of their names it has; `parent`/good where there is none."""
    named = [path for path in parent.iterdir() if path.is_dir() and is_good_name(path.name)] if parent.is_dir() else []
    return min(named, key=lambda path: GOOD_NAMES.index(path.name.casefold()), default=parent / GOOD)


def read_stored_mask(labelled: LabelledImage) -> NDArray[np.bool_]:
    """The mask of a defective image in its own size. Raises DatasetError and ImageError."""
    path = labelled.mask_path
    assert path is not None
    if labelled.mask_index is None:
        return read_mask(path, above=labelled.mask_above)
    stack = open_mask_stack(path)
    if labelled.mask_index >= len(stack):
        raise DatasetError(f"{path}: holds {len(stack)} masks, and {labelled.path} needs number {labelled.mask_index}")
    return np.asarray(stack[labelled.mask_index] != 0)


def open_mask_stack(path: Path) -> NDArray[np.generic]:
    """Map a .npy file of masks (N, H, W) into memory without reading it. Raises DatasetError where it is not one."""
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); expected a .npy file of masks (frames, H, W)") from error
    if not isinstance(stack, np.ndarray) or stack.ndim != 3:
        raise DatasetError(f"{path}: not a stack of masks; expected a .npy file of shape (frames, H, W)")
    return stack
