"""Where data sets lie on a machine: the folders that are looked in, and the names that people give them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from uflow_cli.files import default_folder

VARIABLE = "UFLOW_DATA"
USUAL = (Path("data"), Path("datasets"))
NAMES = {  # of a data set's folder, without case and signs: as archives, other programs and papers call it
    "btad": ("btad", "btech", "beantech", "btechdatasettransformed"),
    "ksdd": ("ksdd", "kolektorsdd", "kolektor"),
    "ksdd2": ("ksdd2", "kolektorsdd2", "kolektor2"),
    "lgg_mri": ("lggmri", "lgg", "lggmrisegmentation", "kaggle3m"),
    "mtd": ("mtd", "magnetictile", "magnetictiledefects", "magnetictiledefectdatasets"),
    "mvtec": ("mvtec", "mvtecad", "mvtecanomalydetection"),
    "mvtec_ad_2": ("mvtecad2", "mvtec2"),
    "shanghaitech": ("shanghaitech", "shanghaitechcampus"),
    "visa": ("visa", "visa20220922"),
}


def usual_folders(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Where data sets are looked for unasked: UFLOW_DATA, data, datasets, and uflow's folder in the system's cache."""
    named = [Path(environment[VARIABLE]).expanduser()] if environment.get(VARIABLE) else []
    return [*named, *USUAL, default_folder(environment) / "datasets"]


def places(name: str, *, root: Path | None, environment: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """Folders that may hold the categories of data set `name`, the likely ones first, whether they are there or not.

    Each of the usual folders, or `root` alone where it is given, and below it the folders that bear the data set's
    name, also twice, as an archive may have been unpacked.
    """
    for base in [root] if root is not None else usual_folders(environment):
        yield base
        named = _named(base, name)
        yield from named or [base / name]
        for folder in named:
            yield from _named(folder, name)


def _named(folder: Path, name: str) -> list[Path]:
    """The folders in `folder` that bear the name of data set `name`; none where it cannot be listed."""
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in inside if plain(path.name) in NAMES.get(name, (plain(name),)) and path.is_dir()]


def plain(name: str) -> str:
    """`name` in lower case, without what is neither letter nor digit."""
    return "".join(sign for sign in name.casefold() if sign.isalnum())
