"""A contrario detection: squared norms to regions and their number of false alarms. Logs are base 10; low is anomalous.

A region is a connected set of cells that stands out from its surroundings at every scale of description: a node of
the max-tree of U that survives pruning and merging (paper section 4). Its log_pfa says how improbable it is on a good
image, its log_nfa = log_n_tests + log_pfa how many such regions one expects per good image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from uflow_cli import _core  # noqa: TID251 (this is the one module that may)
from uflow_cli.config import Tests

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "AContrario",
    "Background",
    "MaxTree",
    "Regions",
    "Tail",
    "Tests",
    "a_contrario",
    "chi2_log_tail",
    "fuse_evidence",
    "log_n_tests",
    "log_n_tests_by_size",
    "max_tree",
]

Tail = Literal["chernoff", "published"]
"""Chernoff's bound above the mean and 1 below; or the paper's formula on both sides of the mean."""

_TAILS: tuple[str, ...] = get_args(Tail)
_TESTS: tuple[str, ...] = get_args(Tests)
AXES = ("images", "height", "width")
LARGEST_MEAN = float(np.finfo(np.float32).max)  # U maps are float32


@dataclass(frozen=True)
class Background:
    """Law of U on good images: U ~ scale * chi2(degrees_of_freedom), both positive and real."""

    degrees_of_freedom: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("degrees_of_freedom", "scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} of a background must be positive and finite, not {value}")
        mean = self.degrees_of_freedom * self.scale
        if not all(0 < x < LARGEST_MEAN and math.isfinite(1 / x) for x in (mean, self.scale)):
            raise ValueError(f"a background of {self.degrees_of_freedom} and {self.scale} is too extreme")


@dataclass(frozen=True, eq=False)
class Regions:
    """One row per region, as columns of equal length, ordered by (image, scale, label).

    `scale` 0 is the finest; `label` is the region's number in the label map of its image and scale, in the order of the
    regions' first cells; `level`, `peak` and `total` are the lowest and the highest U of the region and the sum of all.
    Areas count cells, boxes are half-open in cells, centroids are in cells with cell (0, 0) centred at (0.0, 0.0).
    """

    image: NDArray[np.int32]
    scale: NDArray[np.int32]
    label: NDArray[np.int32]
    level: NDArray[np.float64]
    log_pfa: NDArray[np.float64]
    log_nfa: NDArray[np.float64]
    area: NDArray[np.int64]
    top: NDArray[np.int32]
    left: NDArray[np.int32]
    bottom: NDArray[np.int32]
    right: NDArray[np.int32]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    peak: NDArray[np.float64]
    total: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image)

    def select(self, rows: ArrayLike | slice) -> Regions:
        """The given rows: a boolean mask, indices in any order, or a slice."""
        index = rows if isinstance(rows, slice) else _row_index(rows)
        return Regions(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def _regions(columns: Sequence[NDArray[np.generic]]) -> Regions:
    """`Regions(*columns)`, made faster: setting frozen fields one by one costs a tenth of a small map."""
    regions = object.__new__(Regions)
    regions.__dict__.update(zip(_COLUMNS, columns, strict=True))
    return regions


def _row_index(rows: ArrayLike) -> NDArray[np.generic]:
    index = np.asarray(rows)
    return index.astype(np.intp) if index.size == 0 and index.dtype != np.bool_ else index


_COLUMNS = tuple(field.name for field in fields(Regions))


@dataclass(frozen=True, eq=False)
class AContrario:
    """Label maps per scale, (B, H_s, W_s), -1 outside regions, and the table of regions.

    A region is what survives pruning and merging with log_pfa < 0. A component that the background law finds nothing in
    (probability 1, under "chernoff" all that lies below the mean) is no region.
    """

    labels: tuple[NDArray[np.int32], ...]
    regions: Regions


@dataclass(frozen=True, eq=False)
class MaxTree:
    """Max-tree of a map under 4-connectivity, one entry per pixel (H*W,), pixels numbered row by row.

    A node is known by its canonical pixel, the first of those at the node's level. `parent` is, for a canonical pixel,
    the canonical pixel of the parent node (for the root: itself); for any other pixel, its own node's canonical pixel.
    `order` holds all pixels, each after its parent: by increasing score, ties by number. `level` is the score of each
    pixel's node, `area` the number of pixels of its component. `canonical` marks the canonical pixels; there are as
    many as nodes.
    """

    parent: NDArray[np.int32]
    order: NDArray[np.int32]
    level: NDArray[np.float32]
    area: NDArray[np.int32]
    canonical: NDArray[np.bool_]

    def log_pfa(self, background: Background, *, tail: Tail = "chernoff") -> NDArray[np.float64]:
        """log10 PFA of each pixel's node if the score is a map of U whose law on good images is `background`, (H*W,).

        Raises ValueError for negative or infinite levels.
        """
        k, scale = background.degrees_of_freedom, background.scale
        return self.area * chi2_log_tail(self.level, degrees_of_freedom=k, scale=scale, tail=tail)


def a_contrario(
    squared_norms: Sequence[ArrayLike],
    *,
    background: Sequence[Background],
    tests: Tests = "by-size",
    tail: Tail = "chernoff",
    n_threads: int = 0,
) -> AContrario:
    """Regions of every image at every scale, with their log10 PFA and log10 NFA.

    `squared_norms[s]` is (B, H_s, W_s), finest scale first, finite and not negative; `background[s]` its law on good
    images. `n_threads` 0 uses all cores; any number gives the same bits. Under "published" U = 0 counts as 1e-38 of the
    mean: its log stays finite.

    Raises ValueError for missing scales, wrong shapes, empty maps, NaN, infinite or negative values.
    """
    maps = _checked_maps(squared_norms, background, n_threads)
    _check_choice(tests, _TESTS, "tests")
    _check_choice(tail, _TAILS, "tail")
    laws = [law.degrees_of_freedom for law in background], [law.scale for law in background]
    try:
        labels, columns = _core.find_regions(maps, *laws, tests, tail, n_threads)
    except ValueError:
        _name_bad_map(maps)
        raise
    return AContrario(labels=tuple(labels), regions=_regions(columns))


def fuse_evidence(
    squared_norms: Sequence[ArrayLike],
    *,
    background: Sequence[Background],
    weights: Sequence[float] | None = None,
    n_threads: int = 0,
) -> NDArray[np.float32]:
    """Evidence of several sources on one grid, (B, H, W): the weighted mean over sources of ln(1 + c).

    c = k/2 (r - 1 - ln r) is the Chernoff exponent of r = U / mean, 0 up to the mean, bilinearly up-sampled to the
    highest H_s and the widest W_s of all sources. `squared_norms[s]` is (B, H_s, W_s), finite and not negative,
    `background[s]` its law on good images; `weights` are equal if not given. `a_contrario` finds regions in the result
    as in any U, once a law has been fitted to it on good images.

    Raises ValueError for missing sources, wrong shapes, empty maps, NaN, infinite or negative values or weights.
    """
    maps = _checked_maps(squared_norms, background, n_threads)
    shares = [1.0] * len(maps) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(maps):
        raise ValueError(f"{len(maps)} sources of evidence, but {len(shares)} weights")
    laws = [law.degrees_of_freedom for law in background], [law.scale for law in background]
    try:
        return _core.fuse_evidence(maps, *laws, shares, n_threads)
    except ValueError:
        _name_bad_map(maps)
        raise


def log_n_tests(grids: Sequence[tuple[int, int]]) -> float:
    """log10 N_T of paper eq. 9 for grids of (height, width) cells: the number of regions of all sizes that could be."""
    return _core.log_n_tests(_cells(grids))


def log_n_tests_by_size(grids: Sequence[tuple[int, int]], area: ArrayLike) -> NDArray[np.float64]:
    """log10 N_T(n) for regions of `area` cells: the budget of eq. 9 split evenly over sizes. Same shape as `area`."""
    areas = np.asarray(area, dtype=np.float64)
    if not np.all(areas >= 1):
        raise ValueError("an area is at least 1 cell")
    return _core.log_n_tests_by_size(_cells(grids), _as_row(areas)).reshape(areas.shape)


def chi2_log_tail(
    x: ArrayLike, *, degrees_of_freedom: float, scale: float = 1.0, tail: Tail = "chernoff"
) -> NDArray[np.float64]:
    """log10 of the bound of P(scale * chi2(degrees_of_freedom) >= x) for one cell.

    Same shape as `x`; never underflows. A region's log_pfa is its area times this at its level.

    Raises ValueError for NaN or negative `x`.
    """
    _check_choice(tail, _TAILS, "tail")
    values = np.asarray(x, dtype=np.float64)
    if not np.all((values >= 0) & (values < np.inf)):
        raise ValueError("x must be finite and not negative")
    law = Background(degrees_of_freedom, scale)
    flat = _core.chi2_log_tail(_as_row(values), law.degrees_of_freedom, law.scale, tail)
    return flat.reshape(values.shape)


def max_tree(score: ArrayLike) -> MaxTree:
    """Max-tree of `score` (H, W), infinities allowed. Raises ValueError for NaN or an empty map."""
    values = _as_float32(score, "score", ("height", "width"))
    parent, order, area = _core.max_tree(values)
    level = values.flatten()
    canonical = level[parent] != level
    canonical[order[0]] = True
    return MaxTree(parent=parent, order=order, level=level, area=area, canonical=canonical)


def _checked_maps(
    squared_norms: Sequence[ArrayLike], background: Sequence[Background], n_threads: int
) -> list[NDArray[np.float32]]:
    maps = [_as_float32(u, "squared_norms[{}]", AXES, s) for s, u in enumerate(squared_norms)]
    if not maps:
        raise ValueError("squared_norms is empty: give one (images, height, width) array per scale")
    if len(background) != len(maps):
        raise ValueError(f"{len(maps)} scales of squared_norms, but {len(background)} backgrounds")
    if len({len(u) for u in maps}) != 1:
        raise ValueError(f"all scales need the same images, but there are {[len(u) for u in maps]}")
    if n_threads < 0:
        raise ValueError(f"n_threads must be 0 (all cores) or more, not {n_threads}")
    return maps


def _name_bad_map(maps: Sequence[NDArray[np.float32]]) -> None:
    """The core looks at every value anyway, but cannot say which map a bad one is in: ValueError if there is one."""
    for s, u in enumerate(maps):
        if not (u.min() >= 0 and u.max() < np.inf):  # min and max hand a NaN on
            raise ValueError(
                f"squared_norms[{s}] must be finite and not negative, but spans {u.min()} to {u.max()}"
            ) from None


def _as_float32(array: ArrayLike, name: str, axes: tuple[str, ...], number: int = 0) -> NDArray[np.float32]:
    """A C-contiguous float32 array of the given axes, none of them empty; `name` has room for its `number`."""
    values = np.require(array, np.float32, ("C_CONTIGUOUS", "ALIGNED"))
    if values.ndim != len(axes):
        raise ValueError(f"{name.format(number)} must be ({', '.join(axes)}), but has shape {np.shape(array)}")
    if values.size == 0:
        raise ValueError(f"{name.format(number)} is empty: shape {values.shape}")
    return values


def _as_row(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """All values of an array as the core takes them, (n,)."""
    return np.require(values, requirements=("C_CONTIGUOUS", "ALIGNED")).reshape(-1)


def _cells(grids: Sequence[tuple[int, int]]) -> list[int]:
    cells = [height * width for height, width in grids]
    if not cells or min(min(height, width) for height, width in grids) < 1:
        raise ValueError(f"grids must be (height, width) of at least one cell, not {list(grids)}")
    return cells


def _check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
