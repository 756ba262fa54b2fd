"""Which images a command is given: files, folders and patterns, without what earlier detections left there."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from uflow_cli.errors import UflowError
from uflow_cli.images import (
    IMAGE_SUFFIXES,
    NO_IMAGE,
    LeftOut,
    list_images,
    masks_among,
    natural_order,
    page_of,
    pages_of,
    read_encoded,
)
from uflow_cli.results import LINES_NAME, MASKS, OVERLAYS, RESULT_NAME, TABLE_NAME, common_folder
from uflow_cli.schema import parse_json

REPORT_MARK = 'content="uflow report"'  # in the page of a report of ours
EARLIER = "masks and overlays of earlier detections"
RESULT_FILES = {LINES_NAME, RESULT_NAME, TABLE_NAME}
ANY_FOLDERS = "**"
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Inputs:
    """The image files that were given, each once."""

    images: list[Path]
    base: Path  # the deepest folder that holds all folders, files and beginnings of patterns that were named
    left_out: list[LeftOut]  # beside them


def find_images(paths: Iterable[Path], *, listed: Sequence[Path] = ()) -> Inputs:
    """The image files that `paths` and `listed` name, and what was left out beside them.

    Files are taken as they are, folders with all images below them but those that `detect` or a report wrote. What
    does not exist and has `*`, `?` or `[` is a pattern as shells have them, `**` for any folders. The files `listed`
    come from a long list, of which one more must not rename the others: their base is the current folder, or the
    root. UflowError for a folder without any image but such, a pattern that fits nothing, and where none is there.
    """
    found: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    earlier = EarlierPictures({})
    tops: list[Path] = []
    for path in paths:
        if not os.path.lexists(path) and not _MAGIC.isdisjoint(str(path)):
            tops.append(_beginning(path))
            images = _matching(path, earlier, left_out)
        elif os.path.isdir(path):  # noqa: PTH112 - pathlib raises below a folder that may not be entered
            tops.append(path)
            images = _inside(path, earlier, left_out)
        else:
            tops.append(path.parent)
            images = pages_of(path)
        for image in images:
            found.setdefault(os.path.realpath(image), image)
    for path in listed:
        for image in pages_of(path):
            found.setdefault(os.path.realpath(image), image)
    if listed:
        here = Path.cwd()
        is_below = all(Path(os.path.abspath(path)).is_relative_to(here) for path in listed)  # noqa: PTH100
        tops.append(here if is_below else Path(here.anchor))
    if found and not any(os.path.exists(page_of(image)[0]) for image in found.values()):  # noqa: PTH110 - never raises
        read_encoded(next(iter(found.values())))  # says why
    left_out = [item for item in left_out if item.path.name not in RESULT_FILES]
    return Inputs(list(found.values()), common_folder(tops), left_out)


class EarlierPictures:
    """Tells the pictures that `detect` and `report` wrote, by the files beside them; looks at each folder once."""

    def __init__(self, known: dict[Path, frozenset[str] | None]) -> None:
        self._known = known  # the names of such pictures in a folder; None: all of them

    def __contains__(self, image: Path) -> bool:
        if image.parent not in self._known:
            self._known[image.parent] = _written(image.parent)
        names = self._known[image.parent]
        return names is None or image.name in names


def _inside(folder: Path, earlier: EarlierPictures, left_out: list[LeftOut]) -> list[Path]:
    """The images below `folder` that are not `earlier` ones; UflowError for a folder without."""
    inside = list_images(folder, recursive=True, left_out=left_out)
    chosen = [image for image in inside if image not in earlier]
    if not chosen:
        raise UflowError(f"{folder}: holds no images but the {EARLIER}")
    left_out += [LeftOut(image, EARLIER) for image in inside if image in earlier]
    return chosen


def _matching(pattern: Path, earlier: EarlierPictures, left_out: list[LeftOut]) -> list[Path]:
    """The images that fit `pattern`, and those in the folders that do; UflowError for none."""
    images: list[Path] = []
    for path in sorted(map(Path, glob.glob(str(pattern), recursive=True)), key=natural_order):  # noqa: PTH207 - of shells
        if path.is_dir():
            if ANY_FOLDERS not in pattern.parts:  # which fits what is inside too
                with contextlib.suppress(UflowError):
                    images += _inside(path, earlier, left_out)
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            left_out.append(LeftOut(path, NO_IMAGE))
        elif path in earlier:
            left_out.append(LeftOut(path, EARLIER))
        else:
            images += pages_of(path)
    masks = masks_among(images)
    images = [image for image in images if image not in masks]
    if not images:
        raise UflowError(f"{pattern}: fits no image; put it in quotes, and write ** for any folders")
    return images


def _beginning(pattern: Path) -> Path:
    """The folders of `pattern` before its first part that is not to be taken by the letter."""
    plain = list(itertools.takewhile(_MAGIC.isdisjoint, pattern.parts[:-1]))
    return Path(*plain)


def _written(folder: Path) -> frozenset[str] | None:
    """The names of the pictures in `folder` that `detect` wrote; None for all, as those of a report are.

    Before there were folders for them, pictures lay beside detections.json, in pairs, and it listed them.
    """
    page = folder.parent / "index.html"
    if folder.name == "images" and page.is_file() and REPORT_MARK in page.read_text(encoding="utf-8", errors="replace"):
        return None
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100 - pathlib keeps ".."
    for above in (absolute, *absolute.parents):
        if above.name in (MASKS, OVERLAYS) and (above.parent / LINES_NAME).is_file():
            return None
    if (folder / LINES_NAME).is_file():
        stems = [path.name.removesuffix("_mask.png") for path in folder.glob("*_mask.png")]
        pairs = [(f"{stem}_mask.png", f"{stem}_overlay.png") for stem in stems]
        return frozenset(name for pair in pairs if (folder / pair[1]).is_file() for name in pair)
    try:
        images = parse_json((folder / RESULT_NAME).read_bytes())["images"]
        return frozenset(Path(image[kind]).name for image in images for kind in ("mask", "overlay") if image[kind])
    except (OSError, ValueError, KeyError, TypeError):  # no such file, or one of somebody else
        return frozenset()
