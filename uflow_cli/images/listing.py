"""List the images of folders, and say what was left out and why: one listing for all commands."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from uflow_cli.errors import DatasetError
from uflow_cli.images.pages import pages_of

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp",
    ".jpe", ".jfif", ".dib", ".gif", ".jp2", ".j2k", ".avif", ".tga", ".pgm", ".ppm", ".pbm", ".pnm",
)  # fmt: skip
ROI_FOLDER = "roi"  # holds masks of the pixels that count, of the images beside it
_OF_THE_SYSTEM = {"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin"}

NO_IMAGE = "no images"
LEADS_NOWHERE = "links that lead nowhere"
NOT_ALLOWED = "folders that cannot be read"
INSIDE = "folders inside"
SEEN_ALREADY = "links to what is listed already"
SYSTEM = "files of the system"
NO_FILE = "devices or pipes"
HIDDEN = "hidden images"


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that was found where images are, and not taken."""

    path: Path
    reason: str


def list_images(folder: Path, *, recursive: bool = False, left_out: list[LeftOut] | None = None) -> list[Path]:
    """List the image files of `folder` (by suffix, hidden ones left out) in natural order: part2 before part10.

    Links are followed, no folder is entered twice. Masks in folders `roi` are no images, each page of a file is one.
    What is not taken is added to `left_out`. Raises DatasetError for a folder that is missing, is not a folder, cannot
    be read or holds no image.
    """
    folder = Path(folder)
    left_out = [] if left_out is None else left_out
    if not folder.exists():
        raise DatasetError(f"{folder}: no such folder; expected a folder of images ({', '.join(IMAGE_SUFFIXES)})")
    if not folder.is_dir():
        raise DatasetError(f"{folder}: not a folder; expected a folder of images ({', '.join(IMAGE_SUFFIXES)})")
    n_before = len(left_out)
    try:
        images = list(_walk(folder, recursive=recursive, seen={_identity(folder)}, left_out=left_out))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    if not images:
        found = f" (left out: {_counts(left_out[n_before:])})" if left_out[n_before:] else ""
        raise DatasetError(f"{folder}: holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}{found}")
    images = [page for path in images for page in pages_of(path)]
    return sorted(set(images) - masks_among(images), key=lambda path: natural_order(path.relative_to(folder)))


def masks_among(images: Sequence[Path]) -> set[Path]:
    """Those of `images` that lie in a folder `roi` and are called as another one in the same place beside it."""
    inside = [path for path in images if ROI_FOLDER in path.parts[:-1]]
    names = {path.with_suffix("") for path in images} if inside else set()
    masks = set()
    for path in inside:
        parts = path.with_suffix("").parts
        outside = (Path(*parts[:i], *parts[i + 1 :]) for i, part in enumerate(parts[:-1]) if part == ROI_FOLDER)
        if any(name in names for name in outside):
            masks.add(path)
    return masks


def describe_left_out(left_out: Sequence[LeftOut]) -> str:
    """One line for people: how many files and folders were left out, and why; "" for none."""
    if not left_out:
        return ""
    shown = left_out[0].path
    return f"left out {len(left_out)} beside the images: {_counts(left_out)}; such as {shown}"


def natural_order(path: Path) -> tuple[object, ...]:
    """Sort key under which numbers inside names count as numbers; equal names fall back to their spelling."""
    parts = [re.split(r"([0-9]+)", part.casefold()) for part in path.parts]
    return ([[int(text) if index % 2 else text for index, text in enumerate(part)] for part in parts], str(path))


def is_of_the_system(name: str) -> bool:
    """Whether a file or folder of this name is one that operating systems add by themselves."""
    return name.casefold() in _OF_THE_SYSTEM


def _walk(folder: Path, *, recursive: bool, seen: set[object], left_out: list[LeftOut]) -> Iterator[Path]:
    """Yield the images below `folder`. Raises OSError where `folder` itself cannot be read."""
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: (entry.is_symlink(), entry.name))  # what is there before links to it
    for entry in entries:
        path = folder / entry.name
        is_folder, is_image = _is_folder(entry), path.suffix.lower() in IMAGE_SUFFIXES
        if entry.name.startswith("."):
            if is_image and not is_folder:
                left_out.append(LeftOut(path, HIDDEN))
        elif is_of_the_system(entry.name):
            left_out.append(LeftOut(path, SYSTEM))
        elif is_folder and not recursive and entry.name == ROI_FOLDER:
            continue
        elif is_folder and not recursive:
            left_out.append(LeftOut(path, INSIDE))
        elif is_folder:
            if _identity(path) in seen:
                left_out.append(LeftOut(path, SEEN_ALREADY))
                continue
            seen.add(_identity(path))
            try:
                yield from _walk(path, recursive=True, seen=seen, left_out=left_out)
            except OSError:
                left_out.append(LeftOut(path, NOT_ALLOWED))
        elif path.is_file() and is_image:
            yield path
        else:
            nowhere = entry.is_symlink() and not path.exists()
            reason = LEADS_NOWHERE if nowhere else NO_IMAGE if path.is_file() else NO_FILE
            left_out.append(LeftOut(path, reason))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    """The identity of a file or folder, the same for all spellings of its path; None where there is no such file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _counts(left_out: Sequence[LeftOut]) -> str:
    """The reasons with their counts; for files that are no images their suffixes, which may be of unread formats."""
    suffixes = sorted({item.path.suffix.lower() or item.path.name for item in left_out if item.reason == NO_IMAGE})
    named = f" ({', '.join(suffixes[:5])}{', ...' if len(suffixes) > 5 else ''})"
    counts = Counter(item.reason for item in left_out)
    return ", ".join(f"{n} {reason}{named if reason == NO_IMAGE else ''}" for reason, n in counts.items())
