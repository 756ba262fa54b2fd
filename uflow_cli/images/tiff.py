"""Decode a TIFF file: tifffile takes it apart, its tags say how the numbers become grey or colour."""

import functools
import io
import logging
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin  # noqa: TID251

from uflow_cli.images.formats import (
    EXPECTED,
    DamagedError,
    Pixels,
    UnsupportedError,
    check_size,
    decode_jpeg,
    decode_jpeg_2000,
    decode_webp,
    open_with_pillow,
    upright,
)

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _INK, _YCBCR = range(7)
_CAMERA_RAW = (32803, 34892)
_OLD_JPEG, _JPEG = 6, 7
_JPEG_2000 = (33003, 33005, 34712)
_FAX = (3, 4)
_EXACT = (5, 32773, 34926, 50000)  # LZW, PackBits, Zstandard: damage often changes how much comes out of them
_WEBP = 50001
_UNCHECKED = (22610, 34934)  # JPEG XR, whose decoder does not notice damage
_NO_PICTURE = 1 | 4  # kinds of pages: of lower resolution, mask of transparency
_LOSSY = (_OLD_JPEG, _JPEG, 34892, _WEBP)

MOST_SAMPLES = 5  # of a pixel, for a picture of the largest size: ink and alpha
JPEG_BLOCK = 16  # pixels, by which a compressed strip or tile may be larger than it should

_ENDIAN: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
_VALUE_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


@functools.cache
def _tifffile() -> Any:
    import tifffile  # noqa: TID251

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is said in our own error
    return tifffile


def picture_pages(path: Path) -> list[int]:
    """The numbers, from 1, of the pages of a TIFF file that are pictures, not thumbnails or masks of others.

    Only the first where the file cannot be read: whoever decodes it says why.
    """
    try:
        with _tifffile().TiffFile(path) as tiff:
            numbers = [n for n, page in enumerate(tiff.pages, start=1) if not page.subfiletype & _NO_PICTURE]
    except Exception:
        return [1]
    return numbers or [1]


def decode_tiff(data: bytes, *, largest: int, page_number: int = 1) -> Pixels:
    """Decode a page. Raises DamagedError, UnsupportedError, and what the decoders raise."""
    with _tifffile().TiffFile(io.BytesIO(data)) as file:
        if page_number > max(1, len(file.pages)):  # without any page the decoder says what is wrong
            raise DamagedError(f"it has no page {page_number}, only {len(file.pages)}")
        page = file.pages[page_number - 1]
        check_size(page.imagewidth, page.imagelength, largest)
        if page.imagewidth * page.imagelength * page.samplesperpixel > MOST_SAMPLES * largest:
            raise UnsupportedError(f"its pixels have {page.samplesperpixel} channels; {EXPECTED}")
        _check_tags(page, len(data))
        _check_kind(page)
        if page.compression == _OLD_JPEG or (
            page.photometric == _YCBCR and page.compression in (1, 5, 8, 32773, 32946)
        ):
            # it knows their subsampled colours
            return open_with_pillow(TiffImagePlugin.TiffImageFile, data, page=page_number, largest=largest)
        _check_segments(page, data, largest)
        values = np.asarray(page.asarray(maxworkers=1)).reshape(page.shaped)[:, 0]  # (planes, H, W, channels)
        values = np.moveaxis(values[..., 0], 0, -1) if page.planarconfig == 2 else values[0]
        if values.dtype in (np.bool_, np.float16):  # too short to calculate with
            values = values.astype(np.uint8 if values.dtype == np.bool_ else np.float32)
        if page.compression in _FAX and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
            _check_fax(values, data, page_number, is_inverted=page.photometric == _WHITE_IS_ZERO)
        peak = 1.0 if values.dtype.kind == "f" else 2.0 ** int(page.bitspersample) - 1
        values, peak = _colours(page, values, peak)
        orientation = page.tags.valueof(274, 1)
        return Pixels(upright(values, orientation), peak=peak, lossy=page.compression in _LOSSY)


def _check_tags(page: Any, size: int) -> None:
    """Raise DamagedError where a tag that describes the picture lies beyond the file; tifffile would leave it out."""
    file, layout = page.parent.filehandle, page.parent.tiff
    file.seek(page.offset)
    count = int.from_bytes(file.read(layout.tagnosize), _ENDIAN[layout.byteorder])
    for _ in range(count):
        entry = file.read(layout.tagsize)
        number, kind = (int.from_bytes(entry[at : at + 2], _ENDIAN[layout.byteorder]) for at in (0, 2))
        n_values, value = (
            int.from_bytes(entry[at : at + layout.offsetsize], _ENDIAN[layout.byteorder])
            for at in (4, 4 + layout.offsetsize)
        )
        length = n_values * _VALUE_SIZES.get(kind, 1)
        if 254 <= number <= 532 and length > layout.offsetsize and value + length > size:
            raise DamagedError(f"its tag {number} lies beyond the file: it is cut short at {size} bytes")


def _check_kind(page: Any) -> None:
    """Raise UnsupportedError for what the numbers of this page could not be turned into a picture from."""
    known = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _INK, _YCBCR)
    if page.photometric in _CAMERA_RAW or 50706 in page.tags:
        raise UnsupportedError("a camera's raw file cannot be read; develop it to TIFF, PNG or JPEG")
    if page.photometric not in known or (page.photometric == _INK and page.tags.valueof(332, 1) != 1):
        raise UnsupportedError(f"its colours are {_name(page.photometric)}; {EXPECTED}")
    if page.imagedepth != 1 or isinstance(page.bitspersample, tuple):
        found = f"{page.bitspersample} bits" if page.imagedepth == 1 else f"{page.imagedepth} layers"
        raise UnsupportedError(f"its pixels have {found}; {EXPECTED}")
    if page.dtype is None or page.dtype.kind not in "buf" or (page.dtype.kind == "u" and page.bitspersample > 16):
        found = page.dtype if page.dtype is not None else f"{page.bitspersample} bit of kind {page.sampleformat}"
        raise UnsupportedError(f"its pixels are {found}; {EXPECTED}")
    try:
        if page.compression in _UNCHECKED:
            raise KeyError(page.compression)
        if page.compression != 1:
            _tifffile().TIFF.DECOMPRESSORS[page.compression]
    except KeyError as error:
        raise UnsupportedError(
            f"its compression {_name(page.compression)} cannot be read; save it with LZW, Deflate or none"
        ) from error


def _name(value: Any) -> str:
    return f"{getattr(value, 'name', '').replace('_', ' ')} ({int(value)})".strip()


def _check_segments(page: Any, data: bytes, largest: int) -> None:
    """Raise DamagedError for strips or tiles that are missing, cut, or JPEG that libjpeg remarks on."""
    rows, columns = _segment_shape(page)
    check_size(columns, min(rows, page.imagelength) if not page.is_tiled else rows, largest)
    most = min(largest, (rows + JPEG_BLOCK) * (columns + JPEG_BLOCK))  # pixels of one
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    expected = math.prod(page.chunked)
    if len(segments) < expected:
        raise DamagedError(f"it lists {len(segments)} of the {expected} strips or tiles of its picture")
    for number, (offset, count) in enumerate(segments[:expected], start=1):
        if offset + count > len(data):
            raise DamagedError(
                f"part {number} of {expected} ends beyond the file: it is cut short at {len(data)} bytes"
            )
        if count == 0:
            raise DamagedError(f"part {number} of {expected} of its picture was never written")
        if page.compression == _JPEG and page.bitspersample == 8:
            stream, tables = data[offset : offset + count], page.jpegtables
            decode_jpeg(tables[:-2] + stream[2:] if tables else stream, most)
        elif page.compression in _JPEG_2000:
            decode_jpeg_2000(data[offset : offset + count], most)
        elif page.compression == _WEBP:
            decode_webp(data[offset : offset + count], most)
        elif page.compression in _EXACT and page.fillorder == 1:
            _check_length(page, number, data[offset : offset + count])


def _segment_shape(page: Any) -> tuple[int, int]:
    """Rows and columns of a strip or tile, as the tags say."""
    return (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)


def _check_length(page: Any, number: int, data: bytes) -> None:
    """Raise DamagedError unless strip or tile `number` can be decoded to as many bytes as its pixels take.

    No more than one byte beyond that is decoded: a small file can unpack to any size.
    """
    samples = page.samplesperpixel if page.planarconfig != 2 else 1
    rows, columns = _segment_shape(page)
    row_bytes = -(-columns * samples * page.bitspersample // 8)
    rows = rows if page.is_tiled else min(rows, page.imagelength)
    fewest = rows
    if not page.is_tiled:  # the last strip may have the rows that are left or, in some files, those of all strips
        fewest = min(rows, page.imagelength - (number - 1) % -(-page.imagelength // rows) * rows)
    decoded = _tifffile().TIFF.DECOMPRESSORS[page.compression](data, out=rows * row_bytes + 1)
    if len(decoded) % row_bytes or not fewest <= len(decoded) // row_bytes <= rows:
        more = " or more" if len(decoded) > rows * row_bytes else ""
        raise DamagedError(f"part {number} of its picture holds {len(decoded)} bytes{more}, not {fewest * row_bytes}")


def _check_fax(values: NDArray[Any], data: bytes, page: int, *, is_inverted: bool) -> None:
    """Raise DamagedError where two decoders of CCITT codes see other pictures: each goes on after damage in its way."""
    other = open_with_pillow(TiffImagePlugin.TiffImageFile, data, page=page, largest=values.size).values
    if not np.array_equal((values != 0) != is_inverted, other != 0):
        raise DamagedError("its fax codes are wrong")


def _colours(page: Any, values: NDArray[Any], peak: float) -> tuple[NDArray[Any], float]:
    """Turn samples (H, W, S) into grey or RGB and, where it is not multiplied in already, alpha; with their peak."""
    photometric = page.photometric
    if 262 not in page.tags:
        photometric = _RGB if page.samplesperpixel >= 3 else _BLACK_IS_ZERO
    n_colours = {_RGB: 3, _YCBCR: 3, _INK: 4}.get(photometric, 1)
    if values.shape[2] < n_colours:
        raise DamagedError(f"it has {values.shape[2]} channels and needs {n_colours}")
    colour = values[..., :n_colours]
    straight = [index for index, kind in enumerate(page.extrasamples) if kind == 2]
    alpha = values[..., n_colours + straight[0], None] if straight else None
    if photometric == _WHITE_IS_ZERO:
        colour = colour.dtype.type(peak) - colour
    elif photometric in (_PALETTE, _INK):
        colour = _looked_up(page.colormap, colour[..., 0]) if photometric == _PALETTE else _printed(colour, peak)
        if alpha is not None:
            alpha = np.rint(alpha * (255.0 / peak)).astype(np.uint8)
        peak = 255
    return colour if alpha is None else np.concatenate([colour, alpha], axis=2), peak


def _looked_up(colormap: NDArray[np.uint16] | None, indices: NDArray[Any]) -> NDArray[np.uint8]:
    if colormap is None or int(indices.max()) >= colormap.shape[1]:
        raise DamagedError("its palette has too few colours")
    old_style = not (colormap & 0xFF).any()  # 8 bit shifted up rather than scaled
    palette = colormap >> 8 if old_style else np.rint(colormap / 257.0)
    return np.asarray(palette.T.astype(np.uint8)[indices])


def _printed(ink: NDArray[Any], peak: float) -> NDArray[np.uint8]:
    """Cyan, magenta, yellow and black (H, W, 4) on white paper, as (H, W, 3) uint8 RGB."""
    light = 1 - ink.astype(np.float32) / np.float32(peak)
    return np.asarray(np.rint(255 * light[..., :3] * light[..., 3:]).astype(np.uint8))
