"""A printed label on a box, and what can go wrong with the print.

Ink is a share of coverage per pixel and colour, on a grid twice as fine as the image. Lengths are in shorter sides.
`severity` in 0..1: from hard to easy to see.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from uflow_cli.sample.cloth import FINE, Array, Mask, Rng, average, exposed, noise, on_image

_BLACK, _BLUE, _RED = range(3)
_INKS: Final = ((0.03, 0.03, 0.035), (0.02, 0.12, 0.42), (0.62, 0.05, 0.05))  # linear RGB of black, blue, red
_DENSITY: Final = (0.94, 0.9, 0.9)  # coverage where an ink is printed
_PAPER_COLOUR: Final = (0.80, 0.79, 0.74)
_CARTON_COLOUR: Final = (0.42, 0.30, 0.19)
_ARTWORK_SEED: Final = 20240711
_LINES: Final = ((0.026, 0.58), (0.026, 0.52), (0.018, 0.6), (0.018, 0.55), (0.018, 0.6))  # height, length of text


@dataclass(frozen=True)
class Label:
    """One print on the fine grid.

    `rows`, `columns`: (H, W), position on the label, 0..1 across its artwork. `ink`: (3, H, W), coverage by black, blue
    and red; `density`: (3,), times that. `on`: (H, W), 1 where the label is and 0 where the carton shows. `tint`:
    (H, W, 3), times all colours. `grain`: how rough the paper is. `mask`: (H, W), where a defect is.
    """

    rows: Array
    columns: Array
    ink: Array
    density: NDArray[np.float64]
    on: Array
    tint: Array
    paper_colour: NDArray[np.float64]
    light: float
    grain: float
    mask: Mask

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the fine grid."""
        return self.rows.shape[0], self.rows.shape[1]

    @property
    def image_mask(self) -> Mask:
        """`mask` on the grid of the image."""
        return on_image(self.mask)


class _Artwork:
    """The print of every label: `ink` (3, S, S), coverage by black, blue and red."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.ink: Array = np.zeros((3, side, side), dtype=np.float32)
        rng = np.random.default_rng(_ARTWORK_SEED)
        self._box(_BLUE, 0.08, 0.08, 0.22, 0.92)
        y, x = np.mgrid[:side, :side] / side
        logo = np.hypot(x - 0.19, y - 0.36)
        self.ink[_RED][(logo < 0.03) | (logo > 0.055) & (logo < 0.085)] = 1
        for row, (height, length) in enumerate(_LINES):
            self._text(rng, 0.285 + 0.048 * row, height, length)
        self._codes(rng)

    def _box(self, which: int, top: float, left: float, bottom: float, right: float) -> None:
        rows, columns = (slice(int(a * self.side), int(b * self.side)) for a, b in ((top, bottom), (left, right)))
        self.ink[which, rows, columns] = 1

    def _text(self, rng: Rng, top: float, height: float, length: float) -> None:
        """A line of letters: three strokes each."""
        left = 0.33
        while left < 0.31 + length:
            width = height * rng.uniform(0.5, 0.8)
            for _ in range(3):
                if rng.random() < 0.5:
                    start = top + rng.choice([0, 0.4, 0.8]) * height
                    self._box(_BLACK, start, left, start + 0.22 * height, left + width)
                else:
                    start = left + rng.choice([0, 0.7]) * width
                    self._box(_BLACK, top, start, top + height, start + 0.24 * height)
            left += width + height * (0.25 if rng.random() < 0.8 else 0.7)

    def _codes(self, rng: Rng) -> None:
        """A bar code and a square code beside it."""
        left = 0.1
        while left < 0.6:
            right = left + rng.integers(1, 4) * 0.0055
            self._box(_BLACK, 0.64, left, 0.86, min(right, 0.62))
            left = right + rng.integers(1, 4) * 0.0055
        cells = rng.random((11, 11)) < 0.5
        cells[0], cells[:, 0] = True, True
        for i, j in zip(*np.nonzero(cells), strict=True):
            self._box(_BLACK, 0.64 + 0.02 * i, 0.69 + 0.02 * j, 0.66 + 0.02 * i, 0.71 + 0.02 * j)


def print_label(rng: Rng, size: tuple[int, int], lot: Rng | None = None) -> Label:
    """A good label, stuck on a little differently each time; `lot` shifts ink, paper and light of all its labels."""
    shape = (size[0] * FINE, size[1] * FINE)
    side = min(shape)
    angle, zoom = rng.normal(0, 0.006), 1 + rng.normal(0, 0.004)
    centre = np.asarray(shape) / 2 + rng.normal(0, 0.006, 2) * side
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    y, x = y - centre[0], x - centre[1]
    rows, columns = cos * y - sin * x + side / 2, sin * y + cos * x + side / 2
    register = rng.normal(0, 0.0012, (3, 2)) * side  # each ink is printed a little beside the others
    ink = [
        ndimage.map_coordinates(art, [rows + shift[0], columns + shift[1]], order=1, mode="constant")
        for art, shift in zip(_Artwork(side).ink, register, strict=True)
    ]
    density, paper_colour = np.asarray(_DENSITY) * rng.normal(1, 0.015, 3), np.asarray(_PAPER_COLOUR)
    light, grain = rng.normal(1, 0.02), 0.012
    if lot is not None:
        density, paper_colour = density * lot.normal(1, 0.03, 3), paper_colour * (1 + lot.normal(0, 0.025, 3))
        light, grain = light * lot.normal(1, 0.04), grain * lot.uniform(0.7, 1.6)
    rows, columns = rows / side, columns / side
    return Label(
        rows=rows.astype(np.float32),
        columns=columns.astype(np.float32),
        ink=np.stack(ink),
        density=np.clip(density, 0.5, 1),
        on=((np.abs(rows - 0.5) < 0.46) & (np.abs(columns - 0.5) < 0.46)).astype(np.float32),
        tint=np.ones((*shape, 3), dtype=np.float32),
        paper_colour=paper_colour,
        light=light,
        grain=grain,
        mask=np.zeros(shape, dtype=np.bool_),
    )


def photograph(rng: Rng, label: Label) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of the label on its box, with blur and noise."""
    shape, on = label.shape, label.on[..., None]
    spread = 1 + 0.04 * noise(rng, shape, 30) + 0.03 * rng.standard_normal(shape, dtype=np.float32)
    fibres = 1 + label.grain * (noise(rng, shape, 90) + rng.standard_normal(shape, dtype=np.float32))
    carton = 1 + 0.06 * noise(rng, shape, 50) + 0.05 * noise(rng, shape, 7)
    colour = on * label.paper_colour * fibres[..., None] + (1 - on) * np.asarray(_CARTON_COLOUR) * carton[..., None]
    for coverage, ink, density in zip(label.ink, _INKS, label.density, strict=True):
        share = np.clip(coverage * density * spread, 0, 1)[..., None] * on
        colour = colour * (1 - share) + np.asarray(ink) * share
    fall = 1 + rng.normal(0, 0.03) * (label.columns - 0.5) + rng.normal(0, 0.03) * (label.rows - 0.5)
    linear = average((colour * label.tint * (label.light * fall)[..., None]).astype(np.float32))
    return exposed(rng, linear, blur=0.5, photons=0.0001)


def _offset(rng: Rng, label: Label, where: Mask) -> tuple[Array, Array]:
    """Position (down, right), each (H, W), from a random pixel `where` the mask allows it, away from the border."""
    inner = (np.abs(label.rows - 0.5) < 0.38) & (np.abs(label.columns - 0.5) < 0.38)
    pixel = rng.choice(np.flatnonzero(where & inner))
    return label.rows - label.rows.flat[pixel], label.columns - label.columns.flat[pixel]


def _void(rng: Rng, label: Label, severity: float) -> Label:
    """Ink that did not take, where it is solid."""
    ink, radius = label.ink.sum(axis=0), 0.015 + 0.05 * severity
    solid = ndimage.minimum_filter(ink, max(3, round(0.012 * min(label.shape)))) > 0.5
    down, right = _offset(rng, label, solid)
    distance = np.hypot(down * rng.uniform(0.6, 1.6), right)
    gone = distance + 0.2 * radius * np.clip(noise(rng, label.shape, 25), -2, 2) < radius
    return replace(label, ink=np.where(gone, 0.08 * label.ink, label.ink), mask=label.mask | gone & (ink > 0.3))


def _spot(rng: Rng, label: Label, severity: float) -> Label:
    """A drop of ink of a few pixels or more, where nothing is printed."""
    radius = 0.008 + 0.012 * severity
    reach = 2 * int(np.ceil(radius * min(label.shape))) + 1
    down, right = _offset(rng, label, ndimage.maximum_filter(label.ink.sum(axis=0), reach) < 0.05)
    drop = np.hypot(down, right) < radius
    ink = label.ink.copy()
    ink[int(rng.integers(3))][drop] = 1
    return replace(label, ink=ink, mask=label.mask | drop)


def _smear(rng: Rng, label: Label, severity: float) -> Label:
    """Wet ink drawn over the paper."""
    row, left = rng.uniform(0.25, 0.8), rng.uniform(0.1, 0.5)
    length, height = 0.12 + 0.3 * severity, 0.02 + 0.04 * severity
    along = (label.columns - left) / length
    band = np.exp(-(((label.rows - row) / height) ** 2)) * ((along > 0) & (along < 1)) * (1 - 0.5 * along)
    strength = (0.25 + 0.4 * severity) * band * np.clip(0.7 + 0.5 * noise(rng, label.shape, 60), 0, 1.3)
    ink = label.ink.copy()
    ink[_BLACK] = np.maximum(ink[_BLACK], strength)
    return replace(label, ink=ink, mask=label.mask | (band > 0.2) & (label.on > 0))


def _scratch(rng: Rng, label: Label, severity: float) -> Label:
    """A scratch down to the paper and beside it."""
    down, right = _offset(rng, label, label.on > 0)
    angle, bend = rng.uniform(0, np.pi), 0.5 * rng.normal()
    along = down * np.cos(angle) + right * np.sin(angle)
    across = right * np.cos(angle) - down * np.sin(angle) + bend * along**2
    width = max(0.0025 + 0.0025 * severity, 0.7 / min(label.shape))  # never between the centres of pixels
    line = (np.abs(across) < width) & (np.abs(along) < 0.06 + 0.15 * severity) & (label.on > 0)
    tint = np.where(line[..., None], np.float32(0.82), label.tint)
    return replace(label, ink=np.where(line, 0.15 * label.ink, label.ink), tint=tint, mask=label.mask | line)


def _wrong_colour(_rng: Rng, label: Label, severity: float) -> Label:
    """Red ink in the blue header: a tenth of the picture, and nothing else."""
    header = (label.rows > 0.07) & (label.rows < 0.23) & (label.on > 0)
    ink = label.ink.copy()
    ink[_RED] = np.where(header, (0.35 + 0.5 * severity) * ink[_BLUE], ink[_RED])
    return replace(label, ink=ink, mask=label.mask | header & (ink[_BLUE] > 0.5))


def _tear(rng: Rng, label: Label, severity: float) -> Label:
    """A corner torn off."""
    bottom, right = rng.random(2) < 0.5
    y = 0.96 - label.rows if bottom else label.rows - 0.04
    x = 0.96 - label.columns if right else label.columns - 0.04
    ragged = y * rng.uniform(0.7, 1.4) + x + 0.02 * np.clip(noise(rng, label.shape, 25), -3, 3)
    gone = (ragged < 0.1 + 0.45 * severity) & (label.on > 0)
    return replace(label, on=np.where(gone, np.float32(0), label.on), mask=label.mask | gone)


DEFECTS: Final[dict[str, Callable[[Rng, Label, float], Label]]] = {
    "scratch": _scratch,
    "smear": _smear,
    "spot": _spot,
    "tear": _tear,
    "void": _void,
    "wrong_colour": _wrong_colour,
}
