"""Regions of interest: masks of the pixels that count, one for all images or one beside each.

What lies outside is replaced before any network sees it, by the mirror image of what is inside: so it can change
nothing, and what replaces it looks like the product.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2  # noqa: TID251
import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import ImageError
from uflow_cli.images.drawing import STRIP_PIXELS
from uflow_cli.images.listing import IMAGE_SUFFIXES, ROI_FOLDER
from uflow_cli.images.reading import read_encoded, read_mask

FARTHEST = 3  # folders above an image in which its mask is looked for
EXPECTED = "expected white where defects are sought and black elsewhere"

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class RoiFile:
    """A file that marks the pixels that count, whose content had the SHA-256 `digest`."""

    path: Path
    digest: bytes

    def mask(self) -> Mask:
        """The pixels that count, (H, W). Raises ImageError, also if the file has changed since."""
        if hashlib.sha256(read_encoded(self.path)).digest() != self.digest:
            raise ImageError(f"{self.path}: the region of interest changed while it was in use; start again")
        return read_roi(self.path)


@dataclass(frozen=True, eq=False)
class Rois:
    """Where the region of interest of an image comes from: `everywhere` for all, or else the folder `roi` beside it.

    Images that have no mask beside them count whole, unless `is_needed`.
    """

    everywhere: Mask | None = None
    name: str = ""  # of the file of `everywhere`
    is_needed: bool = False
    hides: bool = False  # pixels outside from the network: only where it was trained so, else what it sees is strange

    def of(self, path: Path | None, size: tuple[int, int]) -> Mask | None:
        """The pixels that count, (H, W), of the image at `path` with this `size`; None: all. Raises ImageError.

        An image without a `path` has no mask beside it.
        """
        mask, name = self.everywhere, self.name
        if mask is None:
            beside = None if path is None else roi_beside(path)
            if beside is None and self.is_needed and path is None:
                raise ImageError("this run needs the region of interest of each image, and an array has none beside it")
            if beside is None and self.is_needed and path is not None:
                raise ImageError(
                    f"{path}: has no region of interest, which the others have; expected "
                    f"{path.parent / ROI_FOLDER / path.stem}.png"
                )
            if beside is None:
                return None
            mask, name = read_roi(beside), str(beside)
        if mask.shape != size:
            raise ImageError(
                f"{path or 'the image'}: is {size[1]} x {size[0]} pixels, but its region of interest {name} is "
                f"{mask.shape[1]} x {mask.shape[0]}; give a mask of the image's size"
            )
        return mask


EVERYWHERE = Rois()


def read_roi(path: Path) -> Mask:
    """The pixels that count by a mask file, (H, W). Raises ImageError for one that marks nothing."""
    mask = read_mask(path)
    if not mask.any():
        raise ImageError(f"{path}: this region of interest marks no pixel; {EXPECTED}")
    return mask


def roi_beside(path: Path) -> Path | None:
    """The mask of the image at `path`: of the same name in a folder `roi` beside it, or of the same name relative to
    a folder above it that holds `roi`; None where there is none.
    """
    name = Path(path.stem)
    for folder in list(path.parents)[:FARTHEST]:
        if (folder / ROI_FOLDER).is_dir():
            masks = folder / ROI_FOLDER / name.parent
            for suffix in (".png", *IMAGE_SUFFIXES):
                if (found := masks / f"{path.stem}{suffix}").is_file():
                    return found
        name = Path(folder.name) / name
    return None


def filled(image: NDArray[np.uint8], inside: Mask) -> NDArray[np.uint8]:
    """`image` (H, W, 3) with each pixel outside replaced by its mirror image at the nearest one `inside` (H, W).

    Where that is not inside either, the nearest pixel itself is taken. `inside` must not be empty.
    """
    if inside.all():
        return image
    _, labels = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(inside)
    place = np.empty(int(labels.max()) + 1, dtype=np.intp)
    place[labels[inside]] = np.arange(len(rows))
    y, x = np.nonzero(~inside)
    nearest = place[labels[y, x]]
    near_y, near_x = rows[nearest], columns[nearest]
    far_y = np.clip(2 * near_y - y, 0, inside.shape[0] - 1)
    far_x = np.clip(2 * near_x - x, 0, inside.shape[1] - 1)
    is_inside = inside[far_y, far_x]
    result = image.copy()
    result[y, x] = image[np.where(is_inside, far_y, near_y), np.where(is_inside, far_x, near_x)]
    return result


def cell_shares(roi: Mask, cells: tuple[float, float], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Share of `roi` (H, W), which is `cells` high and wide, in each cell of a `grid` that begins at its corner."""
    height, width = roi.shape
    n_rows = max(1, STRIP_PIXELS // width)
    strips = [_sums(roi[top : top + n_rows], width / cells[1], grid[1]) for top in range(0, height, n_rows)]
    areas = _sums(np.concatenate(strips).T, height / cells[0], grid[0]).T
    full = height / cells[0] * width / cells[1]  # pixels of a whole cell
    shares: NDArray[np.float32] = np.clip(areas / full, 0.0, 1.0).astype(np.float32)
    return shares


def _sums(values: NDArray[Any], pixels: float, n_cells: int) -> NDArray[np.float64]:
    """Sums of each row of `values` (H, W) over `n_cells` cells, each so many `pixels` wide."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, dtype=np.float64, out=sums[:, 1:])
    edges = np.minimum(np.arange(n_cells + 1) * pixels, values.shape[1])  # linear between pixels
    before = np.minimum(edges.astype(np.intp), values.shape[1] - 1)
    rest = edges - before
    return np.diff(sums[:, before] * (1 - rest) + sums[:, before + 1] * rest, axis=1)
