"""List the images of a folder."""

import re
from pathlib import Path

from uflow_cli.errors import DatasetError

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp",
    ".jpe", ".jfif", ".dib", ".gif", ".jp2", ".j2k", ".avif", ".tga", ".pgm", ".ppm", ".pbm", ".pnm",
)  # fmt: skip


def list_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """List the image files of `folder` (by suffix, hidden ones left out) in natural order: part2 before part10.

    Raises DatasetError for a folder that is missing, is not a folder, cannot be read or holds no image.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DatasetError(f"{folder}: no such folder; expected a folder of images ({_suffix_list()})")
    if not folder.is_dir():
        raise DatasetError(f"{folder}: not a folder; expected a folder of images ({_suffix_list()})")
    try:
        inside = [path.relative_to(folder) for path in (folder.rglob("*") if recursive else folder.iterdir())]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    shown = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    images = [path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES and (folder / path).is_file()]
    if not images:
        raise DatasetError(f"{folder}: holds no images; expected files ending in {_suffix_list()}")
    return [folder / path for path in sorted(images, key=natural_order)]


def natural_order(path: Path) -> tuple[object, ...]:
    """Sort key under which numbers inside names count as numbers; equal names fall back to their spelling."""
    parts = [re.split(r"([0-9]+)", part.casefold()) for part in path.parts]
    return ([[int(text) if index % 2 else text for index, text in enumerate(part)] for part in parts], str(path))


def _suffix_list() -> str:
    return ", ".join(IMAGE_SUFFIXES)
