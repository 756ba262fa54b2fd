"""The sample as files in MVTec layout: all of it or nothing, and never over something that is not a sample."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import DatasetError
from uflow_cli.files import swap_folder, workshop
from uflow_cli.images import write_png
from uflow_cli.sample import cloth, defects, label, metal, strip
from uflow_cli.schema import refuse_newer

Part = TypeVar("Part", cloth.Cloth, label.Label, metal.Flange, strip.Strip)


@dataclass(frozen=True)
class Product(Generic[Part]):
    """How a product is made, spoilt (by kind of defect, with a severity in 0..1) and photographed."""

    make: Callable[[cloth.Rng, tuple[int, int], cloth.Rng | None], Part]
    defects: dict[str, Callable[[cloth.Rng, Part, float], Part]]
    photograph: Callable[[cloth.Rng, Part], NDArray[np.uint8]]
    size: tuple[int, int] = (256, 256)  # of its pictures, unasked


PRODUCTS: Final[dict[str, Product[Any]]] = {
    "fabric": Product(cloth.weave, defects.DEFECTS, cloth.photograph),
    "label": Product(label.print_label, label.DEFECTS, label.photograph),
    "metal": Product(metal.turn, metal.DEFECTS, metal.photograph),
    "strip": Product(strip.roll, strip.DEFECTS, strip.photograph, strip.SIZE),
}
CATEGORIES: Final = tuple(PRODUCTS)
KINDS: Final = {category: tuple(product.defects) for category, product in PRODUCTS.items()}
MARKER: Final = "sample.json"  # says that a folder is ours, and which files in it are
MIN_SIDE: Final = 64  # below this a thread is thinner than two pixels and the weave is lost
_FORMAT: Final = 1
_SPLITS: Final = ("train", "test")


@dataclass(frozen=True)
class _Recipe:
    """One image of the sample: `kind` is "good" or a kind of defect, `lot` counts from 1 (None: there are no lots)."""

    split: str
    kind: str
    index: int
    lot: int | None

    @property
    def stem(self) -> str:
        return f"{self.index:03d}" if self.lot is None else f"lot{self.lot}_{self.index:03d}"

    @property
    def picture(self) -> str:
        return f"{self.split}/{self.kind}/{self.stem}.png"

    @property
    def mask(self) -> str | None:
        return None if self.kind == "good" else f"ground_truth/{self.kind}/{self.stem}_mask.png"


def sample_image(
    *,
    category: str = "fabric",
    seed: int = 0,
    split: str = "test",
    kind: str = "good",
    index: int = 0,
    size: tuple[int, int] | None = None,
    lot: int | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One image (H, W, 3) and where its defect is, (H, W): a function of its arguments, whatever else is made.

    Images of one `lot` share shifts of light, colour and texture; None is the product without such shifts.
    """
    product = PRODUCTS[category]
    size = size or product.size
    rng = np.random.default_rng([seed, _SPLITS.index(split), ("good", *KINDS[category]).index(kind), index])
    part = product.make(rng, size, None if lot is None else np.random.default_rng([seed, len(_SPLITS), 0, lot]))
    if kind != "good":
        severity = (0.35 + 0.618034 * index) % 1.0  # golden ratio: any number of images covers 0..1 evenly
        part = product.defects[kind](rng, part, severity)
    return product.photograph(rng, part), part.image_mask


def write_sample(
    root: Path,
    *,
    category: str = "fabric",
    seed: int = 0,
    n_train: int = 60,
    n_test_good: int = 12,
    n_test_per_defect: int = 6,
    size: tuple[int, int] | None = None,
    lots: int = 1,
) -> Path:
    """Write the sample to `root`/`category` in MVTec layout and return that folder.

    Several `lots` take turns, and the names of their files begin with `lot1_`, `lot2_` and so on.

    An earlier sample there is replaced, anything else is left alone: DatasetError. Also for settings that make no
    sample and for a disk that does not take it. A run that is killed leaves what was there before.
    """
    size = size or (PRODUCTS[category].size if category in PRODUCTS else (MIN_SIDE, MIN_SIDE))
    _check(category=category, seed=seed, counts=(n_train, n_test_good, n_test_per_defect), size=size, lots=lots)
    root, folder = Path(root), Path(root) / category
    counts = {("train", "good"): n_train, ("test", "good"): n_test_good}
    counts |= {("test", kind): n_test_per_defect for kind in KINDS[category]}
    recipes = list(_recipes(counts, lots))
    try:
        root.mkdir(parents=True, exist_ok=True)
        with workshop(folder) as bench:
            _check_replaceable(folder)
            made = bench / "new"
            files = _write_images(made, recipes, category=category, seed=seed, size=size)
            settings = {"category": category, "seed": seed, "size": list(size)}
            settings |= {"lots": lots} if lots > 1 else {}
            marker = {"format": _FORMAT, "made_by": "uflow sample", **settings, "files": files}
            (made / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
            swap_folder(made, folder, old=bench / "old")
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder or free its disk"
        ) from error
    return folder


def _recipes(counts: dict[tuple[str, str], int], lots: int) -> Iterator[_Recipe]:
    for (split, kind), count in counts.items():
        for index in range(count):
            yield _Recipe(split, kind, index, lot=None if lots == 1 else index % lots + 1)


def _write_images(
    folder: Path, recipes: list[_Recipe], *, category: str, seed: int, size: tuple[int, int]
) -> list[str]:
    """Write pictures and masks; returns their names inside the folder."""
    names = []
    for recipe in recipes:
        picture, mask = sample_image(
            category=category,
            seed=seed,
            split=recipe.split,
            kind=recipe.kind,
            index=recipe.index,
            size=size,
            lot=recipe.lot,
        )
        write_png(folder / recipe.picture, picture)
        names.append(recipe.picture)
        if recipe.mask is not None:
            write_png(folder / recipe.mask, mask)
            names.append(recipe.mask)
    return names


def _check(*, category: str, seed: int, counts: tuple[int, int, int], size: tuple[int, int], lots: int) -> None:
    if category not in CATEGORIES:
        raise DatasetError(f"the sample has no category {category!r}; known: {', '.join(CATEGORIES)}")
    if seed < 0:
        raise DatasetError(f"seed {seed} is negative; it must be 0 or more")
    if counts[0] < 1 or min(counts) < 0:
        raise DatasetError(
            f"{counts[0]} training, {counts[1]} good test and {counts[2]} test images per defect make no sample; "
            "at least 1 training image is needed and no count may be negative"
        )
    if not 1 <= lots <= counts[0]:
        raise DatasetError(f"{lots} lots of {counts[0]} training images; there must be 1 to {counts[0]}")
    if min(size) < MIN_SIDE:
        raise DatasetError(f"size {size[0]} x {size[1]} is too small; each side must be {MIN_SIDE} pixels or more")


def _check_replaceable(folder: Path) -> None:
    """Raise DatasetError unless `folder` is missing, empty, or holds a sample and nothing else."""
    if not folder.exists() and not folder.is_symlink():
        return
    advice = "remove it, or choose another folder"
    if folder.is_symlink() or not folder.is_dir():
        raise DatasetError(f"{folder} is in the way: it is no folder; {advice}")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if not found:
        return
    if MARKER not in found:
        raise DatasetError(f"{folder} holds {len(found)} files and is no sample; {advice}")
    foreign = sorted(found - {MARKER} - _files_of_sample(folder / MARKER))
    if foreign:
        raise DatasetError(
            f"{folder} is a sample to which {foreign[0]} was added; move that away, or choose another folder"
        )


def _files_of_sample(marker: Path) -> set[str]:
    try:
        values = json.loads(marker.read_text(encoding="utf-8"))
        refuse_newer(values.get("format"), marker, newest=_FORMAT, kind=DatasetError)
        return {str(name) for name in values["files"]}
    except (AttributeError, ValueError, KeyError, TypeError):
        return set()
