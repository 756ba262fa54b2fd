"""A turned metal flange on a dark support, and what can go wrong with it; it does not fill the picture.

Surfaces are heights and reflectances on the grid of the image; a ring light makes turned grooves shine along two arcs.
Lengths are in shorter sides of the image. `severity` in 0..1: from hard to easy to see.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from uflow_cli.sample.cloth import Array, Mask, Rng, exposed, noise

_Hole: TypeAlias = tuple[float, float, float]  # x and y from the centre, radius

_N_BOLTS: Final = 6
_RADIUS: Final = 0.40
_BORE_RADIUS: Final = 0.115
_BOLT_CIRCLE: Final = 0.275  # radius of the circle on which the bolt holes lie
_BOLT_RADIUS: Final = 0.038
_GROOVE: Final = 0.0042  # from one turned groove to the next
_COLOUR: Final = (0.56, 0.57, 0.60)  # linear RGB
_SUPPORT_COLOUR: Final = (0.9, 1.0, 1.1)  # times 0.05


@dataclass(frozen=True)
class Flange:
    """One part under the camera.

    `x`, `y`, `radius`, `angle`: (H, W), position of each pixel from the centre of the part. `outline`: (H, W), radius
    of the part in the direction of each pixel. `holes`: the bore, then the bolt holes. `heights`, `texture`: (H, W) of
    the surface. `tint`: (H, W, 3), times the `colour` of the metal. `gloss_angle`: where the grooves shine.
    `image_mask`: (H, W), where a defect is.
    """

    x: Array
    y: Array
    radius: Array
    angle: Array
    outline: Array
    holes: tuple[_Hole, ...]
    heights: Array
    texture: Array
    tint: Array
    colour: NDArray[np.float64]
    light: float
    gloss_angle: float
    image_mask: Mask

    @property
    def side(self) -> int:
        """Pixels of the shorter side."""
        return min(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.x.shape[0], self.x.shape[1]

    def inside(self) -> Array:
        """Share of each pixel that is metal, (H, W)."""
        edge = 0.5 / self.side
        part = _soft(self.outline - self.radius, edge)
        for hole in self.holes:
            part = part * _soft(self.beyond(hole), edge)
        return part

    def beyond(self, hole: _Hole) -> Array:
        """How far each pixel lies outside `hole`, (H, W); negative inside."""
        return np.asarray(np.hypot(self.x - hole[0], self.y - hole[1]) - hole[2])

    def spoilt(self, where: Mask) -> Mask:
        """`image_mask` with the metal of `where` added."""
        return np.asarray(self.image_mask | where & (self.inside() > 0.5))


def turn(rng: Rng, size: tuple[int, int], lot: Rng | None = None) -> Flange:
    """A good part, laid down a little differently each time; `lot` shifts metal, tool and light of all its parts."""
    side = min(size)
    row, column = (0.5 * length + rng.normal(0, 0.008) * side for length in size)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    y, x = (y - np.float32(row)) / side, (x - np.float32(column)) / side
    radius = np.hypot(x, y)
    bolts = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(_N_BOLTS) / _N_BOLTS
    light, gloss_angle, groove, colour = rng.normal(1.0, 0.025), rng.normal(0.6, 0.06), _GROOVE, np.asarray(_COLOUR)
    if lot is not None:
        light, gloss_angle = light * lot.normal(1.0, 0.05), gloss_angle + lot.normal(0, 0.2)
        groove, colour = groove * lot.normal(1.0, 0.12), colour * (1 + lot.normal(0, 0.02, 3))
    phase, chatter = rng.uniform(0, 2 * np.pi), 0.35 * noise(rng, size, 9)
    texture = 0.045 * np.sin(2 * np.pi * radius / groove + phase + chatter)
    texture += 0.03 * _rings(rng, radius) + 0.012 * noise(rng, size, 40)
    centres = [(_BOLT_CIRCLE * float(np.cos(angle)), _BOLT_CIRCLE * float(np.sin(angle))) for angle in bolts]
    return Flange(
        x=x,
        y=y,
        radius=radius,
        angle=np.arctan2(y, x),
        outline=np.full(size, _RADIUS, dtype=np.float32),
        holes=((0.0, 0.0, _BORE_RADIUS), *((*centre, _BOLT_RADIUS) for centre in centres)),
        heights=np.zeros(size, dtype=np.float32),
        texture=texture.astype(np.float32),
        tint=np.ones((*size, 3), dtype=np.float32),
        colour=colour,
        light=light,
        gloss_angle=gloss_angle,
        image_mask=np.zeros(size, dtype=np.bool_),
    )


def photograph(rng: Rng, part: Flange) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of the part under a ring light, with blur and noise."""
    arc = 0.5 + 0.5 * np.cos(2 * (part.angle - part.gloss_angle))
    gloss = 0.55 + 0.5 * arc**3
    slope_y, slope_x = np.gradient(part.heights * part.side)
    shade = np.clip(1 + 1.1 * (0.6 * slope_x + 0.8 * slope_y), 0.1, 2)
    bevel = 0.35 * np.exp(-(((part.outline - part.radius) / 0.006) ** 2))
    for hole in part.holes:
        bevel += 0.35 * np.exp(-((part.beyond(hole) / 0.005) ** 2))
    metal = gloss * (1 + part.texture * (0.5 + gloss)) * shade + bevel
    support = 0.05 * (1 + 0.2 * noise(rng, part.shape, 60) + 0.1 * noise(rng, part.shape, 5))
    inside = part.inside()[..., None]
    seen = inside * metal[..., None] * part.colour * part.tint
    seen += (1 - inside) * support[..., None] * np.asarray(_SUPPORT_COLOUR)
    fall = 1 + rng.normal(0, 0.02) * part.x + rng.normal(0, 0.02) * part.y
    return exposed(rng, part.light * fall[..., None] * seen, blur=0.6, photons=0.00015)


def _soft(distance: Array, width: float) -> Array:
    """0 to 1 (H, W) across an edge at distance 0, over `width` to both sides."""
    return np.asarray(np.clip(0.5 + distance / (2 * width), 0, 1), dtype=np.float32)


def _rings(rng: Rng, radius: Array) -> Array:
    """Noise (H, W) of the lathe: the same all around."""
    table = ndimage.gaussian_filter1d(rng.standard_normal(400), 1.2)
    return np.asarray(np.interp(radius, np.linspace(0, 0.8, 400), table), dtype=np.float32)


def _place(rng: Rng, part: Flange) -> tuple[Array, Array]:
    """Position (dx, dy), each (H, W), from a random point on the metal, away from its holes."""
    while True:  # most of the ring is metal: ends after a few draws
        radius, angle = rng.uniform(0.15, 0.36), rng.uniform(0, 2 * np.pi)
        x, y = float(radius * np.cos(angle)), float(radius * np.sin(angle))
        if all(np.hypot(x - hx, y - hy) > hr + 0.025 for hx, hy, hr in part.holes):
            return part.x - np.float32(x), part.y - np.float32(y)


def _tinted(part: Flange, factor: Array, where: Mask) -> Flange:
    """The part with its tint times `factor`, (H, W) or (H, W, 3), spoilt `where` the mask says so."""
    factor = factor if factor.ndim == 3 else factor[..., None]
    return replace(part, tint=(part.tint * factor).astype(np.float32), image_mask=part.spoilt(where))


def _scratch(rng: Rng, part: Flange, severity: float) -> Flange:
    """A thin straight or bent line, bright on one lip and dark on the other."""
    dx, dy = _place(rng, part)
    angle, bend = rng.uniform(0, np.pi), rng.normal(0, 1.5)
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle) + bend * along**2
    length, width = 0.04 + 0.13 * severity, (0.7 + 0.9 * severity) / part.side
    line = np.exp(-((across / width) ** 2)) * _soft(length - np.abs(along), 0.01)
    return _tinted(part, 1 + (0.5 + 0.5 * severity) * line * np.where(across > 0, 1.0, -0.75), line > 0.3)


def _dent(rng: Rng, part: Flange, severity: float) -> Flange:
    """A shallow hollow that only its shading shows."""
    dx, dy = _place(rng, part)
    radius = 0.02 + 0.03 * severity
    distance = np.hypot(dx, dy) / radius
    depth = (0.25 + 0.35 * severity) * radius * np.exp(-1.2 * distance**2)
    return replace(part, heights=part.heights - depth.astype(np.float32), image_mask=part.spoilt(distance < 1.5))


def _pit(rng: Rng, part: Flange, severity: float) -> Flange:
    """Dark pores of a few pixels."""
    radius = max((1.6 + 2.0 * severity) / 256, 1.2 / part.side)  # never between the centres of pixels
    for _ in range(1 + int(2 * severity)):
        dx, dy = _place(rng, part)
        pore = _soft(radius - np.hypot(dx, dy * rng.uniform(0.7, 1.3)), 0.5 / part.side)
        part = _tinted(part, 1 - 0.75 * pore, pore > 0.5)
    return part


def _chip(rng: Rng, part: Flange, severity: float) -> Flange:
    """A piece broken out of the rim."""
    angle, width, depth = rng.uniform(0, 2 * np.pi), 0.08 + 0.12 * severity, 0.015 + 0.05 * severity
    offset = np.angle(np.exp(1j * (part.angle - angle))) / width
    ragged = 1 + 0.3 * np.clip(noise(rng, part.shape, 30), -1.5, 3)
    bite = depth * np.clip(1 - offset**2, 0, None) * ragged
    chipped = replace(part, outline=(part.outline - bite).astype(np.float32))
    return replace(chipped, image_mask=part.image_mask | (part.inside() - chipped.inside() > 0.5))


def _rust(rng: Rng, part: Flange, severity: float) -> Flange:
    """Brown bloom, from a spot to a third of the part."""
    dx, dy = _place(rng, part)
    radius = 0.03 + 0.15 * severity**2
    distance = np.hypot(dx, dy) + 0.25 * radius * np.clip(noise(rng, part.shape, 12), -3, 3)
    cover = _soft(radius - distance, 0.01) * np.clip(0.65 + 0.35 * noise(rng, part.shape, 45), 0, 1)
    absorbs = np.asarray((0.25, 0.6, 0.9))
    return _tinted(part, 1 - (0.35 + 0.4 * severity) * cover[..., None] * absorbs, distance < radius)


def _closed_hole(rng: Rng, part: Flange, severity: float) -> Flange:
    """A bolt hole that was not drilled, or too small."""
    chosen = int(rng.integers(1, _N_BOLTS + 1))
    x, y, radius = part.holes[chosen]
    left = () if severity > 0.5 else ((x, y, radius * (0.75 - 0.6 * severity)),)
    closed = replace(part, holes=(*part.holes[:chosen], *left, *part.holes[chosen + 1 :]))
    return replace(closed, image_mask=part.image_mask | (closed.inside() - part.inside() >= 0.5))


DEFECTS: Final[dict[str, Callable[[Rng, Flange, float], Flange]]] = {
    "chip": _chip,
    "closed_hole": _closed_hole,
    "dent": _dent,
    "pit": _pit,
    "rust": _rust,
    "scratch": _scratch,
}
