"""The promises of `uflow_cli.images` about files and pictures. Pillow and tifffile write what OpenCV cannot."""

import contextlib
import errno
import io
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from uflow_cli import images
from uflow_cli.errors import DatasetError, ImageError, UflowError
from uflow_cli.images.formats import exif_orientation

ROWS, COLUMNS = np.mgrid[:40, :60]
RGB = np.stack([COLUMNS * 4, ROWS * 6, (ROWS + COLUMNS) * 2], axis=-1).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Reading


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".png", "PNG"), (".bmp", "BMP"), (".tif", "TIFF"), (".tiff", "TIFF"), (".webp", "WEBP")]
)
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    path = saved(tmp_path / f"a{suffix}", encoded(Image.fromarray(RGB), kind, **options))
    image = images.read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, RGB)


def test_jpeg_keeps_colours_in_the_order_red_green_blue(tmp_path: Path) -> None:
    red = np.full((16, 16, 3), (200, 30, 60), dtype=np.uint8)
    path = saved(tmp_path / "a.JPG", encoded(Image.fromarray(red), "JPEG", quality=95))
    assert np.abs(images.read_image(path).astype(int) - red).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_grey_is_repeated_to_three_channels(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "a", encoded(Image.fromarray(RGB[..., 0]), kind))
    np.testing.assert_array_equal(images.read_image(path), np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_pictures_become_black_and_white(tmp_path: Path, kind: str) -> None:
    black_and_white = RGB[..., 0] > 100
    path = saved(tmp_path / "a", encoded(Image.fromarray(black_and_white), kind))
    np.testing.assert_array_equal(images.read_image(path)[..., 1], black_and_white * 255)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_palettes_are_looked_up(tmp_path: Path, kind: str) -> None:
    indexed = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE)
    path = saved(tmp_path / "a", encoded(indexed, kind))
    np.testing.assert_array_equal(images.read_image(path), np.asarray(indexed.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_is_scaled_and_not_cut(tmp_path: Path, kind: str) -> None:
    deep = np.array([[0, 257, 128 * 257, 65535, 300, 65406, 65407]], dtype=np.uint16)
    path = saved(tmp_path / "a", encoded(Image.fromarray(deep), kind))
    assert images.read_image(path)[0, :, 0].tolist() == [0, 1, 128, 255, 1, 254, 255]


def test_sixteen_bit_colour_tiff_is_scaled_in_the_right_order(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype(np.uint16) * 257, photometric="rgb")
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.tif"), RGB)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_tiff_from_0_to_1_is_scaled(tmp_path: Path, dtype: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", (RGB / 255).astype(dtype), photometric="rgb")
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.tif"), RGB)


@pytest.mark.parametrize("value", [1.01, -0.01, np.nan, np.inf])
def test_float_tiff_beyond_0_to_1_is_refused_and_not_guessed(tmp_path: Path, value: float) -> None:
    pixels = np.full((8, 8), 0.5, dtype=np.float32)
    pixels[3, 3] = value
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(ImageError, match=r"a\.tif: its float pixels go from .*expected floats in 0\.\.1"):
        images.read_image(tmp_path / "a.tif")


def test_signed_pixels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 8), -3, dtype=np.int16))
    with pytest.raises(ImageError, match="its pixels are int16"):
        images.read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_on_black(tmp_path: Path, kind: str) -> None:
    alpha = (COLUMNS * 4).astype(np.uint8)
    picture = Image.fromarray(np.dstack([RGB, alpha]))
    path = saved(
        tmp_path / "a", encoded(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    )
    expected = RGB * (alpha[..., None] / 255)
    assert np.abs(images.read_image(path) - expected).max() <= 1


def test_sixteen_bit_alpha_is_composited_on_black(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 6, 0, 0, 0)
    pixel = b"\0" + struct.pack(">4H", 65535, 32768, 0, 32768)
    blocks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixel)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in blocks]
    path = saved(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert images.read_image(path)[0, 0].tolist() == [128, 64, 0]


def test_transparent_palette_entries_are_black(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.full((8, 8, 3), 90, dtype=np.uint8)).convert("P", palette=Image.Palette.ADAPTIVE)
    index = indexed.getpixel((0, 0))
    path = saved(tmp_path / "a.png", encoded(indexed, "PNG", transparency=index))
    assert not images.read_image(path).any()


def test_cmyk_jpeg_is_shown_in_colour(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    path = saved(tmp_path / "a.jpg", encoded(cyan, "JPEG", quality=95))
    assert np.abs(images.read_image(path)[8, 8].astype(int) - (0, 255, 255)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    transposed = [
        lambda a: a,
        np.fliplr,
        lambda a: np.rot90(a, 2),
        np.flipud,
        lambda a: np.swapaxes(a, 0, 1),
        lambda a: np.rot90(a, -1),
        lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
        np.rot90,
    ]
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    path = saved(tmp_path / "a", encoded(Image.fromarray(RGB), kind, exif=exif, **options))
    expected = transposed[orientation - 1](RGB)
    image = images.read_image(path)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= (8 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_rotation_is_applied_to_pictures_with_alpha_too(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    picture = Image.fromarray(np.dstack([RGB, np.full(RGB.shape[:2], 255, dtype=np.uint8)]))
    path = saved(tmp_path / "a.png", encoded(picture, "PNG", exif=exif))
    np.testing.assert_array_equal(images.read_image(path), np.rot90(RGB, {3: 2, 6: -1}[orientation]))


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"II*\0", b"MM\0*", b""]))
def test_any_exif_block_is_read_or_ignored(block: bytes, start: bytes) -> None:
    assert 1 <= exif_orientation(start + block) <= 8


def test_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", encoded(Image.fromarray(RGB), "PNG"))
    np.testing.assert_array_equal(images.read_image(path), RGB)


@pytest.mark.parametrize(
    "name", ["with space.png", "façade 傷 Δ.png", "semi;colon'quote\".png", "-dash.png", "100%.png"]
)
def test_odd_names_can_be_written_and_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "dossier été" / name
    images.write_png(path, RGB)
    np.testing.assert_array_equal(images.read_image(path), RGB)


# Damage

WHOLE = {
    "baseline.jpg": encoded(Image.fromarray(NOISE), "JPEG"),
    "progressive.jpg": encoded(Image.fromarray(NOISE), "JPEG", progressive=True),
    "restart.jpg": encoded(Image.fromarray(NOISE), "JPEG", restart_marker_blocks=1),
    "noise.png": encoded(Image.fromarray(NOISE), "PNG"),
    "flat.png": encoded(Image.new("RGB", (300, 200)), "PNG"),
    "noise.bmp": encoded(Image.fromarray(NOISE), "BMP"),
    "noise.webp": encoded(Image.fromarray(NOISE), "WEBP"),
    "exact.webp": encoded(Image.fromarray(NOISE), "WEBP", lossless=True),
    "raw.tif": encoded(Image.fromarray(NOISE), "TIFF"),
    "lzw.tif": encoded(Image.fromarray(NOISE), "TIFF", compression="tiff_lzw"),
    "deflate.tif": encoded(Image.fromarray(NOISE), "TIFF", compression="tiff_adobe_deflate"),
}


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("name", WHOLE)
def test_a_truncated_file_is_an_error_and_not_half_a_picture(
    tmp_path: Path, name: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = WHOLE[name]
    assert images.read_image(saved(tmp_path / name, whole)).shape == (
        (200, 300, 3) if name == "flat.png" else NOISE.shape
    )
    path = saved(tmp_path / name, whole[: max(1, min(int(len(whole) * share), len(whole) - 1))])
    with pytest.raises(ImageError) as raised:
        images.read_image(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert capfd.readouterr().err == ""


def test_every_cut_of_a_small_jpeg_and_png_is_noticed(tmp_path: Path) -> None:
    small = Image.fromarray(NOISE[:16, :16])
    for kind in ("JPEG", "PNG"):
        whole = encoded(small, kind)
        for length in range(1, len(whole)):
            with pytest.raises(ImageError):
                images.read_image(saved(tmp_path / "a", whole[:length]))
        assert images.read_image(saved(tmp_path / "a", whole)).shape == (16, 16, 3)


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_noticed(tmp_path: Path) -> None:
    thumbnail = encoded(Image.fromarray(NOISE[:8, :8]), "JPEG")  # holds an end-of-image marker of its own
    whole = encoded(Image.fromarray(NOISE), "JPEG")
    block = b"Exif\0\0" + thumbnail
    whole = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + whole[2:]
    assert images.read_image(saved(tmp_path / "a.jpg", whole)).shape == NOISE.shape
    with pytest.raises(ImageError, match="cut short"):
        images.read_image(saved(tmp_path / "a.jpg", whole[: len(whole) * 2 // 3]))


def test_a_jpeg_whose_tail_was_never_written_is_noticed(tmp_path: Path) -> None:
    whole = WHOLE["baseline.jpg"]
    half = len(whole) // 2
    with pytest.raises(ImageError, match="end-of-image"):
        images.read_image(saved(tmp_path / "a.jpg", whole[:half] + bytes(len(whole) - half)))


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", WHOLE["baseline.jpg"] + b"maker's notes" * 20)
    assert images.read_image(path).shape == NOISE.shape


def test_a_flipped_byte_in_a_png_is_noticed(tmp_path: Path) -> None:
    data = bytearray(WHOLE["noise.png"])
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match="checksum of its IDAT chunk"):
        images.read_image(saved(tmp_path / "a.png", bytes(data)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, world", "not an image"),
        (b"GIF89a" + bytes(50), "not an image"),
        (b"\xff\xd8\xff\xd9", "no picture data"),
        (b"BM" + bytes(100), "cannot be decoded"),
        (b"II*\0" + bytes(100), "cannot be decoded"),
    ],
)
def test_what_is_not_an_image_is_an_error_that_says_what_would_be(tmp_path: Path, data: bytes, message: str) -> None:
    path = saved(tmp_path / "a.png", data)
    with pytest.raises(ImageError, match=message) as raised:
        images.read_image(path)
    assert str(path) in str(raised.value)
    assert any(word in str(raised.value) for word in ("expected", "again"))


def test_missing_files_and_folders_are_errors_that_name_them(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        images.read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder"):
        images.read_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        images.read_image(saved(tmp_path / "file", b"x") / "inside.png")


@settings(deadline=None, max_examples=60)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\0\0\0\0WEBP"])
)
def test_any_bytes_are_an_image_or_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    path = saved(tmp_path_factory.getbasetemp() / "any", start + data)
    with contextlib.suppress(ImageError):
        assert images.read_image(path).shape[2] == 3


# Masks


@pytest.mark.parametrize("value", [1, 7, 255])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_every_non_zero_pixel_of_a_mask_is_a_defect(tmp_path: Path, kind: str, value: int) -> None:
    marked = RGB[..., 0] > 100
    path = saved(tmp_path / "a", encoded(Image.fromarray(marked.astype(np.uint8) * np.uint8(value)), kind))
    mask = images.read_mask(path)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, marked)


def test_masks_of_other_depths_are_read(tmp_path: Path) -> None:
    marked = RGB[..., 0] > 100
    tifffile.imwrite(tmp_path / "deep.tif", marked.astype(np.uint16))
    tifffile.imwrite(tmp_path / "float.tif", marked.astype(np.float32) * 0.001)
    images.write_png(tmp_path / "colour.png", np.where(marked[..., None], np.uint8([0, 0, 9]), np.uint8(0)))
    for name in ("deep.tif", "float.tif", "colour.png"):
        np.testing.assert_array_equal(images.read_mask(tmp_path / name), marked, err_msg=name)


def test_a_level_divides_a_noisy_mask_whatever_its_depth(tmp_path: Path) -> None:
    levels = np.array([[0, 3, 127, 128, 255]], dtype=np.uint8)
    images.write_png(tmp_path / "a.png", levels)
    tifffile.imwrite(tmp_path / "a.tif", levels.astype(np.uint16) * 257)
    for name in ("a.png", "a.tif"):
        assert images.read_mask(tmp_path / name, above=127)[0].tolist() == [False, False, False, True, True]


def test_a_jpeg_mask_does_not_grow_by_its_noise(tmp_path: Path) -> None:
    marked = (ROWS - 20) ** 2 + (COLUMNS - 30) ** 2 < 100
    data = encoded(Image.fromarray(marked.astype(np.uint8) * np.uint8(255)), "JPEG", quality=80)
    mask = images.read_mask(saved(tmp_path / "a.jpg", data))
    assert np.mean(mask != marked) < 0.01


def test_what_is_transparent_in_a_mask_is_no_defect(tmp_path: Path) -> None:
    alpha = np.where(COLUMNS < 10, 255, 0).astype(np.uint8)
    white = np.full((*alpha.shape, 3), 255, dtype=np.uint8)
    path = saved(tmp_path / "a.png", encoded(Image.fromarray(np.dstack([white, alpha])), "PNG"))
    np.testing.assert_array_equal(images.read_mask(path), alpha > 0)


# Listing


def test_images_are_listed_in_natural_order_without_the_rest(tmp_path: Path) -> None:
    for name in ("part10.png", "part2.PNG", "Part1.jpg", "notes.txt", ".hidden.png", "mask.npy", "a.webp", "b.tiff"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inside.bmp").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "c.png").touch()
    assert [path.name for path in images.list_images(tmp_path)] == [
        "a.webp", "b.tiff", "Part1.jpg", "part2.PNG", "part10.png",
    ]  # fmt: skip
    listed = [path.relative_to(tmp_path).as_posix() for path in images.list_images(tmp_path, recursive=True)]
    assert "folder.png/inside.bmp" in listed
    assert len(listed) == 6


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab019Ⅷ²", min_size=1, max_size=5), max_size=6))
def test_natural_order_compares_any_names(names: list[str]) -> None:
    paths = [Path(name) for name in names]
    assert sorted(paths, key=images.natural_order) == sorted(sorted(paths), key=images.natural_order)


def test_a_listing_that_cannot_be_is_an_error_that_says_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"holds no images; expected files ending in \.jpg, .*\.webp"):
        images.list_images(tmp_path)
    with pytest.raises(DatasetError, match="gone: no such folder"):
        images.list_images(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"notes\.txt: not a folder"):
        images.list_images(tmp_path / "notes.txt")


# Writing


@pytest.mark.parametrize(
    "array", [RGB, RGB[..., 0], RGB[..., 0] > 100, RGB[::-1, ::2]], ids=["rgb", "grey", "bool", "view"]
)
def test_what_is_written_is_what_is_read(tmp_path: Path, array: NDArray[Any]) -> None:
    path = tmp_path / "new" / "folder" / "a.png"
    images.write_png(path, array)
    expected = array * np.uint8(255) if array.dtype == np.bool_ else array
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    np.testing.assert_array_equal(images.read_image(path), expected)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    images.write_png(tmp_path / "a.png", RGB)
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.png"
    images.write_png(path, RGB)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "replace":
        monkeypatch.setattr(os, "replace", full)
    else:
        opened = Path.open

        def open_on_a_full_disk(self: Path, *args: Any, **options: Any) -> Any:
            file = opened(self, *args, **options)
            return type(
                "Full", (), {"__enter__": lambda s: s, "__exit__": lambda *_: file.close(), "writelines": full}
            )()

        monkeypatch.setattr(Path, "open", open_on_a_full_disk)
    with pytest.raises(UflowError, match=r"a\.png: cannot be written \(No space left on device\)"):
        images.write_png(path, NOISE)
    monkeypatch.undo()
    np.testing.assert_array_equal(images.read_image(path), RGB)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_a_path_through_a_file_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path / "file", b"")
    with pytest.raises(ImageError, match="cannot be written"):
        images.write_png(tmp_path / "file" / "a.png", RGB)


@pytest.mark.parametrize("array", [RGB / 255, RGB[..., :2], np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)])
def test_what_no_png_can_hold_is_a_programming_mistake(array: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        images.encode_png(array)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7, 3), (40, 1, 4), (700, 900), (700, 900, 3)])
def test_a_png_holds_what_was_written_in_however_many_strips(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mask = array.reshape(*shape[:2], -1)[..., 0] > 127
    for strip_pixels in (1 << 20, 5000):
        monkeypatch.setattr(images.png, "STRIP_PIXELS", strip_pixels)
        with Image.open(io.BytesIO(images.encode_png(array))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), array)
        with Image.open(io.BytesIO(images.encode_png(mask))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), mask * np.uint8(255))


@pytest.mark.parametrize(("shape", "size"), [((5, 7), (90, 41)), ((1, 1), (30, 30)), ((64, 3), (20, 200))])
def test_a_map_is_resized_in_strips_as_it_is_whole(
    shape: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    whole, mask = images.resize_map(values, size), images.resize_mask(values > 0.5, size)
    monkeypatch.setattr(images.drawing, "STRIP_PIXELS", 700)
    strips = {rows.start: strip for rows, strip in images.resize_map_in_strips(values, size)}
    assert len(strips) > 1
    np.testing.assert_allclose(np.concatenate(list(strips.values())), whole, atol=1e-6)
    np.testing.assert_array_equal(images.resize_mask(values > 0.5, size), mask)


def test_two_threads_may_write_one_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    threads = [threading.Thread(target=images.write_png, args=(path, picture)) for picture in (RGB, NOISE) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert images.read_image(path).shape in (RGB.shape, NOISE.shape)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


# Resizing


@pytest.mark.parametrize("size", [(14, 14), (7, 31), (56, 56), (40, 60), (1, 1), (100, 20)])
def test_maps_are_resized_as_torch_does_without_aligned_corners(size: tuple[int, int]) -> None:
    values = np.random.default_rng(1).normal(size=(28, 37)).astype(np.float32)
    tensor = torch.from_numpy(values)[None, None]
    expected = torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    resized = images.resize_map(values, size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=2e-5)


@pytest.mark.parametrize("size", [(20, 30), (256, 256), (33, 17)])
def test_masks_are_resized_bilinearly_and_cut_above_one_half(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(2).random((40, 60)) > 0.6
    tensor = torch.from_numpy(mask.astype(np.float32))[None, None]
    expected = torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy() > 0.5
    resized = images.resize_mask(mask, size)
    assert resized.dtype == np.bool_
    np.testing.assert_array_equal(resized, expected)


def test_exactly_one_half_is_not_a_defect() -> None:
    assert not images.resize_mask(np.array([[True, False]]), (1, 1)).any()


def test_an_image_is_shrunk_to_the_means_of_its_parts() -> None:
    noise = NOISE[:64, :96]
    means = noise.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(images.resize_image(noise, (16, 24)) - means).max() <= 0.51


@pytest.mark.parametrize("size", [(10, 200), (200, 10), (40, 60), (80, 120), (13, 17)])
def test_an_image_has_the_asked_size_and_keeps_flat_colours(size: tuple[int, int]) -> None:
    flat = np.full((40, 60, 3), (10, 100, 250), dtype=np.uint8)
    resized = images.resize_image(flat, size)
    assert resized.shape == (*size, 3)
    assert resized.dtype == np.uint8
    assert (resized == flat[0, 0]).all()


def test_resizing_never_hands_back_its_argument() -> None:
    image = RGB.copy()
    images.resize_image(image, image.shape[:2])[:] = 0
    np.testing.assert_array_equal(image, RGB)


# Drawing


def test_an_outline_goes_around_the_mask_and_its_hole() -> None:
    mask = np.zeros((20, 20), dtype=np.bool_)
    mask[4:16, 5:15] = True
    mask[8:12, 8:12] = False
    polygons = images.outline(mask)
    assert len(polygons) == 2
    corners = max(polygons, key=np.ptp)
    assert corners.min(axis=0).tolist() == [5, 4]
    assert corners.max(axis=0).tolist() == [14, 15]
    assert images.outline(np.zeros((5, 5), dtype=np.bool_)) == []


def test_outlines_are_drawn_in_the_given_colour() -> None:
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    mask = np.zeros((20, 20), dtype=np.bool_)
    mask[4:16, 5:15] = True
    images.draw_polygons(image, images.outline(mask), colour=(1, 2, 3), thickness=1)
    assert image[4, 5].tolist() == [1, 2, 3]
    assert not image[10, 10].any()
    assert not image[0].any()


def test_the_colour_map_grows_brighter_and_is_red_green_blue() -> None:
    colours = images.colour_map(np.linspace(0, 1, 256, dtype=np.float32)[None])
    luminance = colours[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > -1).all()
    assert luminance[-1] > 230 > 5 > luminance[0]
    assert colours[0, 128, 0] > colours[0, 128, 2]  # inferno's middle is red
    odd = images.colour_map(np.array([[np.nan, -3.0, 7.0, np.inf]]))[0]
    np.testing.assert_array_equal(odd, colours[0][[0, 0, 255, 255]])
