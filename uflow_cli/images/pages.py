"""Files of several pages: each page is an image of its own, whose path goes on below that of the file.

Page 2 of `scans/a.tif` is `scans/a.tif/a_page2.tif`: no file can have this path, and name, stem and folder of a page
tell it apart as those of a file do.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

TIFF_SUFFIXES = (".tif", ".tiff")
_PAGE = re.compile(r"(.+)_page([1-9][0-9]{0,8})")


def page_of(path: Path) -> tuple[Path, int | None]:
    """The file in which the image at `path` is, and its page, from 1; None for the only or first one."""
    found = _PAGE.fullmatch(path.stem)
    file = path.parent
    if found and found[1] == file.stem and path.suffix == file.suffix and file.suffix.lower() in TIFF_SUFFIXES:
        try:
            return (file, int(found[2])) if file.is_file() else (path, None)
        except OSError:  # a name that no file can have
            return path, None
    return path, None


def pages_of(path: Path) -> list[Path]:
    """The paths of the pages of the image file at `path`: `path` itself where there is but one."""
    if path.suffix.lower() not in TIFF_SUFFIXES or not _has_more_pages(path):
        return [path]
    from uflow_cli.images.tiff import picture_pages  # takes its time, and few files need it

    pages = picture_pages(path)
    return [path / f"{path.stem}_page{page}{path.suffix}" for page in pages] if len(pages) > 1 else [path]


def _has_more_pages(path: Path) -> bool:
    """Whether the first page of a TIFF file tells of another one; no where it cannot be read: its decoder says why."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            endian, is_big = ("<" if head[:2] == b"II" else ">"), head[2:4] in (b"+\0", b"\0+")
            [first] = struct.unpack_from(endian + ("Q" if is_big else "I"), head, 8 if is_big else 4)
            file.seek(first)
            [n_tags] = struct.unpack(endian + ("Q" if is_big else "H"), file.read(8 if is_big else 2))
            file.seek(n_tags * (20 if is_big else 12), 1)
            return any(file.read(8 if is_big else 4))
    except (OSError, ValueError, OverflowError, struct.error):
        return False
