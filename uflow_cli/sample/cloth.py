"""A piece of twill, thread by thread, and a camera that photographs it.

Threads are heights and colours on a grid twice as fine as the image; what is highest is seen.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Rng: TypeAlias = np.random.Generator

N_CHARACTERS: Final = 256  # threads with a character of their own, more than any image shows; a power of two
_WRAP: Final = N_CHARACTERS - 1  # x & _WRAP is x % N_CHARACTERS, several times faster
FINE: Final = 2  # sub-pixels per pixel and axis
_THREADS: Final = 32.0  # threads across the shorter side
_GAP: Final = -3.0  # height between and below the threads, in thread radii
_WARP_COLOUR: Final = (0.24, 0.32, 0.41)  # linear RGB: a blue-grey twill
_WEFT_COLOUR: Final = (0.45, 0.45, 0.43)
_GROUND_COLOUR: Final = (0.035, 0.033, 0.032)


@dataclass(frozen=True)
class Cloth:
    """One piece of cloth on the fine grid, heights in thread radii.

    `u`, `v`: (H, W), position in threads; warp thread i lies at i < u < i + 1, weft thread j at j < v < j + 1.
    `heights`: (4, H, W) of warp, weft, what lies on top, and the ground below; the highest is seen.
    `brightness`: (4, H, W) of the same, times their `colours`: (4, 3) linear RGB. `tint`: (H, W, 3), times that.
    `mask`: (H, W), where a defect is. `light`: how bright the lamp of its lot is.
    """

    u: Array
    v: Array
    heights: Array
    brightness: Array
    colours: Array
    tint: Array
    mask: Mask
    light: float = 1.0

    @property
    def image_mask(self) -> Mask:
        """`mask` on the grid of the image."""
        return on_image(self.mask)

    @property
    def pitch(self) -> float:
        """Fine pixels per thread."""
        return float(min(self.u.shape)) / _THREADS


def noise(rng: Rng, shape: tuple[int, int], cells: int) -> Array:
    """Smooth noise (H, W) of about unit variance that changes over 1/`cells` of the image: a random cubic B-spline."""
    coarse = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    rows, cols = (_spline_weights(side, cells) for side in shape)
    surface: Array = np.einsum("il,jl->ij", np.einsum("ik,kl->il", rows, coarse), cols)  # no BLAS: always the same bits
    return surface


def _spline_weights(side: int, cells: int) -> Array:
    """Weights (side, cells + 3) of the control points, scaled so that independent ones give unit variance."""
    distance = np.abs(np.linspace(1, cells + 1, side)[:, None] - np.arange(cells + 3))
    inner = 2 / 3 - distance**2 + distance**3 / 2
    weights = np.where(distance < 1, inner, np.clip(2 - distance, 0, None) ** 3 / 6)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), dtype=np.float32)


def _thread_noise(rng: Rng, index: NDArray[np.intp], along: Array, length: float) -> Array:
    """Noise (H, W) of each thread's own that changes over `length` threads along it."""
    table = rng.standard_normal(N_CHARACTERS * N_CHARACTERS, dtype=np.float32)
    position = along / length
    floor = np.floor(position)
    first = floor.astype(np.intp)
    thread = index * N_CHARACTERS
    before, after = table.take(thread + (first & _WRAP)), table.take(thread + ((first + 1) & _WRAP))
    return np.asarray(before + (after - before) * (position - floor))


def _threads(rng: Rng, across: Array, along: Array, *, up: float) -> tuple[Array, Array]:
    """Height and brightness (H, W) of all parallel threads; `up` +1 or -1 puts them over or under the others."""
    number = np.floor(across)
    index = number.astype(np.intp) & _WRAP
    thickness, shade, phase = rng.standard_normal((3, N_CHARACTERS), dtype=np.float32)
    thickness, shade = 0.47 + 0.02 * thickness, 1 + 0.05 * shade
    offset = across - number - 0.5 + 0.035 * _thread_noise(rng, index, along, 2.5)
    offset /= thickness[index] + 0.02 * _thread_noise(rng, index, along, 0.9)
    bow = up * np.sin(np.pi / 2 * (along - 0.5 + number) + np.pi / 4)  # two over, two under, one step per thread
    height = np.sqrt(np.clip(1 - offset**2, 0, None)) + 0.75 * bow
    twist = np.sin(2 * np.pi * (1.35 * along + 0.55 * offset + phase[index]))
    light = shade[index] * (1 + 0.07 * twist + 0.06 * _thread_noise(rng, index, along, 0.35))
    return np.where(np.abs(offset) < 1, height, np.float32(_GAP)), light


def weave(rng: Rng, size: tuple[int, int], lot: Rng | None = None) -> Cloth:
    """A good piece of cloth, laid down a little differently each time; `lot` shifts yarn, weave and light."""
    shape = (size[0] * FINE, size[1] * FINE)
    pitch = min(shape) / _THREADS
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x, y = (x - shape[1] / 2) / pitch, (y - shape[0] / 2) / pitch
    angle, zoom, shift = rng.normal(0, 0.012), 1 + rng.normal(0, 0.01), rng.uniform(0, N_CHARACTERS, 2)
    colours = np.asarray([_WARP_COLOUR, _WEFT_COLOUR, (0, 0, 0), _GROUND_COLOUR])
    light = 1.0
    if lot is not None:
        zoom, light = zoom * lot.normal(1, 0.03), lot.normal(1, 0.05)
        colours = colours * lot.normal(1, 0.03, (4, 3))
    cos, sin = float(zoom * np.cos(angle)), float(zoom * np.sin(angle))
    u = cos * x + sin * y + float(shift[0]) + 0.3 * noise(rng, shape, 2)
    v = cos * y - sin * x + float(shift[1]) + 0.3 * noise(rng, shape, 2)
    warp = _threads(rng, u, v, up=1.0)
    weft = _threads(rng, v, u, up=-1.0)
    nothing = np.full(shape, -np.inf, dtype=np.float32)
    ground = np.full(shape, _GAP - 1, dtype=np.float32)
    speckle = 1 + 0.25 * rng.standard_normal(shape, dtype=np.float32)
    return Cloth(
        u=u,
        v=v,
        heights=np.stack([warp[0], weft[0], nothing, ground]),
        brightness=np.stack([warp[1], weft[1], np.ones_like(speckle), speckle]),
        colours=colours.astype(np.float32),
        tint=np.ones((*shape, 3), dtype=np.float32),
        mask=np.zeros(shape, dtype=np.bool_),
        light=light,
    )


def photograph(rng: Rng, cloth: Cloth) -> NDArray[np.uint8]:
    """The picture (H, W, 3) that a camera takes of the cloth, with its own light, blur and noise."""
    seen = np.argmax(cloth.heights, axis=0)
    height = cloth.heights.max(axis=0)
    brightness = np.take_along_axis(cloth.brightness, seen[None], axis=0)[0]
    colour = cloth.colours[seen] * cloth.tint
    slope_y, slope_x = np.gradient(height * (0.3 * cloth.pitch))
    azimuth, steep = rng.normal(-2.2, 0.25), 0.85
    facing = 1 - steep * (slope_x * float(np.cos(azimuth)) + slope_y * float(np.sin(azimuth)))
    facing = np.clip(facing, 0, 2.2) / np.sqrt(1 + slope_x**2 + slope_y**2)
    hollow = np.clip(ndimage.uniform_filter(height, round(1.3 * cloth.pitch)) - height, 0, 3)
    y, x = np.mgrid[-1 : 1 : height.shape[0] * 1j, -1 : 1 : height.shape[1] * 1j].astype(np.float32)
    fall_x, fall_y = (rng.normal(0, 0.06, 2) + 0.05 * np.array([np.cos(azimuth), np.sin(azimuth)])).tolist()
    lamp = cloth.light * rng.normal(1.15, 0.04) * (1 + fall_x * x + fall_y * y - 0.05 * (x**2 + y**2))
    light = brightness * lamp * (0.42 + 0.58 * facing) / (1 + 0.55 * hollow)
    linear = average(colour * light[..., None]) * (1 + rng.normal(0, 0.008, 3))
    return exposed(rng, linear, blur=0.45, photons=0.00012)


def exposed(rng: Rng, linear: NDArray[np.floating[Any]], *, blur: float, photons: float) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of linear RGB in 0..1, blurred, with a noise whose variance is `photons` per brightness."""
    linear = ndimage.gaussian_filter(np.clip(linear, 0, 1), (blur, blur, 0), truncate=3)
    linear += rng.standard_normal(linear.shape) * np.sqrt(photons * linear + 4e-6)  # photons, electronics
    return np.asarray(np.rint(255 * np.clip(linear, 0, 1) ** (1 / 2.2)), dtype=np.uint8)


def on_image(mask: Mask) -> Mask:
    """A mask of the fine grid on the grid of the image."""
    return np.asarray(average(mask.astype(np.float32)) >= 0.5)


def average(values: Array) -> Array:
    """Mean over the sub-pixels: (H * 2, W * 2, ...) to (H, W, ...)."""
    rows, cols = (side // FINE for side in values.shape[:2])
    fine = values.reshape(rows, FINE, cols, FINE, *values.shape[2:])
    return np.asarray(fine.mean(axis=(1, 3), dtype=np.float32))
