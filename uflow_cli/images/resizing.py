"""Change the size of images, maps and masks. Sizes are (height, width)."""

from typing import Any

import cv2  # noqa: TID251
import numpy as np
from numpy.typing import NDArray


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) or (H, W) uint8: sides that shrink by pixel area (antialiased), sides that grow bicubic."""
    shrunk = (min(size[0], image.shape[0]), min(size[1], image.shape[1]))
    resized: NDArray[np.uint8] = np.ascontiguousarray(image)
    for target, interpolation in ((shrunk, cv2.INTER_AREA), (size, cv2.INTER_CUBIC)):
        if resized.shape[:2] != target:
            resized = np.asarray(cv2.resize(resized, target[::-1], interpolation=interpolation), dtype=np.uint8)
    return resized.copy() if resized is image else resized


def resize_map(values: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize an (H, W) map bilinearly, half-pixel centres, no antialiasing (torch's `align_corners=False`): float32."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def resize_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a (H, W) bool mask as published (METHOD 5): bilinear, then > 0.5."""
    resized: NDArray[np.bool_] = resize_map(mask.astype(np.float32), size) > 0.5
    return resized
