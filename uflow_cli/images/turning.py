"""Turn images by small angles."""

import cv2  # noqa: TID251
import numpy as np
from numpy.typing import NDArray


def tilt_image(image: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Turn (H, W, 3) uint8 anticlockwise about its centre, bilinear; what turns in mirrors what is beside it."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, dtype=np.uint8)
