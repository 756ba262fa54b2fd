"""Write PNG files strip by strip: packed on all processors, without another copy of a large picture.

Rows hold differences from the pixel to the left, as PNG's filter "sub" has it. isal packs them three times as fast as
zlib, which OpenCV and Pillow use. Strips end on a full flush, so that each is packed by itself.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib  # noqa: TID251
from numpy.typing import NDArray

from uflow_cli.errors import ImageError, NoRoomError, UflowError
from uflow_cli.files import replacing
from uflow_cli.images.drawing import STRIP_PIXELS
from uflow_cli.images.views import done_ahead

_COLOUR_KINDS = {1: 0, 3: 2, 4: 6}  # by channels


def encode_png(array: NDArray[Any]) -> bytes:
    """Encode (H, W) uint8, (H, W) bool (True -> 255), (H, W, 3) uint8 RGB or (H, W, 4) RGBA as PNG.

    Raises ValueError for other arrays.
    """
    strips = _strips(array)
    return b"".join(_pieces((array.shape[0], array.shape[1]), strips))


def write_png(path: Path, array: NDArray[Any]) -> None:
    """Write an array (see `encode_png`): `path` is the whole new picture or what it was before. Parents are made.

    Raises ImageError where a permission or the path does not allow it, NoRoomError where the disk is full, and then
    leaves nothing behind.
    """
    strips = _strips(array)
    write_png_strips(path, (array.shape[0], array.shape[1]), strips)


def write_png_strips(path: Path, size: tuple[int, int], strips: Iterable[NDArray[np.uint8]]) -> None:
    """Write a picture of `size` (H, W) that comes as strips of rows, each (h, W) or (h, W, 3); see `write_png`."""
    try:
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            file.writelines(_pieces(size, strips))
    except NoRoomError:
        raise
    except UflowError as error:
        raise ImageError(str(error)) from error


def _strips(array: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """The rows of an array, some at a time. Raises ValueError at once for what a PNG cannot hold."""
    shapes: tuple[tuple[int, ...], ...] = ((),) if array.dtype == np.bool_ else ((), (3,), (4,))
    if array.dtype not in (np.uint8, np.bool_) or array.ndim < 2 or not array.size or array.shape[2:] not in shapes:
        raise ValueError(f"expected (H, W) uint8 or bool, or (H, W, 3 or 4) uint8; got {array.shape} {array.dtype}")
    n_rows = max(1, STRIP_PIXELS // array.shape[1])
    parts = (array[top : top + n_rows] for top in range(0, len(array), n_rows))
    return (part.view(np.uint8) * np.uint8(255) if part.dtype == np.bool_ else part for part in parts)


def _pieces(size: tuple[int, int], strips: Iterable[NDArray[np.uint8]]) -> Iterator[bytes]:
    """The parts of a PNG file one after the other."""
    checksum, start = 1, b"\x78\x01"  # of the zlib stream
    work = map(_packed, strips) if size[0] * size[1] <= STRIP_PIXELS else done_ahead(_packed, strips)
    for n_channels, rows, packed in work:
        if start:
            kind = _COLOUR_KINDS[n_channels]
            yield b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, kind, 0, 0, 0))
        checksum = zlib.adler32(rows.data, checksum)
        yield _chunk(b"IDAT", start + packed)
        start = b""
    yield _chunk(b"IDAT", b"\x03\x00" + checksum.to_bytes(4, "big"))  # an empty last block
    yield _chunk(b"IEND", b"")


def _packed(strip: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8], bytes]:
    """The number of channels of a strip of rows, its filtered rows, and these packed."""
    values = strip.reshape(len(strip), -1)  # (h, W * channels)
    n_channels = values.shape[1] // strip.shape[1]
    rows = np.empty((len(values), values.shape[1] + 1), dtype=np.uint8)
    rows[:, 0] = 1  # the filter "sub"
    rows[:, 1 : 1 + n_channels] = values[:, :n_channels]
    np.subtract(values[:, n_channels:], values[:, :-n_channels], out=rows[:, 1 + n_channels :])
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -15)
    return n_channels, rows, packer.compress(rows.data) + packer.flush(isal_zlib.Z_FULL_FLUSH)


def _chunk(kind: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(payload, zlib.crc32(kind))
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)
