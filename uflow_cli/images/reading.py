"""Read images and masks from files: as a person sees them, or an error that says what is wrong with the file.

What a decoder returns (`Pixels`, any depth, perhaps with alpha) becomes 8-bit RGB or a mask here.
"""

import importlib.metadata
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import ImageError
from uflow_cli.images.drawing import STRIP_PIXELS
from uflow_cli.images.formats import LARGEST, DamagedError, Pixels, UnsupportedError, decode, kind_of
from uflow_cli.images.pages import page_of
from uflow_cli.text import in_one_line

_KINDS = "a JPEG, PNG, BMP, TIFF, WebP, GIF, JPEG 2000, AVIF, TGA or PGM file"
_LOSSY_MASK_LEVEL = 127  # JPEG rings around every edge: "not zero" would grow the mask


def decoder_versions() -> dict[str, str]:
    """The versions of what decodes: pixels may change with each."""
    return {name: importlib.metadata.version(name) for name in ("imagecodecs", "pillow", "simplejpeg", "tifffile")}


def read_encoded(path: Path) -> bytes:
    """The content of an image file, not yet decoded; of a page of a file that, and which page it is.

    Raises ImageError, also for devices and pipes.
    """
    file, page = page_of(Path(path))
    if page is not None:
        return read_encoded(file) + _page_mark(page)
    try:
        kind = Path(path).stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise ImageError(f"{path}: is a device, pipe or socket; expected {_KINDS}")
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        broken = Path(path).is_symlink()
        found = f"is a link to {Path(path).readlink()}, which is not there" if broken else "no such file"
        raise ImageError(f"{path}: {found}; expected {_KINDS}") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: is a folder; expected {_KINDS}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be read ({reason}); expected {_KINDS}") from error


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as a person sees it: (H, W, 3) uint8 RGB; see `decode_image`. Raises ImageError."""
    return decode_image(read_encoded(path), path=path)


def decode_image(data: bytes, *, path: Path, largest: int = LARGEST) -> NDArray[np.uint8]:
    """Decode the content of an image file, `path` being its name in errors, into (H, W, 3) uint8 RGB.

    EXIF rotation is applied, palettes are looked up, grey is repeated, 16 bit is scaled (65535 -> 255), float must lie
    in 0..1 (1 -> 255), alpha is composited on black. Of several pages or frames the first is read, unless `path` is of
    another. The content decides the format, not the suffix. Raises ImageError, also before anything is decoded where
    the header names more pixels than `largest`.
    """
    pixels = _decode_pixels(data, path, largest)
    values = pixels.values
    if values.dtype == np.uint8 and values.shape[2] == 3 and pixels.peak == 255:
        return np.ascontiguousarray(values)
    return _rgb(values, pixels.peak)


def rgb_image(values: NDArray[Any]) -> NDArray[np.uint8]:
    """An array as a new (H, W, 3) uint8 RGB image, by the rules of `decode_image`.

    `values` are grey (H, W) or (H, W, 1), red, green, blue (H, W, 3), or these and alpha (H, W, 4), of uint8, uint16
    (65535 -> 255) or floats in 0..1. Raises ValueError for anything else.
    """
    if values.ndim not in (2, 3) or not values.size or values.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"an image of shape {values.shape}: (H, W), (H, W, 3) or (H, W, 4) is needed, channels last")
    peak = {"uint8": 255, "uint16": 65535}.get(values.dtype.name, 1.0 if values.dtype.kind == "f" else None)
    if peak is None:
        raise ValueError(f"an image of {values.dtype}: uint8, uint16, or floats in 0..1 are needed")
    if values.dtype.kind == "f" and not (values.min() >= 0 and values.max() <= 1):  # nan is neither
        found = f"{values.min():g} to {values.max():g}"
        raise ValueError(f"an image of floats from {found}: floats in 0..1, uint8 or uint16 are needed")
    return _rgb(values.reshape(*values.shape[:2], -1), peak)


def read_mask(path: Path, *, above: int | None = None) -> NDArray[np.bool_]:
    """Read a mask in any of the image formats: (H, W) bool, True where a colour channel is larger than `above`.

    `above` is on the 0..255 scale whatever the file's depth. By default every non-zero pixel is a defect, except in a
    JPEG, where compression leaves noise around each edge and 127 is used. A transparent pixel is no defect.
    Raises ImageError.
    """
    pixels = _decode_pixels(read_encoded(path), path)
    if above is None:
        above = _LOSSY_MASK_LEVEL if pixels.lossy else 0
    n_colours = 3 if pixels.values.shape[2] >= 3 else 1
    marked = np.any(pixels.values[..., :n_colours] > above * (pixels.peak / 255.0), axis=2)
    has_alpha = pixels.values.shape[2] > n_colours
    return np.logical_and(marked, pixels.values[..., -1] > 0) if has_alpha else np.asarray(marked)


def _page_mark(page: int) -> bytes:
    """A mark that tells the content of a page from that of the others in the same file."""
    return f"\0page {page}".encode()


def _decode_pixels(data: bytes, path: Path, largest: int = LARGEST) -> Pixels:
    """Decode a file into upright pixels. Raises ImageError with the file's name for whatever is wrong with it."""
    page = page_of(Path(path))[1]
    if page is not None:
        data = data.removesuffix(_page_mark(page))
    if not data:
        raise ImageError(f"{path}: the file is empty (0 bytes); expected {_KINDS}")
    kind = kind_of(data, suffix=Path(path).suffix.lower())
    if kind is None:
        raise ImageError(f"{path}: not an image (it starts with {data[:4]!r}); expected {_KINDS}")
    try:
        pixels = decode(data, kind, page=page or 1, largest=largest)
    except UnsupportedError as error:
        raise ImageError(f"{path}: {error}") from error
    except DamagedError as error:
        raise ImageError(f"{path}: the {kind} file is damaged ({error}); copy or export it again") from error
    except Exception as error:
        reason = in_one_line(error) or type(error).__name__
        raise ImageError(f"{path}: the {kind} file cannot be decoded ({reason}); copy or export it again") from error
    values = pixels.values
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        found = f"{values.min():g} to {values.max():g}"
        raise ImageError(f"{path}: its float pixels go from {found}; expected floats in 0..1, or an 8 or 16 bit image")
    return pixels


def _rgb(values: NDArray[Any], peak: float) -> NDArray[np.uint8]:
    """(H, W, 1 to 4) of grey or RGB, perhaps with alpha, as a new (H, W, 3) uint8 image."""
    height, width = values.shape[:2]
    image = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, STRIP_PIXELS // width)
    for start in range(0, height, rows):
        image[start : start + rows] = _eight_bit(values[start : start + rows], peak)
    return image


def _eight_bit(values: NDArray[Any], peak: float) -> NDArray[np.uint8]:
    """Some rows (h, W, 1 to 4) of grey or RGB, perhaps with alpha, as (h, W, 1 or 3) uint8 on black."""
    n_colours = 3 if values.shape[2] >= 3 else 1
    colour = values[..., :n_colours]
    if values.shape[2] > n_colours and values[..., -1].min() < peak:
        colour = colour.astype(np.float64) * (values[..., n_colours:] / np.float64(peak))
        return np.asarray(np.rint(colour * (255.0 / peak)).astype(np.uint8))
    if peak == 255:
        return np.asarray(colour, dtype=np.uint8)
    if values.dtype.kind == "f":
        return np.asarray(np.rint(colour.astype(np.float64) * 255.0).astype(np.uint8))
    table = np.rint(np.arange(peak + 1) * (255.0 / peak)).astype(np.uint8)
    return np.asarray(table[colour])
