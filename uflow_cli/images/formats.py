"""Decode the bytes of an image file, each format by the library that reads it whole and notices its damage.

simplejpeg turns libjpeg's remarks into errors, which Pillow and OpenCV swallow; Pillow reads the other formats;
`tiff` reads TIFF. What these check too strictly or not at all is looked at here first.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (  # noqa: TID251
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TgaImagePlugin,
    WebPImagePlugin,
)

EXPECTED = "expected grey, RGB, palette or CMYK of up to 16 bit unsigned, or float in 0..1"
LARGEST = 1 << 30  # pixels; a small file can claim any size
_SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"BM", "BMP"),
    (rb"(II|MM)(\*\0|\0\*|\+\0|\0\+)", "TIFF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"GIF8[79]a(?!\0{4})", "GIF"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"....ftyp(avif|avis)", "AVIF"),
    (rb"P[1-6][\s#]", "PGM"),
)
_UNREADABLE = (
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"8BPS", "Photoshop"),
    (rb"%PDF", "PDF"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?RADIANCE|#\?RGBE", "Radiance HDR"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "SVG"),
    (rb"FUJIFILMCCD-RAW|IIU\0|IIRO|MMOR", "camera raw"),
    (rb".{128}DICM", "DICOM"),
)


class DamagedError(Exception):
    """The file is not what was once written; the message says in a few words what is missing or wrong."""


class UnsupportedError(Exception):
    """The file may be sound but cannot be read; the message says why and what could be."""


@dataclass(frozen=True)
class Pixels:
    """An upright picture (H, W, C): grey or red, green, blue, and one channel more where it has alpha.

    `peak` is the value of white and of opaque; `lossy` says that compression left noise around edges.
    """

    values: NDArray[Any]
    peak: float = 255
    lossy: bool = False


def kind_of(data: bytes, *, suffix: str = "") -> str | None:
    """Name the format by its signature, or None for anything else. TGA has none, so there the suffix counts.

    Raises nothing: known formats that cannot be read are named too, and `decode` refuses them.
    """
    for pattern, name in (*_SIGNATURES, *_UNREADABLE):
        if re.match(pattern, data[:4096], re.DOTALL):
            return name
    return "TGA" if suffix == ".tga" and len(data) > 18 else None


def decode(data: bytes, kind: str, *, page: int = 1, largest: int = LARGEST) -> Pixels:
    """Decode a file of a `kind` from `kind_of`, of a TIFF the given `page`.

    No picture is unpacked whose header names more pixels than `largest`. Raises DamagedError, UnsupportedError, and
    what decoders raise.
    """
    if kind in {name for _, name in _UNREADABLE}:
        raise UnsupportedError(f"{kind} files cannot be read; convert it to PNG, JPEG or TIFF")
    if kind == "TIFF":
        from uflow_cli.images.tiff import decode_tiff

        return decode_tiff(data, page_number=page, largest=largest)
    own = {
        "JPEG": decode_jpeg,
        "PNG": _decode_png,
        "WebP": decode_webp,
        "BMP": _decode_bmp,
        "JPEG 2000": decode_jpeg_2000,
    }
    if kind in own:
        return own[kind](data, largest)
    return open_with_pillow(_PLUGINS[kind], data, largest=largest)


def check_size(width: int, height: int, largest: int) -> None:
    """Raise UnsupportedError for more pixels than `largest`, DamagedError for none."""
    if width < 1 or height < 1:
        raise DamagedError(f"it claims to be {width} x {height} pixels")
    if width * height > largest:
        raise UnsupportedError(f"it has {width} x {height} pixels; at most {largest} can be read, cut it into parts")


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation: 5..8 are stored transposed, then rows and columns may run backwards."""
    if orientation in range(5, 9):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def exif_orientation(block: bytes) -> int:
    """Orientation 1..8 in an EXIF block; 1 (upright) where none or an unreadable one is stored."""
    exif = Image.Exif()
    try:
        exif.load(block)
        value = exif.get(274, 1)
    except Exception:
        return 1
    return int(value) if value in range(1, 9) else 1


# JPEG


def decode_jpeg(data: bytes, largest: int) -> Pixels:
    """Decode a JPEG. Junk between its header's segments and after its end does no harm to the picture."""
    segments = list(_jpeg_segments(data))
    markers = [marker for marker, _, _ in segments]
    if 0xD9 not in markers:
        raise DamagedError(f"its end-of-image marker is missing: it is cut short at {len(data)} bytes")
    frame = next((data[start:end] for marker, start, end in segments if marker in _FRAMES), b"")
    if 0xDA not in markers or len(frame) < 10:
        raise DamagedError("it holds no picture data")
    precision, height, width, n_channels = struct.unpack_from(">BHHB", frame, 4)
    check_size(width, height or 1, largest)
    if height == 0 or n_channels not in (1, 3, 4) or precision != 8:
        found = f"{precision} bit, {n_channels} channels" if height else "its height is stored after the picture"
        raise UnsupportedError(f"a rare kind of JPEG ({found}) cannot be read; convert it to PNG")
    if sum(end - start for _, start, end in segments) + 2 < segments[-1][2]:
        data = data[:2] + b"".join(data[start:end] for _, start, end in segments)
    exif = next((data[s + 4 : e] for m, s, e in segments if m == 0xE1 and data[s + 4 : s + 10] == b"Exif\0\0"), b"")
    return Pixels(upright(_jpeg_values(data, n_channels), exif_orientation(exif)), lossy=True)


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HARMLESS = ("Warning: unknown JFIF", "Unknown Adobe", "Inconsistent progression")


def _jpeg_values(data: bytes, n_channels: int) -> NDArray[Any]:
    import simplejpeg  # noqa: TID251

    colours = {1: "GRAY", 3: "RGB", 4: "CMYK"}[n_channels]
    try:
        values: NDArray[Any] = simplejpeg.decode_jpeg(data, colours)
    except ValueError as error:
        if (unfilled := _without_filling(data)) is not None and "before marker 0xd9" in str(error):
            return _jpeg_values(unfilled, n_channels)
        if not str(error).startswith(_HARMLESS):
            raise DamagedError(str(error)) from error
        n_channels = 4
    if n_channels == 4:  # Pillow knows how to show ink
        return open_with_pillow(JpegImagePlugin.JpegImageFile, data, largest=LARGEST).values
    return values


def _without_filling(data: bytes) -> bytes | None:
    """The JPEG with one zero byte less before its end, where some encoders fill up; None where there are few."""
    end = max(end for marker, _, end in _jpeg_segments(data) if marker == 0xD9) - 2
    n_zeros = end - len(data[:end].rstrip(b"\0"))
    return data[: end - max(1, n_zeros - 4)] + b"\xff\xd9" if n_zeros > 1 else None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) up to and including end-of-image (0xD9); stops without it where the file is cut.

    A scan's entropy-coded data is part of its segment. Bytes between segments are passed over.
    """
    position = 2
    while (found := re.compile(rb"\xff+[^\x00\xff]", re.DOTALL).search(data, position)) is not None:
        marker, start = data[found.end() - 1], found.end() - 2
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # these stand alone
            position = found.end()
            continue
        if marker == 0xD9:
            yield marker, start, found.end()
            return
        end = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        if end > len(data):
            return
        if marker == 0xDA:  # goes on to the next marker that is neither stuffing, a fill byte nor a restart
            following = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]").search(data, end)
            if following is None:
                return
            end = following.start()
        yield marker, start, end
        position = end


# PNG


def _decode_png(data: bytes, largest: int) -> Pixels:
    """Decode a PNG from the chunks that make its picture; the others may be broken."""
    chunks = list(_png_chunks(data))
    if not chunks or chunks[-1][0] != b"IEND":
        raise DamagedError(f"its IEND chunk is missing: it is cut short at {len(data)} bytes")
    broken = [kind.decode("latin-1") for kind, _, intact in chunks if not intact and kind[:1].isupper()]
    if broken:
        raise DamagedError(f"the checksum of its {broken[0]} chunk is wrong")
    kept = [chunk for kind, chunk, intact in chunks if kind[:1].isupper() or (kind == b"tRNS" and intact)]
    exif = next((chunk[8:-4] for kind, chunk, intact in chunks if kind == b"eXIf" and intact), b"")
    picture = data[:8] + b"".join(kept)
    if picture[12:16] == b"IHDR" and picture[24] == 16:  # Pillow would cut 16 bit colour to 8
        import imagecodecs  # noqa: TID251

        check_size(int.from_bytes(picture[16:20], "big"), int.from_bytes(picture[20:24], "big"), largest)
        pixels = Pixels(_with_channels(imagecodecs.png_decode(picture)), peak=65535)
    else:
        pixels = open_with_pillow(PngImagePlugin.PngImageFile, picture, largest=largest)
    return Pixels(upright(pixels.values, exif_orientation(exif)), peak=pixels.peak)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield (type, whole chunk, checksum fits) up to and including IEND; stops without it where the file is cut."""
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            return
        kind, chunk = data[position + 4 : position + 8], data[position:end]
        yield kind, chunk, zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if kind == b"IEND":
            return
        position = end


# Everything that Pillow reads


def decode_webp(data: bytes, largest: int) -> Pixels:
    """Decode a WebP. It has no checksum, but damage inside leaves its decoder with bytes too few or too many."""
    declared = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < declared:
        raise DamagedError(f"it declares {declared} bytes and has {len(data)}: it is cut short")
    pixels = open_with_pillow(WebPImagePlugin.WebPImageFile, data, largest=largest)
    shorter = _shorter_webp(data)
    if shorter is not None:
        try:
            open_with_pillow(WebPImagePlugin.WebPImageFile, shorter, largest=largest)
        except OSError:
            return pixels
        raise DamagedError(f"its picture ends {_NEEDED} or more bytes before its data does")
    return pixels


_NEEDED = 8  # of the last bytes of a WebP picture: its decoder misses them; sound ones bear a loss of two


def _shorter_webp(data: bytes) -> bytes | None:
    """The WebP with its last bytes of picture data cut off, and nothing else; None where it has frames or is tiny."""
    position = 12
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind in (b"VP8 ", b"VP8L") and size > 4 * _NEEDED:
            payload = data[position + 8 : position + 8 + size - _NEEDED]
            chunk = kind + len(payload).to_bytes(4, "little") + payload + b"\0" * (len(payload) % 2)
            return b"RIFF" + (len(chunk) + 4).to_bytes(4, "little") + b"WEBP" + chunk
        position += 8 + size + size % 2
    return None


def decode_jpeg_2000(data: bytes, largest: int) -> Pixels:
    """Decode JPEG 2000: Pillow, which is strict, says whether it is whole, and knows 8 bit only."""
    pixels = open_with_pillow(Jpeg2KImagePlugin.Jpeg2KImageFile, data, largest=largest)
    bits = data[data.index(b"\xff\x51") + 40] + 1
    if bits <= 8:
        return pixels
    if bits > 16:
        raise UnsupportedError(f"its pixels are signed or have more than 16 bits; {EXPECTED}")
    import imagecodecs  # noqa: TID251

    return Pixels(_with_channels(imagecodecs.jpeg2k_decode(data)), peak=2**bits - 1)


def _decode_bmp(data: bytes, largest: int) -> Pixels:
    """Decode a BMP; Pillow knows only the usual places of colours in 16 and 32 bits, so the others are taken apart."""
    header, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", data.ljust(34, b"\0"), 14)
    if header < 40 or compression not in (3, 6) or bits not in (16, 32):
        return open_with_pillow(BmpImagePlugin.BmpImageFile, data, largest=largest)
    check_size(width, abs(height), largest)
    stride, start = (width * bits // 8 + 3) // 4 * 4, int.from_bytes(data[10:14], "little")
    if len(data) < start + stride * abs(height):
        raise DamagedError(f"its pixels end beyond the file: it is cut short at {len(data)} bytes")
    rows = np.frombuffer(data, np.uint8, stride * abs(height), start).reshape(abs(height), stride)
    packed = rows[:, : width * bits // 8].copy().view(f"<u{bits // 8}")
    masks = struct.unpack_from("<4I" if header > 52 or compression == 6 else "<3I", data, 54)
    channels = [(packed & mask).astype(np.float64) * (255 / mask) for mask in masks if mask]
    if len(channels) < 3 or not all(masks[:3]):
        raise DamagedError("it does not say where its colours are")
    values = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    values = values if values[..., 3:].any() else values[..., :3]  # writers forget to fill in alpha
    return Pixels(values if height < 0 else values[::-1])


_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "PGM": PpmImagePlugin.PpmImageFile,
    "TGA": TgaImagePlugin.TgaImageFile,
}


def open_with_pillow(plugin: type[ImageFile.ImageFile], data: bytes, *, largest: int, page: int = 1) -> Pixels:
    """Decode a page with one of Pillow's readers, upright, palettes looked up. Raises what the reader does.

    The reader is called by name: `Image.open` would try others and warn of large pictures.
    """
    try:
        picture: Image.Image = plugin(io.BytesIO(data))
        picture.seek(page - 1)
        check_size(*picture.size, largest)
        picture.load()
    except (OSError, SyntaxError, NotImplementedError) as error:
        if re.search("unsupported|not supported|unknown|unrecognized|not available", str(error), re.IGNORECASE):
            raise UnsupportedError(
                f"a kind of file that cannot be decoded ({error}); export it again, as PNG"
            ) from error
        raise
    orientation = exif_orientation(picture.info.get("exif", b""))
    peak = 255
    if picture.mode.startswith("I"):  # 16 bit grey
        peak = 65535
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
    elif picture.mode in ("1", "L"):
        picture = picture.convert("L")
    else:
        picture = picture.convert("RGB")
    return Pixels(upright(_with_channels(_array(picture)), orientation), peak=peak)


def _array(picture: Image.Image) -> NDArray[Any]:
    """The pixels of a Pillow image, copied some rows at a time: whole it would need three times its size."""
    width, height = picture.size
    rows = max(1, (1 << 20) // width)
    if height <= rows:
        return np.array(picture)
    strips = (np.asarray(picture.crop((0, top, width, min(top + rows, height)))) for top in range(0, height, rows))
    first = next(strips)
    values = np.empty((height, *first.shape[1:]), dtype=first.dtype)
    values[:rows] = first
    for number, strip in enumerate(strips, start=1):
        values[number * rows : number * rows + len(strip)] = strip
    return values


def _with_channels(values: NDArray[Any]) -> NDArray[Any]:
    """(H, W) or (H, W, C) as (H, W, C)."""
    return values.reshape(*values.shape[:2], -1)
