"""Resize, turn, colour, draw on and write images. All but `draw_polygons` return new arrays; sizes: (height, width)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2  # noqa: TID251
import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import ImageError, UflowError
from uflow_cli.files import write_bytes

OPENCV_VERSION: str = cv2.__version__  # pixels may change with it
Colour = tuple[int, int, int]


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
    """Resize an (H, W) bool mask as the published code does: bilinear, then > 0.5."""
    resized: NDArray[np.bool_] = resize_map(mask.astype(np.float32), size) > 0.5
    return resized


def connected_parts(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The 8-connected parts of `mask` (H, W), numbered from 1; 0 outside."""
    _, numbers = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return np.asarray(numbers, dtype=np.int32)


def tilt_image(image: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Turn (H, W, 3) uint8 anticlockwise about its centre, bilinear; what turns in mirrors what is beside it."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, dtype=np.uint8)


def outline(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Trace the borders of a mask's 8-connected parts and of their holes: one (N, 2) polygon of (x, y) pixels each."""
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(contour, dtype=np.int32).reshape(-1, 2) for contour in contours]


def draw_outlines(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], *, colour: Colour = (255, 0, 0), thickness: int = 1
) -> NDArray[np.uint8]:
    """Return a copy of the (H, W, 3) image with the outline of an (H, W) mask; ValueError where their sizes differ."""
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image is {image.shape[:2]} and mask {mask.shape}; resize the mask first")
    drawn = np.ascontiguousarray(image).copy()
    cv2.polylines(drawn, outline(mask), True, colour, thickness)
    return drawn


def draw_polygons(
    image: NDArray[np.uint8], polygons: Sequence[NDArray[np.int32]], *, colour: Colour, thickness: int
) -> None:
    """Draw closed polygons, each (N, 2) pixels, into the contiguous (H, W, 3) `image` itself."""
    cv2.polylines(image, polygons, True, colour, thickness)


def colour_map(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Colour an (H, W) map of values in 0..1 with the perceptually uniform "inferno": (H, W, 3) uint8 RGB.

    Values outside are clipped; NaN counts as 0.
    """
    levels = np.rint(np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])


def encode_png(array: NDArray[Any]) -> bytes:
    """Encode (H, W) uint8, (H, W) bool (True -> 255), (H, W, 3) uint8 RGB or (H, W, 4) RGBA as PNG.

    Raises ValueError for other arrays.
    """
    if array.dtype == np.bool_:
        array = array.view(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8 or array.size == 0 or array.shape[2:] not in ((), (3,), (4,)) or array.ndim < 2:
        raise ValueError(f"expected (H, W) uint8 or bool, or (H, W, 3 or 4) uint8; got {array.shape} {array.dtype}")
    if array.ndim == 3:
        to_bgr = cv2.COLOR_RGB2BGR if array.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
        array = cv2.cvtColor(np.ascontiguousarray(array), to_bgr)
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(array))
    return bytes(encoded)


def write_png(path: Path, array: NDArray[Any]) -> None:
    """Write an array (see `encode_png`): `path` is the whole new picture or what it was before. Parents are made.

    Raises ImageError where the disk, a permission or the path does not allow it, and then leaves nothing behind.
    """
    try:
        write_bytes(Path(path), encode_png(array))
    except UflowError as error:
        raise ImageError(str(error)) from error
