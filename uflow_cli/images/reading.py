"""Read images and masks from files, and list the images of a folder.

OpenCV may fill a truncated file with grey and is vague about what is wrong, so `containers` looks at the bytes first.
"""

import re
from pathlib import Path
from typing import Any

import cv2  # noqa: TID251
import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import DatasetError, ImageError
from uflow_cli.images.containers import damage, kind_of, orientation

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
OPENCV_VERSION: str = cv2.__version__  # pixels may change with it
_KINDS = "a JPEG, PNG, BMP, TIFF or WebP file"
_PIXEL_SCALE = {
    np.dtype(np.uint8): 255.0,
    np.dtype(np.uint16): 65535.0,
    np.dtype(np.float32): 1.0,
    np.dtype(np.float64): 1.0,
}
_LOSSY_MASK_LEVEL = 127  # JPEG rings around every edge: "not zero" would grow the mask


def read_encoded(path: Path) -> bytes:
    """The content of an image file, not yet decoded. Raises ImageError."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file; expected {_KINDS}") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: is a folder; expected {_KINDS}") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error}); expected {_KINDS}") from error


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as a person sees it: (H, W, 3) uint8 RGB; see `decode_image`. Raises ImageError."""
    return decode_image(read_encoded(path), path=path)


def decode_image(data: bytes, *, path: Path) -> NDArray[np.uint8]:
    """Decode the content of an image file, `path` being its name in errors, into (H, W, 3) uint8 RGB.

    EXIF rotation is applied, palettes are looked up, grey is repeated, 16 bit is scaled (65535 -> 255), float must lie
    in 0..1 (1 -> 255), alpha is composited on black (as TIFF stores it). Of several pages or frames the first is read.
    The content decides the format, not the suffix. Raises ImageError.
    """
    pixels, _ = _decode_pixels(data, path)
    colour = pixels[..., :3].astype(np.float64) if pixels.shape[2] == 4 else pixels[..., :3]
    scale = _PIXEL_SCALE[pixels.dtype]
    if pixels.shape[2] == 4:
        colour = colour * (pixels[..., 3:] / scale)
    if colour.dtype != np.uint8:
        colour = np.rint(colour * (255.0 / scale)).astype(np.uint8)
    to_rgb = cv2.COLOR_GRAY2RGB if colour.shape[2] == 1 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(colour), to_rgb), dtype=np.uint8)


def read_mask(path: Path, *, above: int | None = None) -> NDArray[np.bool_]:
    """Read a mask in any of the image formats: (H, W) bool, True where a colour channel is larger than `above`.

    `above` is on the 0..255 scale whatever the file's depth. By default every non-zero pixel is a defect, except in a
    JPEG, where compression leaves noise around each edge and 127 is used. A transparent pixel is no defect.
    Raises ImageError.
    """
    pixels, kind = _decode_pixels(read_encoded(path), path)
    if above is None:
        above = _LOSSY_MASK_LEVEL if kind == "JPEG" else 0
    marked = np.any(pixels[..., :3] > above * (_PIXEL_SCALE[pixels.dtype] / 255.0), axis=2)
    return np.logical_and(marked, pixels[..., 3] > 0) if pixels.shape[2] == 4 else np.asarray(marked)


def list_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """List the image files of `folder` (by suffix, hidden ones left out) in natural order: part2 before part10.

    Raises DatasetError for a folder that is missing, is not a folder, cannot be read or holds no image.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DatasetError(f"{folder}: no such folder; expected a folder of images ({_suffix_list()})")
    if not folder.is_dir():
        raise DatasetError(f"{folder}: not a folder; expected a folder of images ({_suffix_list()})")
    try:
        inside = [path.relative_to(folder) for path in (folder.rglob("*") if recursive else folder.iterdir())]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    shown = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    images = [path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES and (folder / path).is_file()]
    if not images:
        raise DatasetError(f"{folder}: holds no images; expected files ending in {_suffix_list()}")
    return [folder / path for path in sorted(images, key=natural_order)]


def natural_order(path: Path) -> tuple[object, ...]:
    """Sort key under which numbers inside names count as numbers; equal names fall back to their spelling."""
    parts = [re.split(r"([0-9]+)", part.casefold()) for part in path.parts]
    return ([[int(text) if index % 2 else text for index, text in enumerate(part)] for part in parts], str(path))


def _suffix_list() -> str:
    return ", ".join(IMAGE_SUFFIXES)


def _decode_pixels(data: bytes, path: Path) -> tuple[NDArray[Any], str]:
    """Decode a file into upright (H, W, 1 or 3 or 4) uint8, uint16 or float (B, G, R, alpha), and name its format."""
    if not data:
        raise ImageError(f"{path}: the file is empty (0 bytes); expected {_KINDS}")
    kind = kind_of(data)
    if kind is None:
        raise ImageError(f"{path}: not an image (it starts with {data[:4]!r}); expected {_KINDS}")
    fault = damage(data, kind)
    if fault:
        raise ImageError(f"{path}: the {kind} file is damaged ({fault}); copy or export it again")
    pixels = _decode(data)
    if pixels is None:
        fault = "it is cut short or damaged"
        raise ImageError(f"{path}: the {kind} file cannot be decoded ({fault}); copy or export it again")
    if pixels.dtype not in _PIXEL_SCALE:
        raise ImageError(f"{path}: its pixels are {pixels.dtype}; expected 8 or 16 bit unsigned, or float in 0..1")
    if pixels.dtype.kind == "f" and not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        found = f"{pixels.min():g} to {pixels.max():g}"
        raise ImageError(f"{path}: its float pixels go from {found}; expected floats in 0..1, or an 8 or 16 bit image")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if kind == "TIFF":  # libtiff turns the picture and multiplies by a declared alpha itself
        return pixels[..., : 3 if pixels.shape[2] >= 3 else 1], kind
    return _upright(pixels, orientation(data, kind)), kind


def _decode(data: bytes) -> NDArray[Any] | None:
    set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # OpenCV 4, 5
    set_log_level(0)  # silent: what is wrong is said in our own error
    try:
        decoded: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # a picture of more than 2^30 pixels, or damage that OpenCV did not expect
        return None
    return decoded


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation: 5..8 are stored transposed, then rows and columns may run backwards."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
