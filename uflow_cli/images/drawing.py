"""Resize, turn, colour and draw on images. All but `draw_polygons` return new arrays; sizes: (height, width)."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2  # noqa: TID251
import numpy as np
from numpy.typing import NDArray

OPENCV_VERSION: str = cv2.__version__  # pixels may change with it
STRIP_PIXELS = 1 << 20  # rows of large images are worked on some at a time, without large temporaries
Colour = tuple[int, int, int]


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) or (H, W) uint8: sides that shrink by pixel area (antialiased), sides that grow bicubic."""
    shrunk = (min(size[0], image.shape[0]), min(size[1], image.shape[1]))
    resized: NDArray[np.uint8] = np.ascontiguousarray(image)
    for target, interpolation in ((shrunk, cv2.INTER_AREA), (size, cv2.INTER_CUBIC)):
        if resized.shape[:2] != target:
            resized = np.asarray(cv2.resize(resized, target[::-1], interpolation=interpolation), dtype=np.uint8)
    return resized.copy() if resized is image else resized


def encode_jpeg(image: NDArray[np.uint8], *, quality: int = 88) -> bytes:
    """(H, W, 3) RGB as a JPEG: for pictures to look at, a tenth of a PNG."""
    return bytes(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def resize_map(values: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize an (H, W) map bilinearly, half-pixel centres, no antialiasing (torch's `align_corners=False`): float32."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def resize_map_in_strips(
    values: NDArray[np.floating[Any]], size: tuple[int, int]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The rows of `resize_map`, some at a time, each with its place: floats of a large image fill the memory."""
    (height, width), n_rows = size, max(1, STRIP_PIXELS // size[1])
    if n_rows >= height:
        yield slice(0, height), resize_map(values, size)
        return
    columns = resize_map(values, (len(values), width))
    for top in range(0, height, n_rows):
        rows = slice(top, min(top + n_rows, height))
        place = (np.arange(rows.start, rows.stop) + 0.5) * (len(columns) / height) - 0.5
        place = np.clip(place, 0, len(columns) - 1)
        first = np.minimum(place.astype(np.intp), max(len(columns) - 2, 0))
        share = (place - first).astype(np.float32)[:, None]
        strip = columns[first]
        strip += share * (columns[np.minimum(first + 1, len(columns) - 1)] - strip)
        yield rows, strip


def resize_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize an (H, W) bool mask as the published code does: bilinear, then > 0.5."""
    resized = np.empty(size, dtype=np.bool_)
    for rows, strip in resize_map_in_strips(mask.astype(np.float32), size):
        resized[rows] = strip > 0.5
    return resized


def highest_around(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """The highest of an (H, W) map within `reach` rows and columns of each place."""
    return highest_in(values, (2 * reach + 1, 2 * reach + 1))


def highest_in(values: NDArray[np.float32], window: tuple[int, int]) -> NDArray[np.float32]:
    """The highest of an (H, W) map in a `window` of so many rows and columns around each place."""
    return np.asarray(cv2.dilate(np.ascontiguousarray(values), np.ones(window, dtype=np.uint8)), dtype=np.float32)


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


def outline(mask: NDArray[np.bool_], *, tolerance: float = 0.0) -> list[NDArray[np.int32]]:
    """Trace the borders of a mask's 8-connected parts and of their holes: one (N, 2) polygon of (x, y) pixels each.

    Points are left out where the polygon stays within `tolerance` pixels without them.
    """
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    if tolerance:
        contours = [cv2.approxPolyDP(contour, tolerance, True) for contour in contours]
    return [np.asarray(contour, dtype=np.int32).reshape(-1, 2) for contour in contours]


def draw_polygons(
    image: NDArray[np.uint8], polygons: Sequence[NDArray[np.int32]], *, colour: Colour, thickness: int
) -> None:
    """Draw closed polygons, each (N, 2) pixels, into the contiguous (H, W, 3) `image` itself."""
    cv2.polylines(image, polygons, True, colour, thickness)


def lay_over(
    image: NDArray[np.uint8], levels: NDArray[np.uint8], colours: NDArray[np.uint8], opacity: NDArray[np.floating[Any]]
) -> NDArray[np.uint8]:
    """(H, W, 3) `image` under colours (256, 3) of `levels` (H, W), whose opacities (256,) are in 0..1."""
    clear = np.rint(255 * (1 - opacity))[:, None]  # (256, 1)
    tints = np.rint(colours * (1 - clear / 255)).astype(np.uint8)
    of_pixels = cv2.merge([levels, levels, levels])
    left = cv2.LUT(of_pixels, np.repeat(clear.astype(np.uint8), 3, axis=1)[None])
    left = cv2.multiply(np.ascontiguousarray(image), left, scale=1 / 255)
    return np.asarray(cv2.add(left, cv2.LUT(of_pixels, tints[None])), dtype=np.uint8)


def colour_map(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Colour an (H, W) map of values in 0..1 with the perceptually uniform "inferno": (H, W, 3) uint8 RGB.

    Values outside are clipped; NaN counts as 0.
    """
    levels = np.rint(np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])
