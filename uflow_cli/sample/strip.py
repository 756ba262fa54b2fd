"""A strip of brushed steel with a row of punched holes, long and narrow, and defects of a few pixels.

Defects are as large in pixels whatever the size of the picture: on a wide picture they are small.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from uflow_cli.sample.cloth import Array, Mask, Rng, noise

SIZE: Final = (500, 1250)  # pixels, height and width
_STEEL: Final = (0.62, 0.64, 0.66)
_HOLE: Final = 0.12  # radius over the height of the strip
_PITCH: Final = 0.55  # distance of two holes over the height


@dataclass(frozen=True)
class Strip:
    """How bright the strip is, (H, W, 3) in 0..1, and where a defect is, (H, W)."""

    tone: Array
    image_mask: Mask


def roll(rng: Rng, size: tuple[int, int], lot: Rng | None) -> Strip:
    """A good strip; a `lot` has its own shade, direction of light and coarseness of brushing."""
    height, width = size
    shade, slope, coarse = (1.0, 0.0, 1.0) if lot is None else lot.uniform((0.85, -0.1, 0.7), (1.1, 0.1, 1.4))
    brushing = ndimage.gaussian_filter(rng.standard_normal(size, dtype=np.float32), (0.6 * coarse, 12.0))
    brushing *= 0.05 * coarse / max(float(brushing.std()), 1e-6)
    waves = 0.05 * noise(rng, size, 4) + 0.03 * noise(rng, size, 9)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    light = shade * (1 + slope * (x / width - 0.5)) * rng.uniform(0.9, 1.1)
    tone = (1 + brushing + waves) * light
    first = rng.uniform(0, _PITCH * height)
    offset = (x - first + _PITCH * height / 2) % (_PITCH * height) - _PITCH * height / 2
    inside = np.clip(_HOLE * height - np.hypot(offset, y - height / 2 + rng.normal(0, 0.006 * height)) + 0.5, 0, 1)
    rim = np.exp(-(((np.hypot(offset, y - height / 2) - _HOLE * height) / 2.5) ** 2))
    tone = (tone + 0.25 * rim * light) * (1 - 0.93 * inside)
    edge = np.clip(np.minimum(y, height - 1 - y) / 3, 0.3, 1)
    return Strip((tone * edge)[..., None] * np.asarray(_STEEL, np.float32), np.zeros(size, dtype=np.bool_))


def photograph(rng: Rng, strip: Strip) -> NDArray[np.uint8]:
    """The strip as the camera gives it, a little blurred and with noise."""
    blurred = ndimage.gaussian_filter(strip.tone, (0.5, 0.5, 0))
    noisy = 255 * blurred + rng.normal(0, 2.0, blurred.shape)
    return np.asarray(np.rint(np.clip(noisy, 0, 255)).astype(np.uint8))


def _place(rng: Rng, strip: Strip) -> tuple[Array, Array]:
    """(dx, dy) in pixels, each (H, W), from a random point on the steel above or below the holes."""
    height, width = strip.image_mask.shape
    column = int(width * rng.uniform(0.06, 0.94))
    row = int(height * (rng.uniform(0.1, 0.3) if rng.random() < 0.5 else rng.uniform(0.7, 0.9)))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x - column, y - row


def _spoilt(strip: Strip, factor: Array, where: Mask) -> Strip:
    return replace(strip, tone=strip.tone * factor[..., None], image_mask=strip.image_mask | where)


def _spot_of(rng: Rng, strip: Strip, severity: float, factor: float) -> Strip:
    dx, dy = _place(rng, strip)
    radius = 1.9 + 2.6 * severity  # 5 pixels across and more
    cover = np.clip(radius - np.hypot(dx, dy * rng.uniform(0.85, 1.15)) + 0.5, 0, 1)
    return _spoilt(strip, 1 + factor * cover, cover > 0.5)


def _pit(rng: Rng, strip: Strip, severity: float) -> Strip:
    """A dark pore of five to nine pixels across."""
    return _spot_of(rng, strip, severity, -0.45 - 0.3 * severity)


def _spot(rng: Rng, strip: Strip, severity: float) -> Strip:
    """A bright splash of five to nine pixels across."""
    return _spot_of(rng, strip, severity, 0.3 + 0.2 * severity)


def _scratch(rng: Rng, strip: Strip, severity: float) -> Strip:
    """A thin line across the brushing, dark on one lip."""
    dx, dy = _place(rng, strip)
    angle = rng.uniform(0.3, np.pi - 0.3)
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    line = np.exp(-((across / (1.1 + 0.8 * severity)) ** 2)) * np.clip(8 + 30 * severity - np.abs(along), 0, 1)
    return _spoilt(strip, 1 - (0.3 + 0.3 * severity) * line * np.where(across > 0, 1.0, -0.6), line > 0.3)


DEFECTS: Final[dict[str, Callable[[Rng, Strip, float], Strip]]] = {"pit": _pit, "scratch": _scratch, "spot": _spot}
