"""Formats other than TIFF: sound files that other programs write are read, damage inside is named."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from uflow_cli import images
from uflow_cli.errors import ImageError

ROUGH = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def encoded(kind: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture or Image.fromarray(ROUGH)).save(buffer, kind, **options)
    return buffer.getvalue()


def read(path: Path, data: bytes) -> np.ndarray:
    path.write_bytes(data)
    return images.read_image(path)


# JPEG


@pytest.mark.parametrize(
    "sound",
    [
        lambda jpeg, at: jpeg[:at] + b"junk\0between" + jpeg[at:],
        lambda jpeg, at: jpeg[:at] + b"\xff\0\xff\xff" + jpeg[at:],
        lambda jpeg, at: jpeg + b"a trailer",
        lambda jpeg, at: jpeg + jpeg,
        lambda jpeg, at: jpeg[:-2] + bytes(16) + jpeg[-2:],
        lambda jpeg, at: jpeg[:-2] + b"\xff" * 9 + jpeg[-2:],
    ],
    ids=["junk", "fill", "trailer", "second picture", "zeros before the end", "ones before the end"],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_others_write_is_sound(tmp_path: Path, sound: Any, progressive: bool) -> None:
    jpeg = encoded("JPEG", quality=90, progressive=progressive)
    data = sound(jpeg, jpeg.index(b"\xff\xdb"))
    np.testing.assert_array_equal(read(tmp_path / "a.jpg", data), read(tmp_path / "b.jpg", jpeg))


def test_pillow_and_the_product_see_the_same_jpeg(tmp_path: Path) -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}, {"quality": 20}):
        data = encoded("JPEG", **options)
        np.testing.assert_array_equal(read(tmp_path / "a.jpg", data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_damaged_in_its_middle_is_named_and_silent(
    tmp_path: Path, progressive: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    jpeg = encoded("JPEG", quality=90, progressive=progressive)
    middle = len(jpeg) // 2
    for data in (jpeg[:middle] + bytes(300) + jpeg[middle + 300 :], jpeg[:middle] + jpeg[middle + 900 :]):
        with pytest.raises(ImageError, match=r"a\.jpg: the JPEG file is damaged \(Corrupt JPEG data"):
            read(tmp_path / "a.jpg", data)
    assert capfd.readouterr().err == ""


# WebP


def test_a_webp_damaged_in_its_middle_is_named_and_sound_ones_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for quality in (1, 50, 100):
        for size in ((1, 1), (17, 40), (120, 90)):
            picture = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            for options in ({}, {"lossless": True}, {"exif": Image.Exif().tobytes()}):
                assert read(tmp_path / "a.webp", encoded("WEBP", picture, quality=quality, **options)).shape[:2] == size
    see_through = Image.fromarray(np.insert(ROUGH, 3, 255, axis=2))
    assert read(tmp_path / "a.webp", encoded("WEBP", see_through)).shape == ROUGH.shape
    webp = encoded("WEBP", Image.fromarray(ROUGH), quality=90)
    for middle in range(len(webp) // 4, len(webp) * 3 // 4, len(webp) // 20):
        with pytest.raises(ImageError, match=r"a\.webp: the WebP file is damaged"):
            read(tmp_path / "a.webp", webp[:middle] + bytes([webp[middle] ^ 0x5A]) + webp[middle + 1 :])


# PNG


def chunk(kind: bytes, payload: bytes, *, flaw: int = 0) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload) ^ flaw)


def test_a_wrong_checksum_beside_the_picture_does_no_harm(tmp_path: Path) -> None:
    png = encoded("PNG")
    for kind in (b"tEXt", b"eXIf", b"tIME", b"iCCP"):
        data = png[:33] + chunk(kind, b"Comment\0hello", flaw=1) + png[33:] + b"a trailer"
        np.testing.assert_array_equal(read(tmp_path / "a.png", data), ROUGH)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_of_16_bit_is_scaled_and_composited(tmp_path: Path, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    light = deep / 65535
    expected = light[..., :-1] * light[..., -1:] if channels in (2, 4) else light
    image = read(tmp_path / "a.png", bytes(imagecodecs.png_encode(deep if channels > 1 else deep[..., 0])))
    assert np.abs(image - 255 * expected).max() <= 0.5001


# BMP


def bmp(
    bits: int, rows: bytes, *, header: int = 40, masks: tuple[int, ...] = (), palette: bytes = b"", **wrong: int
) -> bytes:
    width, height = ROUGH.shape[1], ROUGH.shape[0]
    if header == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, 3 if masks else 0, 0, 0, 0, 0, 0)
        fields = struct.pack(f"<{len(masks)}I", *masks)
        head += fields if header == 40 else fields.ljust(header - 40, b"\0")
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", wrong.get("size", start + len(rows)), 0, 0, start) + head + palette + rows


@pytest.mark.parametrize("header", [40, 56, 108, 124])
@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, (0xF800, 0x7E0, 0x1F)), (16, (0x7C00, 0x3E0, 0x1F)), (16, (0xF00, 0xF0, 0xF)), (16, (0x1F, 0x7E0, 0xF800)),
        (32, (0xFF0000, 0xFF00, 0xFF)), (32, (0xFF, 0xFF00, 0xFF0000)), (32, (0x3FF00000, 0xFFC00, 0x3FF)),
    ],
)  # fmt: skip
def test_bit_fields_are_taken_apart_as_the_header_says(
    tmp_path: Path, header: int, bits: int, masks: tuple[int, ...]
) -> None:
    packed, expected = np.zeros(ROUGH.shape[:2], dtype=np.uint32), []
    for channel, mask in enumerate(masks):
        low = mask & -mask
        levels = np.rint(ROUGH[..., channel] / 255 * (mask // low)).astype(np.uint32)
        packed |= levels * np.uint32(low)
        expected.append(levels * 255 / (mask // low))
    rows = np.flipud(packed).astype(f"<u{bits // 8}").tobytes()
    image = read(tmp_path / "a.bmp", bmp(bits, rows, header=header, masks=masks))
    assert np.abs(image - np.stack(expected, axis=-1)).max() <= 0.5001


@pytest.mark.parametrize("header", [12, 40, 52, 56, 64, 108, 124])
def test_every_age_of_header_keeps_its_palette(tmp_path: Path, header: int) -> None:
    palette = np.random.default_rng(2).integers(0, 256, (256, 3), dtype=np.uint8)
    stored = palette[:, ::-1] if header == 12 else np.insert(palette[:, ::-1], 3, 0, axis=1)
    data = bmp(8, np.flipud(ROUGH[..., 0]).tobytes(), header=header, palette=stored.tobytes())
    np.testing.assert_array_equal(read(tmp_path / "a.bmp", data), palette[ROUGH[..., 0]])


@pytest.mark.parametrize("size", [0, 30, 10**8])
def test_a_wrong_size_in_a_bmp_does_no_harm_where_all_pixels_are_there(tmp_path: Path, size: int) -> None:
    rows = np.flipud(ROUGH[..., ::-1]).tobytes()
    np.testing.assert_array_equal(read(tmp_path / "a.bmp", bmp(24, rows, size=size)), ROUGH)
    with pytest.raises(ImageError, match="truncated"):
        read(tmp_path / "a.bmp", bmp(24, rows[:-5], size=size))


# Others


@pytest.mark.parametrize(
    ("kind", "suffix", "options"),
    [
        ("GIF", ".gif", {}), ("JPEG2000", ".jp2", {"irreversible": False}), ("TGA", ".tga", {}),
        ("TGA", ".tga", {"compression": "tga_rle"}), ("PPM", ".ppm", {}), ("JPEG", ".jfif", {}),
    ],
)  # fmt: skip
def test_other_formats_are_read_whole_or_not_at_all(
    tmp_path: Path, kind: str, suffix: str, options: dict[str, Any]
) -> None:
    picture = Image.fromarray(ROUGH).quantize(64).convert("RGB") if kind == "GIF" else Image.fromarray(ROUGH)
    data = encoded(kind, picture, **options)
    assert np.abs(read(tmp_path / f"a{suffix}", data).astype(int) - np.asarray(picture)).mean() < (
        60 if kind == "JPEG" else 0.01
    )
    for share in (0.3, 0.7, 0.98):
        with pytest.raises(ImageError):
            read(tmp_path / f"a{suffix}", data[: int(len(data) * share)])


def test_jpeg_2000_of_16_bit_and_avif_are_read(tmp_path: Path) -> None:
    deep = bytes(imagecodecs.jpeg2k_encode(ROUGH.astype(np.uint16) * 257))
    np.testing.assert_array_equal(read(tmp_path / "a.jp2", deep), ROUGH)
    flat = Image.new("RGB", (32, 24), (200, 30, 60))
    assert np.abs(read(tmp_path / "a.avif", encoded("AVIF", flat)).astype(int) - (200, 30, 60)).max() <= 4


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"), (b"\xff\x0a\xfa\x1f", "JPEG XL"), (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\1", "Photoshop"), (b"<?xml version='1.0'?>\n<svg>", "SVG"), (bytes(128) + b"DICM", "DICOM"),
    ],
)  # fmt: skip
def test_known_formats_that_cannot_be_read_are_named_with_what_would_be_right(
    tmp_path: Path, start: bytes, name: str
) -> None:
    with pytest.raises(ImageError, match=rf"a\.jpg: {name} files cannot be read; convert it to PNG, JPEG or TIFF"):
        read(tmp_path / "a.jpg", start + bytes(100))
