"""Groups of good images that are siblings: lots, items, patients, places, days. The user says which image is of which.

Images of one group look alike, those of a new one may not. So held-out images are to be of groups that trained nothing.
"""

import codecs
import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from uflow_cli.datasets.labelled_image import LabelledImage
from uflow_cli.errors import DatasetError
from uflow_cli.files import read_plain

FOLDERS = "folders"
NO_GROUPS = "none"
CSV_SUFFIX = ".csv"
ADVICE = "give folders, a regular expression on file names such as '(lot[0-9]+)_', or a CSV file of image and group"


def groups_of(images: Sequence[LabelledImage], rule: str | None) -> tuple[str, ...]:
    """The group of each of `images`; none at all where nothing is known of any.

    `rule` is "folders" (the folder that an image lies in), the name of a CSV file (a line per image: its path or name,
    and its group), or a regular expression that is sought in file names, whose first group, in brackets, or whole match
    names the image's group. "none" knows no groups. None takes those that the data set knows, if there are several.

    DatasetError for a rule that leaves an image without group or puts all into one.
    """
    if rule is None:
        known = tuple(image.group for image in images if image.group is not None)
        return known if len(known) == len(images) and len(set(known)) > 1 else ()
    if rule == NO_GROUPS:
        return ()
    paths = [image.path for image in images]
    if rule == FOLDERS:
        groups = [str(path.parent) for path in paths]
        above = os.path.commonpath(groups) if groups else ""
        groups = [os.path.relpath(group, above) for group in groups]
    elif rule.lower().endswith(CSV_SUFFIX):
        groups = _of_table(Path(rule), paths)
    else:
        groups = [_of_name(path, rule) for path in paths]
    if len(set(groups)) == 1:
        raise DatasetError(
            f"--groups {rule}: all {len(groups)} images are of one group, {groups[0]!r}; two or more are "
            f"needed: {ADVICE}"
        )
    return tuple(groups)


def split_by_group(
    groups: Mapping[str, Sequence[LabelledImage]], *, train_share: float, seed: int = 0
) -> tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...]]:
    """Draw `train_share` of the groups: their good images train and know their group, all images of the others test.

    At least one group is drawn and one left. The draw depends on the names of the groups and `seed` only; defective
    images of drawn groups are in neither part. Raises DatasetError for fewer than two groups, and where the drawn
    groups hold no good image.
    """
    names = sorted(groups)
    if len(names) < 2:
        raise DatasetError(f"{len(names)} group(s) of images ({', '.join(names)}); a split needs two or more")
    n_train = min(max(round(train_share * len(names)), 1), len(names) - 1)
    drawn = {names[index] for index in np.random.default_rng(seed).permutation(len(names))[:n_train]}
    train = tuple(
        replace(image, group=name) for name in names if name in drawn for image in groups[name] if image.is_good
    )
    if not train:
        raise DatasetError(f"no good image among the groups drawn for training ({', '.join(sorted(drawn))})")
    return train, tuple(image for name in names if name not in drawn for image in groups[name])


def _of_name(path: Path, pattern: str) -> str:
    try:
        found = re.search(pattern, path.name)
    except re.error as error:
        raise DatasetError(f"--groups {pattern}: not a regular expression ({error}); {ADVICE}") from error
    if found is None:
        raise DatasetError(f"--groups {pattern}: finds nothing in the name of {path}; every image needs a group")
    group = found[1] if found.re.groups else found[0]
    if not group:
        raise DatasetError(f"--groups {pattern}: names no group for {path}; every image needs one")
    return group


def _of_table(file: Path, paths: Sequence[Path]) -> list[str]:
    """Groups by the lines of a CSV file: the image's path, absolute or from the file's folder, or its name alone."""
    groups: dict[str, str] = {}
    for number, cells in enumerate(read_rows(file, option="--groups"), start=1):
        if len(cells) < 2 or not cells[1].strip():
            raise DatasetError(f"{file}, line {number}: {cells[0]!r} has no group; each line needs image,group")
        image, group = cells[0].strip(), cells[1].strip()
        if groups.setdefault(image, group) != group:
            raise DatasetError(f"{file}, line {number}: {image} is in {group!r} and in {groups[image]!r}")
    by_path = {(file.parent / image).resolve(): group for image, group in groups.items()}
    found = [by_path.get(path.resolve()) or groups.get(path.name) for path in paths]
    missing = [path for path, group in zip(paths, found, strict=True) if group is None]
    if missing:
        raise DatasetError(
            f"{file} names no group of {len(missing)} of {len(paths)} images, such as {missing[0]}; "
            "each line needs an image's path or name and its group"
        )
    return [group for group in found if group is not None]


def read_rows(file: Path, *, option: str) -> list[list[str]]:
    """The lines of a CSV file that say something, cell by cell; DatasetError where it cannot be read.

    Bytes that are no UTF-8 stand for themselves, as in the names of files.
    """
    try:
        text = read_plain(file).removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
        lines = csv.reader(io.StringIO(text, newline=""))  # names may have line ends, as Python knows many, in them
        return [row for row in lines if any(cell.strip() for cell in row)]
    except OSError as error:
        raise DatasetError(f"{option} {file}: cannot be read ({error.strerror or error})") from error
    except (csv.Error, ValueError) as error:
        raise DatasetError(f"{option} {file}: is no CSV file ({error})") from error
