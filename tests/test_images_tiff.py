"""TIFF in all its kinds: what is seen follows from the numbers that were written and from what the tags mean."""

import itertools
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from uflow_cli import images
from uflow_cli.errors import ImageError

SHAPE = (37, 50)
TYPES: dict[str, tuple[type, int]] = {
    "1": (np.uint8, 1), "2": (np.uint8, 2), "4": (np.uint8, 4), "8": (np.uint8, 8), "10": (np.uint16, 10),
    "12": (np.uint16, 12), "14": (np.uint16, 14), "16": (np.uint16, 16), "f16": (np.float16, 0),
    "f32": (np.float32, 0), "f64": (np.float64, 0),
}  # fmt: skip
# photometric, samples, index of an alpha channel that is not multiplied in (or -1), extrasamples
LOOKS: dict[str, tuple[str, int, int, tuple[str, ...]]] = {
    "white is zero": ("miniswhite", 1, -1, ()),
    "black is zero": ("minisblack", 1, -1, ()),
    "grey + alpha": ("minisblack", 2, 1, ("unassalpha",)),
    "grey + something": ("minisblack", 2, -1, ("unspecified",)),
    "rgb": ("rgb", 3, -1, ()),
    "rgb + alpha": ("rgb", 4, 3, ("unassalpha",)),
    "rgb + alpha multiplied in": ("rgb", 4, -1, ("assocalpha",)),
    "cmyk": ("separated", 4, -1, ()),
}
Case = tuple[str, str, str, str, str | None, bool, str]
LAYOUTS = ("strips", "short strips", "tiles", "small tiles")
COMPRESSIONS = (None, "lzw", "deflate", "packbits", "zstd", "lzma")


def matrix() -> list[Case]:
    """Some 600 files (bits, look, planar, layout, compression, predictor, byte order): all pairs many times."""
    every = itertools.product(TYPES, LOOKS, ("contig", "separate"), LAYOUTS, COMPRESSIONS, (False, True), ("<", ">"))
    return [case for number, case in enumerate(every) if exists(case) and (number % 19 in (0, 4) or is_packed(case))]


def is_packed(case: Case) -> bool:
    return TYPES[case[0]][1] not in (0, 8, 16)


def exists(case: Case) -> bool:
    """Whether tifffile writes such a file: packed bits uncompressed only, and wrongly in the big order above 8 bit."""
    bits, look, planar, layout, compression, predictor, order = case
    if (planar == "separate" and LOOKS[look][1] == 1) or (predictor and compression in (None, "packbits")):
        return False
    packed = TYPES[bits][1] not in (0, 8, 16)
    return not packed or (compression is None and not layout.endswith("tiles") and (order == "<" or TYPES[bits][1] < 8))


def numbers(bits: str, samples: int) -> NDArray[Any]:
    """Smooth and rough values (H, W, samples) over the whole range."""
    dtype, depth = TYPES[bits]
    shares = np.random.default_rng(samples).random((*SHAPE, samples))
    shares[:10] = np.linspace(0, 1, SHAPE[1])[:, None]
    return shares.astype(dtype) if depth == 0 else np.rint(shares * (2**depth - 1)).astype(dtype)


def seen(values: NDArray[Any], bits: str, look: str) -> NDArray[np.float64]:
    """The picture that a person sees, (H, W, 3) in 0..255, from the meaning of the tags."""
    depth = TYPES[bits][1]
    light = values.astype(np.float64) / (2**depth - 1 if depth else 1)
    photometric, samples, alpha, _ = LOOKS[look]
    if photometric == "separated":
        return 255 * (1 - light[..., :3]) * (1 - light[..., 3:])
    colour = light[..., :3] if samples >= 3 else light[..., :1]
    colour = 1 - colour if photometric == "miniswhite" else colour
    colour = colour * light[..., alpha, None] if alpha >= 0 else colour
    return 255 * np.broadcast_to(colour, (*colour.shape[:2], 3))


def write(path: Path, values: NDArray[Any], case: Case) -> None:
    bits, look, planar, layout, compression, predictor, order = case
    photometric, samples, _, extra = LOOKS[look]
    data = values[..., 0] if samples == 1 else values if planar == "contig" else np.moveaxis(values, -1, 0)
    options: dict[str, Any] = {"rowsperstrip": 7} if layout == "short strips" else {}
    if layout.endswith("tiles"):
        options = {"tile": (16, 32) if layout == "tiles" else (16, 16)}
    if TYPES[bits][1] not in (0, 8, 16):
        options["bitspersample"] = TYPES[bits][1]
    tifffile.imwrite(
        path, data, byteorder=order, photometric=photometric, planarconfig=planar if samples > 1 else None,
        compression=compression, predictor=predictor or None, extrasamples=extra or None, metadata=None, **options,
    )  # fmt: skip


@pytest.mark.parametrize("bits", TYPES)
def test_a_tiff_is_seen_as_its_tags_say(tmp_path: Path, bits: str) -> None:
    cases = [case for case in matrix() if case[0] == bits]
    assert len(cases) >= 20
    path = tmp_path / "a.tif"
    for case in cases:
        values = numbers(bits, LOOKS[case[1]][1])
        write(path, values, case)
        difference = images.read_image(path) - seen(values, bits, case[1])
        assert np.abs(difference).max() <= 0.5 + 1e-3, case


def saved(path: Path, values: NDArray[Any], **options: Any) -> tuple[bytearray, int, int]:
    """Write a TIFF; returns its bytes and where its last strip or tile begins and ends."""
    tifffile.imwrite(path, values, metadata=None, **options)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        start, length = page.dataoffsets[-1], page.databytecounts[-1]
    return bytearray(path.read_bytes()), start, start + length


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_what_pillow_writes_is_what_pillow_reads(tmp_path: Path, mode: str) -> None:
    shares = np.linspace(0, 1, 60, dtype=np.float32) * np.ones((40, 1), dtype=np.float32)
    pictures = {"I;16": Image.fromarray(np.rint(shares * 65535).astype(np.uint16)), "F": Image.fromarray(shares)}
    picture = pictures.get(mode) or Image.fromarray(np.dstack([np.uint8(shares * 255)] * 3)).convert(mode)
    picture.save(tmp_path / "a.tif")
    expected = {"I;16": shares * 255, "F": shares * 255}.get(mode, np.asarray(picture.convert("RGB"))[..., 0])
    assert np.abs(images.read_image(tmp_path / "a.tif")[..., 0] - expected).max() <= (1 if mode == "YCbCr" else 0.5001)


@pytest.mark.parametrize("depth", [1, 4, 8])
@pytest.mark.parametrize("shift", [False, True])
def test_a_palette_keeps_its_colours(tmp_path: Path, depth: int, shift: bool) -> None:
    colours = np.random.default_rng(depth).integers(0, 256, (3, 2**depth))
    indices = np.random.default_rng(1).integers(0, 2**depth, SHAPE).astype(np.uint8)
    table = (colours << 8 if shift else colours * 257).astype(np.uint16)
    tags = [(320, 3, table.size, table.ravel(), True)]
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="minisblack", bitspersample=depth, extratags=tags)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages.first.tags[262].overwrite(3)  # tifffile writes palettes of 8 and 16 bit only
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.tif"), np.moveaxis(colours, 0, -1)[indices])


@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits", "zstd", "lzma", "webp", "jpeg", "jpeg2000"])
@pytest.mark.parametrize("layout", [{"rowsperstrip": 16}, {"tile": (32, 32)}])
def test_a_damaged_strip_or_tile_is_named(
    tmp_path: Path, compression: str, layout: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    rough = np.random.default_rng(0).integers(0, 30, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    whole, start, end = saved(path, rough, photometric="rgb", compression=compression, **layout)
    assert images.read_image(path).shape == rough.shape
    unchecked = compression == "zstd"  # it holds nothing to notice a wrong middle by
    for first in (start,) if unchecked else (start, (start + end) // 2):
        path.write_bytes(whole[:first] + bytes(end - first) + whole[end:])
        with pytest.raises(ImageError, match=r"a\.tif: the TIFF file (is damaged|cannot be decoded)"):
            images.read_image(path)
    assert capfd.readouterr().err == ""


def with_other_data(whole: bytearray, start: int, end: int, data: bytes) -> bytes:
    """A file of one strip whose data is `data`, which stands at its end."""
    length = whole.index(struct.pack("<HHI", 279, 4, 1)) + 8
    place = whole.index(struct.pack("<HHI", 273, 4, 1)) + 8
    made = bytearray(whole[:start] + whole[end:])
    struct.pack_into("<I", made, place, len(made))
    struct.pack_into("<I", made, length, len(data))
    return bytes(made) + data


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zstd"])
def test_no_more_is_unpacked_than_the_tags_promise(tmp_path: Path, compression: str) -> None:
    path, n_bytes = tmp_path / "a.tif", 20_000_000
    whole, start, end = saved(path, np.zeros((16, 16), np.uint8), compression=compression)
    runs = b"\x81\0" * (n_bytes // 128)  # PackBits' own encoder takes minutes
    packed = runs if compression == "packbits" else getattr(imagecodecs, f"{compression}_encode")(bytes(n_bytes))
    path.write_bytes(with_other_data(whole, start, end, packed))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"a\.tif: the TIFF file (is damaged \(part 1|cannot be decoded)"):
            images.read_image(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < n_bytes / 4 + 3 * len(packed)


def test_a_strip_tile_or_pixel_larger_than_a_picture_may_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    whole, start, end = saved(path, np.zeros((16, 16), np.uint8), compression="jpeg")
    path.write_bytes(with_other_data(whole, start, end, imagecodecs.jpeg8_encode(np.zeros((2000, 2000), np.uint8))))
    with pytest.raises(ImageError, match="it has 2000 x 2000 pixels"):
        images.read_image(path)
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), tile=(4096, 4096), compression="zstd")
    with pytest.raises(ImageError, match="it has 4096 x 4096 pixels"):
        images.decode_image(path.read_bytes(), path=path, largest=1_000_000)
    tifffile.imwrite(path, np.zeros((30, 30, 100), np.uint8), photometric="rgb", planarconfig="contig")
    with pytest.raises(ImageError, match="its pixels have 100 channels"):
        images.decode_image(path.read_bytes(), path=path, largest=1_000)


@pytest.mark.parametrize(
    ("dtype", "options", "reason"),
    [
        (np.int16, {}, "its pixels are int16"),
        (np.uint32, {}, "its pixels are uint32"),
        (np.complex64, {}, "its pixels are complex64"),
        (np.uint8, {"photometric": "cielab"}, "its colours are CIELAB"),
        (np.uint16, {"photometric": "cfa", "extratags": [(33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True)]},
         "camera's raw file"),
        (np.uint8, {"photometric": "rgb", "compression": "jpegxr"}, "its compression JPEGXR"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_unsupported_and_not_damaged(
    tmp_path: Path, dtype: type, options: dict[str, Any], reason: str
) -> None:
    deep = options.get("photometric") in ("cielab", "rgb")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32, 3) if deep else (32, 32), dtype=dtype), **options)
    with pytest.raises(ImageError, match=reason) as raised:
        images.read_image(tmp_path / "a.tif")
    assert "damaged" not in str(raised.value)
    assert any(word in str(raised.value) for word in ("expected", "save it", "develop it"))


@pytest.mark.parametrize("compression", ["tiff_lzw", "group3", "group4"])
def test_wrong_codes_that_are_valid_are_mostly_noticed(tmp_path: Path, compression: str) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(ndimage.uniform_filter(rng.random((120, 160)), 9) > 0.5)
    picture.convert("L" if compression == "tiff_lzw" else "1").save(path := tmp_path / "a.tif", compression=compression)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        start, length = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    noticed = 0
    for place in rng.integers(start + length // 4, start + length * 3 // 4, 30):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            images.read_image(path)
        except ImageError:
            noticed += 1
    assert noticed >= 20


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zstd"])
def test_a_last_strip_may_be_short_or_filled_up(tmp_path: Path, compression: str) -> None:
    rough = np.random.default_rng(0).integers(0, 30, (40, 30, 3), dtype=np.uint8)
    for planar in ("contig", "separate"):
        stored = rough if planar == "contig" else np.moveaxis(rough, -1, 0)
        options: dict[str, Any] = {"photometric": "rgb", "planarconfig": planar, "compression": compression}
        tifffile.imwrite(tmp_path / "a.tif", stored, rowsperstrip=16, **options)
        np.testing.assert_array_equal(images.read_image(tmp_path / "a.tif"), rough)


def test_a_last_strip_may_be_filled_up(tmp_path: Path) -> None:
    rough = np.random.default_rng(0).integers(0, 30, (48, 30, 3), dtype=np.uint8)
    whole, _, _ = saved(tmp_path / "a.tif", rough, photometric="rgb", compression="lzw", rowsperstrip=16)
    height = struct.pack("<HHII", 257, 4, 1, 48)
    assert height in whole
    (tmp_path / "a.tif").write_bytes(whole.replace(height, struct.pack("<HHII", 257, 4, 1, 40)))
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.tif"), rough[:40])


def test_every_cut_of_a_tiff_is_noticed(tmp_path: Path) -> None:
    rough = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    for compression in (None, "lzw"):
        whole, _, _ = saved(tmp_path / "a.tif", rough, photometric="rgb", compression=compression)
        for length in range(0, len(whole), 7):
            (tmp_path / "a.tif").write_bytes(whole[:length])
            with pytest.raises(ImageError):
                images.read_image(tmp_path / "a.tif")


def test_masks_may_be_deep_inverted_or_of_few_bits(tmp_path: Path) -> None:
    marked = np.arange(60).reshape(6, 10) % 7 == 0
    tifffile.imwrite(tmp_path / "one.tif", marked, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "four.tif", marked.astype(np.uint8) * 3, bitspersample=4)
    tifffile.imwrite(tmp_path / "deep.tif", ~(marked.astype(np.uint16) * 9), photometric="miniswhite")
    np.testing.assert_array_equal(images.read_mask(tmp_path / "one.tif"), ~marked)
    np.testing.assert_array_equal(images.read_mask(tmp_path / "four.tif"), marked)
    np.testing.assert_array_equal(images.read_mask(tmp_path / "deep.tif"), marked)
