"""What the bytes of an image file say before anything is decoded: its kind, whether it is whole, which way is up."""

import re
import struct
import zlib
from collections.abc import Callable, Iterator


def kind_of(data: bytes) -> str | None:
    """Name the format by its signature: "JPEG", "PNG", "BMP", "TIFF", "WebP", or None for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"BM"):
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    return "WebP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, payload) up to and including end-of-image (0xD9); stops without it where the file is cut."""
    position = 2
    while position + 2 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xD9:
            yield marker, b""
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # these stand alone
            position += 2
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if end > len(data):
            return
        yield marker, data[position + 4 : end]
        position = end
        if marker == 0xDA:  # entropy-coded data: goes on to the next marker that is neither stuffing nor a restart
            following = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]").search(data, position)
            if following is None:
                return
            position = following.start()


def _jpeg_fault(data: bytes) -> str | None:
    markers = [marker for marker, _ in _jpeg_segments(data)]
    if 0xD9 not in markers:
        return f"its end-of-image marker is missing: it is cut short at {len(data)} bytes"
    return None if 0xDA in markers else "it holds no picture data"


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield (type, payload, checksum fits) up to and including IEND; stops without it where the file is cut."""
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            return
        kind, payload = data[position + 4 : position + 8], data[position + 8 : end - 4]
        yield kind, payload, zlib.crc32(payload, zlib.crc32(kind)) == int.from_bytes(data[end - 4 : end], "big")
        if kind == b"IEND":
            return
        position = end


def _png_fault(data: bytes) -> str | None:
    chunks = [(kind, intact) for kind, _, intact in _png_chunks(data)]
    if not chunks or chunks[-1][0] != b"IEND":
        return f"its IEND chunk is missing: it is cut short at {len(data)} bytes"
    broken = [kind.decode("latin-1") for kind, intact in chunks if not intact]
    return f"the checksum of its {broken[0]} chunk is wrong" if broken else None


def _size_fault(at: int, *, header: int) -> Callable[[bytes], str | None]:
    """Make a check of the little-endian size stored `at` a position, which does not count `header` bytes.

    Some writers of BMP leave it 0; their cut files are caught by the decoder.
    """

    def fault(data: bytes) -> str | None:
        declared = header + int.from_bytes(data[at : at + 4], "little")
        return f"it declares {declared} bytes and has {len(data)}: it is cut short" if len(data) < declared else None

    return fault


_FAULTS: dict[str, Callable[[bytes], str | None]] = {
    "JPEG": _jpeg_fault,
    "PNG": _png_fault,
    "WebP": _size_fault(4, header=8),
    "BMP": _size_fault(2, header=0),
}


def damage(data: bytes, kind: str) -> str | None:
    """Say in a few words why the file cannot be whole, or None.

    A TIFF's parts lie anywhere in the file; libtiff itself refuses one that is cut short.
    """
    return _FAULTS[kind](data) if kind in _FAULTS else None


def orientation(data: bytes, kind: str) -> int:
    """EXIF orientation 1..8; 1 (upright) where none or an unreadable one is stored."""
    exif = b""
    if kind == "JPEG":
        blocks = [payload for marker, payload in _jpeg_segments(data) if marker == 0xE1 and payload[:6] == b"Exif\0\0"]
        exif = blocks[0] if blocks else b""
    elif kind == "PNG":
        exif = next((payload for chunk, payload, _ in _png_chunks(data) if chunk == b"eXIf"), b"")
    elif kind == "WebP":
        exif = next((payload for chunk, payload in _riff_chunks(data) if chunk == b"EXIF"), b"")
    value = _exif_short(exif.removeprefix(b"Exif\0\0"), tag=274)
    return value if value in range(1, 9) else 1


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        yield data[position : position + 4], data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _exif_short(exif: bytes, *, tag: int) -> int:
    """Value of a 16-bit tag in the first directory of an EXIF block (a small TIFF), 0 where it is not there."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 0
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for index in range(count):
            number, kind, _, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * index)
            if number == tag and kind == 3:
                return int(value)
    except struct.error:  # a broken block: pictures are shown as stored
        pass
    return 0
