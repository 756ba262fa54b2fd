"""The kinds of defects in a piece of cloth, each with its exact mask.

A defect takes threads away, lays something on top or changes the colour. `severity` in 0..1: from hard to easy to see.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from scipy import ndimage

from uflow_cli.sample.cloth import N_CHARACTERS, Array, Cloth, Mask, Rng, noise


def _place(rng: Rng, cloth: Cloth) -> tuple[Array, Array]:
    """Position (du, dv), each (H, W), in threads from a random point away from the border."""
    row, col = (int(side * rng.uniform(0.22, 0.78)) for side in cloth.u.shape)
    return cloth.u - cloth.u[row, col], cloth.v - cloth.v[row, col]


def _without(cloth: Cloth, *, warp: Mask, weft: Mask) -> Cloth:
    """The cloth with no warp or no weft where the masks say so."""
    heights = cloth.heights.copy()
    heights[0][warp] = -np.inf
    heights[1][weft] = -np.inf
    return replace(cloth, heights=heights, mask=cloth.mask | warp | weft)


def _ends(rng: Rng, across: Array, spread: float) -> Array:
    """How much earlier or later each thread ends (H, W), in threads."""
    return rng.normal(0, spread, N_CHARACTERS).astype(np.float32)[np.floor(across).astype(np.intp) % N_CHARACTERS]


def _hole(rng: Rng, cloth: Cloth, severity: float) -> Cloth:
    """Threads torn out around a point."""
    du, dv = _place(rng, cloth)
    radius, aspect = 1.0 + 2.6 * severity**1.5, float(rng.uniform(0.75, 1.3))
    distance = np.hypot(du * aspect, dv / aspect) + 0.12 * radius * noise(rng, du.shape, 12)
    warp = distance + _ends(rng, cloth.u, 0.5) < radius
    weft = distance + _ends(rng, cloth.v, 0.5) < radius
    return _without(cloth, warp=warp, weft=weft)


def _cut(rng: Rng, cloth: Cloth, severity: float) -> Cloth:
    """A slit whose lips have drawn apart a little."""
    du, dv = _place(rng, cloth)
    turn = rng.uniform(0, np.pi)
    along = du * float(np.cos(turn)) + dv * float(np.sin(turn)) + 0.2 * noise(rng, du.shape, 6)
    across = dv * float(np.cos(turn)) - du * float(np.sin(turn)) + 0.25 * noise(rng, du.shape, 6)
    length, opening = 2.5 + 4.5 * severity, float(rng.uniform(0.3, 0.6)) + 0.4 * severity
    lips = opening * (1 - (along / length) ** 2) - np.abs(across)
    warp = (lips + _ends(rng, cloth.u, 0.16) > 0) & (np.abs(along) < length)
    weft = (lips + _ends(rng, cloth.v, 0.16) > 0) & (np.abs(along) < length)
    return _without(cloth, warp=warp, weft=weft)


def _missing_thread(rng: Rng, cloth: Cloth, severity: float) -> Cloth:
    """A thread that is not there over some length, sometimes two side by side."""
    du, dv = _place(rng, cloth)
    nothing = np.zeros_like(cloth.mask)
    is_warp = rng.random() < 0.5
    position, across, along = (cloth.u, du, dv) if is_warp else (cloth.v, dv, du)
    centre = np.floor(position.flat[int(np.argmin(np.abs(across)))])
    count = 1 if severity < 0.6 else 2
    gone = (np.floor(position) >= centre) & (np.floor(position) < centre + count)
    gone &= np.abs(along) < 4 + 10 * severity
    sag = np.where(gone, 1.2 * np.sin(np.pi / count * (position - centre)), 0)  # nothing holds up those across
    heights = cloth.heights.copy()
    heights[1 if is_warp else 0] -= sag.astype(np.float32)
    cloth = replace(cloth, heights=heights)
    return _without(cloth, warp=gone if is_warp else nothing, weft=nothing if is_warp else gone)


def _stain(rng: Rng, cloth: Cloth, severity: float) -> Cloth:
    """Something spilt: darker, with an edge where it dried."""
    du, dv = _place(rng, cloth)
    radius, aspect = 1.5 + 4.0 * float(rng.random()), float(rng.uniform(0.7, 1.4))
    distance = np.hypot(du * aspect, dv / aspect) + 0.14 * radius * noise(rng, du.shape, 7)
    distance += 0.25 * noise(rng, du.shape, 24)  # it creeps along the threads
    cover = 1 / (1 + np.exp(np.clip((distance - radius) / 0.18, -30, 30)))
    edge = np.exp(-(((distance - radius + 0.35) / 0.3) ** 2))
    absorbs = np.asarray([(0.35, 0.60, 0.85), (0.75, 0.70, 0.62), (0.25, 0.38, 0.55)][rng.integers(3)])
    strength = (0.42 + 0.45 * severity) * (0.75 * cover + 0.25 * edge * cover)
    tint = cloth.tint * (1 - strength[..., None] * absorbs)
    return replace(cloth, tint=tint.astype(np.float32), mask=cloth.mask | (cover > 0.5))


def _foreign_fibre(rng: Rng, cloth: Cloth, severity: float) -> Cloth:
    """A hair or a bit of yarn that lies on the cloth in a curve."""
    shape, steps = np.asarray(cloth.u.shape), int(cloth.pitch * (7 + 11 * severity))
    turning = np.cumsum(rng.normal(0, 1, steps)) / np.sqrt(steps) * 2.2 + rng.normal(0, 1.5)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(turning) / steps
    path = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=1), axis=0)
    path += shape * rng.uniform(0.35, 0.65, 2) - path.mean(axis=0)
    rows, cols = np.rint(path[((path > 0) & (path < shape - 1)).all(axis=1)]).astype(np.intp).T
    off_path = np.ones(cloth.u.shape, dtype=np.bool_)
    off_path[rows, cols] = False
    radius = max(1.3, cloth.pitch * float(rng.uniform(0.10, 0.19)))
    offset = ndimage.distance_transform_edt(off_path).astype(np.float32) / radius
    fibre = offset < 1
    heights, colours = cloth.heights.copy(), cloth.colours.copy()
    heights[2] = np.where(fibre, 2.4 + 0.5 * np.sqrt(np.clip(1 - offset**2, 0, None)), -np.inf)
    colours[2] = [(0.02, 0.018, 0.016), (0.34, 0.03, 0.03), (0.10, 0.055, 0.03)][rng.integers(3)]
    return replace(cloth, heights=heights, colours=colours, mask=cloth.mask | fibre)


DEFECTS: Final[dict[str, Callable[[Rng, Cloth, float], Cloth]]] = {
    "cut": _cut,
    "foreign_fibre": _foreign_fibre,
    "hole": _hole,
    "missing_thread": _missing_thread,
    "stain": _stain,
}
