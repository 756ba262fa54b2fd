"""Good images not to be trained on, named in a file: what training found suspicious, or a list of one's own."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from uflow_cli.datasets.groups import CSV_SUFFIX, read_rows
from uflow_cli.datasets.labelled_image import Dataset
from uflow_cli.errors import DatasetError
from uflow_cli.files import read_plain
from uflow_cli.schema import parse_json

MISSED, GOOD_AFTER_ALL = "missed", "good after all"  # as the page of a report marks an image
HEAD = "image"  # of the column of images, in the first line of a CSV file


def read_exclusion(file: Path) -> tuple[str, ...]:
    """The images that `file` names, as it names them: in the first column of a CSV file, else one a line.

    Of a JSON file that a report's page saved they are those that were marked as missed. A path is absolute or from the
    file's folder. DatasetError where the file cannot be read or names nothing.
    """
    if file.suffix.lower() == CSV_SUFFIX:
        names = [row[0].strip() for row in read_rows(file, option="--exclude")]
        names = names[1:] if names[:1] == [HEAD] else names
    elif file.suffix.lower() == ".json":
        names = _marked(file, MISSED, option="--exclude")
    else:
        try:
            names = [line.strip() for line in os.fsdecode(read_plain(file)).split("\n")]
        except OSError as error:
            raise DatasetError(f"--exclude {file}: cannot be read ({error.strerror or error})") from error
    named = tuple(name if os.sep not in name else str(file.parent / name) for name in names if name)
    if not named:
        raise DatasetError(f"--exclude {file}: names no image; each line needs the path or the name of one")
    return named


def good_after_all(file: Path) -> list[Path]:
    """The images that were marked as good after all in a JSON `file` that a report's page saved.

    A path is absolute or from the file's folder. DatasetError where the file cannot be read or marks none so.
    """
    names = _marked(file, GOOD_AFTER_ALL, option="--images")
    if not names:
        raise DatasetError(f"--images {file}: no image in it is marked as {GOOD_AFTER_ALL!r}")
    return [file.parent / name for name in names]


def _marked(file: Path, mark: str, *, option: str) -> list[str]:
    """The paths of the images with this `mark` in a JSON file that a report's page saved."""
    try:
        images = parse_json(read_plain(file))["images"]
        return [str(image["path"]) for image in images if image["mark"] == mark]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{option} {file}: not a list that a report's page saved ({error})") from error


def without(data: Dataset, names: Sequence[str], *, strict: bool = True) -> tuple[Dataset, tuple[str, ...]]:
    """`data` without the training images of these paths or file names, and the absolute paths of those left out.

    DatasetError if `strict` where one of `names` is of no training image.
    """
    wanted = {_place(name): name for name in names}
    gone = {image.path: place for image in data.train for place in _places(image.path) if place in wanted}
    found = set(gone.values())
    missing = [name for place, name in wanted.items() if place not in found]
    if strict and missing:
        raise DatasetError(
            f"--exclude: {len(missing)} of {len(names)} are no training images, such as {missing[0]}; "
            "name images by their path or their file name"
        )
    kept = tuple(image for image in data.train if image.path not in gone)
    return replace(data, train=kept), tuple(str(path.absolute()) for path in gone)


def _place(name: str) -> str:
    return str(Path(name).resolve()) if os.sep in name else name


def _places(path: Path) -> tuple[str, str]:
    return str(path.resolve()), path.name
