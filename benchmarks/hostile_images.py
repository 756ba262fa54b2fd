"""Damage image files in every way that files are damaged, and read each: an image, or one line that says what is wrong.

    python benchmarks/hostile_images.py [--seed 0] [--workers 1]

A file that both uflow and Pillow read must show the same pixels. What counts as a fault is in `hostile.run_cases`: no
case may take more than a quarter of a GiB and eight bytes for each pixel that a file may claim, here 2 GiB in all.
"""

from __future__ import annotations

import argparse
import io
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from hostile import damaged, run_cases, told
from PIL import Image

from uflow_cli.images import read_image, read_mask

SIZE = (40, 56)
EXACT = ("PNG", "BMP", "GIF", "TGA", "PPM")  # formats whose decoders cannot differ
SUFFIXES = {
    "PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "GIF": ".gif", "WEBP": ".webp", "JPEG2000": ".jp2", "TGA": ".tga",
    "PPM": ".ppm", "AVIF": ".avif", "TIFF": ".tif",
}  # fmt: skip
Made = tuple[str, str, bytes]  # format, file name, content


def sound_files() -> Iterator[Made]:
    """Whole files of every format that is read and every mode that it has."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    colour[8:30, 8:40] = (200, 120, 40)
    picture = Image.fromarray(colour)
    alpha = picture.copy()
    alpha.putalpha(Image.fromarray(colour[..., 1]))
    modes = {
        "rgb": picture, "grey": picture.convert("L"), "bilevel": picture.convert("1"), "palette": picture.quantize(40),
        "alpha": alpha, "grey_alpha": alpha.convert("LA"), "ink": picture.convert("CMYK"),
        "deep": Image.fromarray(colour[..., 0].astype(np.uint16) * 257), "one": picture.resize((1, 1)),
        "line": picture.resize((1, 3000)), "row": picture.resize((3000, 1)),
    }  # fmt: skip
    for kind, suffix in SUFFIXES.items():
        for mode, image in modes.items():
            for number, options in enumerate(_options(kind)):
                if options.get("compression") == "jpeg" and mode not in ("rgb", "grey"):
                    continue
                file = io.BytesIO()
                try:
                    image.save(file, kind, **options)
                except (OSError, ValueError, SystemError, KeyError):  # a mode that the format does not have
                    continue
                yield kind, f"{mode}_{number}{suffix}", file.getvalue()
    frames = [picture.rotate(90 * i) for i in range(4)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        yield kind, f"frames{SUFFIXES[kind]}", file.getvalue()
    yield "PNG", "deep_colour.png", bytes(imagecodecs.png_encode(colour.astype(np.uint16) * 257))
    yield from _special_tiffs(colour)


def _options(kind: str) -> list[dict[str, Any]]:
    return {
        "JPEG": [{}, {"progressive": True}, {"quality": 30, "exif": _turned(6)}],
        "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"compression": "tiff_adobe_deflate"}],
        "WEBP": [{}, {"lossless": True}], "JPEG2000": [{"irreversible": False}], "PNG": [{}, {"exif": _turned(3)}],
        "TGA": [{}, {"compression": "tga_rle"}],
    }.get(kind, [{}])  # fmt: skip


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes()


def _special_tiffs(colour: np.ndarray) -> Iterator[Made]:
    real = colour.astype(np.float32) / 255
    for name, values in {
        "float": real, "nan": np.where(real > 0.9, np.nan, real), "inf": np.where(real > 0.9, np.inf, real),
        "above": real * 300, "half": real.astype(np.float16), "double": real.astype(np.float64),
        "signed": colour.astype(np.int16), "wide": colour.astype(np.uint32), "layers": np.stack([colour] * 3),
        "complex": colour[..., 0].astype(np.complex64),
        "deep_alpha": np.concatenate([colour, colour[..., :1]], 2).astype(np.uint16) * 257,
    }.items():  # fmt: skip
        for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True}):
            file = io.BytesIO()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of what may change in tifffile
                    tifffile.imwrite(file, values, **options)
            except (ValueError, TypeError, KeyError):
                continue
            yield "TIFF", f"{name}_{'_'.join(options)}.tif", file.getvalue()
    for extra in ("unassalpha", "assocalpha", "unspecified"):
        file = io.BytesIO()
        tifffile.imwrite(file, np.concatenate([colour, colour[..., :1]], 2), photometric="rgb", extrasamples=[extra])
        yield "TIFF", f"{extra}.tif", file.getvalue()


def bombs() -> Iterator[Made]:
    """Small files that claim to be large, and large pictures of one colour."""
    for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (0, 5), (5, 0), (60_000, 1), (1, 60_000)):
        for bits, colour in ((8, 2), (16, 2), (8, 3), (1, 0)):
            head = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, bits, colour, 0, 0, 0)
            palette = _chunk(b"PLTE", bytes(3)) if colour == 3 else b""
            body = _chunk(b"IDAT", zlib.compress(bytes(10_000_000), 9))
            data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + palette + body + _chunk(b"IEND", b"")
            yield "PNG", f"bomb_{width}x{height}_{bits}_{colour}.png", data
        for little, (kind, name) in enumerate((("I", "tif"), ("Q", "btf"))):
            tags = [
                (256, width),
                (257, height),
                (258, 8),
                (259, 8),
                (262, 1),
                (273, 200),
                (277, 1),
                (278, height),
                (279, 9),
            ]
            yield "TIFF", f"bomb_{width}x{height}.{name}", _tiff(tags, kind, is_big=bool(little))
        yield (
            "BMP",
            f"bomb_{width}x{height}.bmp",
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0),
        )
        small = (min(width, 65535), min(height, 65535))
        yield (
            "GIF",
            f"bomb_{width}x{height}.gif",
            b"GIF89a"
            + struct.pack("<HHBBB", *small, 0xF0, 0, 0)
            + bytes(6)
            + (b"," + struct.pack("<HHHHB", 0, 0, *small, 0) + b"\2\2\x44\1\0;"),
        )
        yield (
            "TGA",
            f"bomb_{width}x{height}.tga",
            struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, *small, 24, 0) + bytes(9),
        )
        yield "PPM", f"bomb_{width}x{height}.ppm", f"P6\n{width} {height}\n255\n".encode() + bytes(99)
        yield (
            "WEBP",
            f"bomb_{width}x{height}.webp",
            _patched("WEBP", 26, struct.pack("<HH", width % 2**14, height % 2**14)),
        )
        yield "JPEG2000", f"bomb_{width}x{height}.jp2", _jp2(width, height)
        jpeg = _patched("JPEG", 0, b"")
        at = jpeg.index(b"\xff\xc0") + 5
        yield "JPEG", f"bomb_{width}x{height}.jpg", jpeg[:at] + struct.pack(">HH", *small[::-1]) + jpeg[at + 4 :]


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def _tiff(tags: list[tuple[int, int]], kind: str, *, is_big: bool) -> bytes:
    head = b"II" + (struct.pack("<HHHQ", 43, 8, 0, 16) if is_big else struct.pack("<HI", 42, 8))
    entries = b"".join(
        struct.pack(f"<HH{kind}{kind}", tag, 16 if is_big else 4, 1, value % 2 ** (64 if is_big else 32))
        for tag, value in tags
    )
    body = head + struct.pack("<Q" if is_big else "<H", len(tags)) + entries + bytes(8)
    return body.ljust(200, b"\0") + zlib.compress(bytes(1000)) + bytes(50)


def _patched(kind: str, at: int, patch: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 90, 200)).save(file, kind)
    data = file.getvalue()
    return data[:at] + patch + data[at + len(patch) :]


def _jp2(width: int, height: int) -> bytes:
    data = _patched("JPEG2000", 0, b"")
    at = data.index(b"\xff\x51") + 6
    return data[:at] + struct.pack(">II", width % 2**32, height % 2**32) + data[at + 8 :]


def damaged_files(seed: int) -> Iterator[Made]:
    """Of every sound file: cut at every hundredth part of some, bytes changed, another suffix, nothing in it."""
    rng = np.random.default_rng(seed)
    suffixes = list(SUFFIXES.values())
    seen: Counter[str] = Counter()
    for number, (kind, name, data) in enumerate(sound_files()):
        yield kind, name, data
        shares = range(100) if seen[kind] == 0 else (1, 50, 99)
        seen[kind] += 1
        for share in shares:
            yield kind, f"cut_{share}_{name}", data[: len(data) * share // 100]
        for i in range(12):
            yield kind, f"changed_{i}_{name}", damaged(data, rng)
        yield kind, f"{name}{suffixes[number % len(suffixes)]}", data
        yield kind, f"zeros_{name}", bytes(len(data))
    yield from bombs()


class Reading:
    """Reads the files `made` by number, and compares what comes of each with Pillow."""

    def __init__(self, made: list[Made], work: Path) -> None:
        self.made, self.work = made, work

    def __call__(self, number: int) -> str:
        """What came of file `number`; UflowError where it was refused."""
        kind, name, data = self.made[number]
        path = self.work / f"{number}_{name}"[-200:]
        path.write_bytes(data)
        try:
            image = read_image(path)
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert read_mask(path).shape == image.shape[:2]
            return self._compared(kind, data, image)
        finally:
            path.unlink()

    def _compared(self, kind: str, data: bytes, image: np.ndarray) -> str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                other = Image.open(io.BytesIO(data))
                turned, mode = other.getexif().get(274, 1), other.mode
                if turned != 1 or mode not in ("RGB", "L", "1", "P") or other.has_transparency_data:
                    return "read, of a kind that Pillow shows otherwise"
                pixels = np.asarray(other.convert("RGB"))
        except Exception:
            return "read, not by Pillow"
        far = np.abs(pixels.astype(int) - image).max() if pixels.shape == image.shape else 256
        assert far <= (0 if kind in EXACT else 3), f"{kind} differs from Pillow by {far}"
        return f"as Pillow ({kind})"


def main() -> None:
    """Read all files and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    made, start = list(damaged_files(options.seed)), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        found = run_cases(Reading(made, Path(name)), range(len(made)), folder=Path(name), n_workers=options.workers)
    seconds, peak = time.perf_counter() - start, found.peak_bytes / 2**20
    same = sum(n for word, n in found.words.items() if word.startswith("as Pillow"))
    print(
        f"{len(made)} files of {len(SUFFIXES)} formats, {seconds:.0f} s, at most {peak:.0f} MiB more, {same} as Pillow:"
    )
    print(told(found))
    sys.exit(1 if found.faults else 0)


if __name__ == "__main__":
    main()
