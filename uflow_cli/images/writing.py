"""Write PNG files that are never half there."""

from pathlib import Path
from typing import Any

import cv2  # noqa: TID251
import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import ImageError, UflowError
from uflow_cli.files import write_bytes


def encode_png(array: NDArray[Any]) -> bytes:
    """Encode (H, W) uint8, (H, W) bool (True -> 255) or (H, W, 3) uint8 RGB as PNG; ValueError for other arrays."""
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"expected (H, W) uint8 or bool, or (H, W, 3) uint8; got {array.shape} {array.dtype}")
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(array[..., ::-1] if array.ndim == 3 else array))
    return bytes(encoded)


def write_png(path: Path, array: NDArray[Any]) -> None:
    """Write an array (see `encode_png`): `path` is the whole new picture or what it was before. Parents are made.

    Raises ImageError where the disk, a permission or the path does not allow it, and then leaves nothing behind.
    """
    try:
        write_bytes(Path(path), encode_png(array))
    except UflowError as error:
        raise ImageError(str(error)) from error
