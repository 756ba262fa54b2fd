"""Pictures of a result: the anomaly score as heat on the image, what was found, and panels side by side.

Colours mean the same in every picture. NFA in log10: low is anomalous; anomaly score in [0, 1): high is anomalous.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from uflow_cli.images import (
    colour_map,
    draw_polygons,
    encode_png,
    lay_over,
    outline,
    resize_image,
    resize_map_in_strips,
)

Picture: TypeAlias = NDArray[np.uint8]
Map: TypeAlias = NDArray[np.floating[Any]]
Mask: TypeAlias = NDArray[np.bool_]
Colour: TypeAlias = tuple[int, int, int]

# The likelihood of a perfectly normal pixel is exp(-1/2) on average (docs/method.md, section 3), its score is
# 1 - exp(-1/2) = 0.39: what lies below 0.4 is no sign of anything. 1 is never reached but approached by every serious
# defect.
SCORE_RANGE: Final = (0.4, 1.0)

FOUND_COLOUR: Final[Colour] = (0, 225, 255)  # cyan: the heat scale has black, purple, orange and yellow
TRUE_COLOUR: Final[Colour] = (255, 255, 255)
_RIM_COLOUR: Final[Colour] = (12, 14, 20)  # around each line, so that it shows on anything
_HEAT_OPACITY: Final = 0.58  # at the highest score; what is below must still be seen


def score_strength(score_map: Map) -> NDArray[np.float32]:
    """Place of an anomaly score on the one colour scale of all pictures: (H, W) in 0..1; NaN is 0."""
    low, high = SCORE_RANGE
    return np.asarray(np.clip((np.nan_to_num(score_map, nan=0.0) - low) / (high - low), 0.0, 1.0), dtype=np.float32)


def heat(score_map: Map) -> tuple[Picture, NDArray[np.float32]]:
    """Colour (H, W, 3) and opacity (H, W) in 0..1 of the anomaly score: clear where normal, hot where not."""
    strength = score_strength(score_map)
    colour = colour_map(0.25 + 0.70 * strength)  # without the near-black and near-white ends, which hide the picture
    return colour, np.asarray(_HEAT_OPACITY * strength**1.2, dtype=np.float32)


def overlay(image: Picture, score_map: Map, mask: Mask, *, true_mask: Mask | None = None) -> Picture:
    """The image (H, W, 3) under the heat of its score, outlines around what was found, dashes around what is true.

    `score_map`, `mask` and `true_mask` may have other sizes, they are brought to the image's.
    """
    if true_mask is None:
        return np.concatenate(list(overlay_in_strips(image, score_map, mask)))
    calm = np.zeros_like(mask)
    picture = outlined(overlay(image, score_map, calm), true_mask, colour=TRUE_COLOUR, dashed=True)
    _draw(picture, mask, colour=FOUND_COLOUR)
    return picture


def overlay_in_strips(image: Picture, score_map: Map, mask: Mask) -> Iterator[Picture]:
    """The picture of `overlay`, some rows at a time: a large image needs no second of its size."""
    size = (int(image.shape[0]), int(image.shape[1]))
    strengths = np.linspace(*SCORE_RANGE, 256, dtype=np.float32)[None]
    (colours,), (opacity,) = heat(strengths)
    low, high = SCORE_RANGE
    polygons = _polygons(mask, size)
    for rows, score in resize_map_in_strips(np.nan_to_num(score_map, nan=0.0), size):
        np.subtract(score, low, out=score)
        np.clip(np.multiply(score, 255 / (high - low), out=score), 0, 255, out=score)
        levels = np.rint(score, out=score).astype(np.uint8)
        part = np.ascontiguousarray(image[rows])
        strip = lay_over(part, levels, colours, opacity) if levels.any() else part.copy()  # elsewhere it is clear
        _draw_polygons(strip, polygons, colour=FOUND_COLOUR, thickness=_thickness(size), top=rows.start)
        yield strip


def outlined(picture: Picture, mask: Mask, *, colour: Colour, dashed: bool = False) -> Picture:
    """The picture with a rimmed line around each part of the mask; as thick as the picture's size asks for."""
    drawn = np.ascontiguousarray(picture).copy()
    _draw(drawn, mask, colour=colour)
    if not dashed:
        return drawn
    dash = 4 * _thickness((picture.shape[0], picture.shape[1]))
    rows, cols = np.ogrid[: picture.shape[0], : picture.shape[1]]
    on = (rows // dash + cols // dash) % 2 == 0
    return np.where(on[..., None], drawn, picture)


def _draw(picture: Picture, mask: Mask, *, colour: Colour) -> None:
    """Draw a rimmed line around each part of the mask into the picture."""
    size = (int(picture.shape[0]), int(picture.shape[1]))
    _draw_polygons(picture, _polygons(mask, size), colour=colour, thickness=_thickness(size))


def _thickness(size: tuple[int, int]) -> int:
    return max(1, round(min(size) / 160))


def _polygons(mask: Mask, size: tuple[int, int]) -> list[NDArray[np.int32]]:
    """The outlines of a mask in a picture of `size`."""
    tolerance = _thickness(size) / 8  # nobody sees it, and a thick line through every pixel takes long
    return outline(fit_mask(mask, size), tolerance=tolerance if tolerance >= 1 else 0)


def _draw_polygons(
    picture: Picture, polygons: Sequence[NDArray[np.int32]], *, colour: Colour, thickness: int, top: int = 0
) -> None:
    """Draw rimmed lines into the rows from `top` on of a picture."""
    rim = thickness + 2 * max(1, thickness // 3)
    low, high = top - rim, top + len(picture) + rim
    shift = np.array([0, top], dtype=np.int32)
    inside = [p - shift for p in polygons if p[:, 1].max() >= low and p[:, 1].min() <= high]
    draw_polygons(picture, inside, colour=_RIM_COLOUR, thickness=rim)
    draw_polygons(picture, inside, colour=colour, thickness=thickness)


def fit_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """The mask at another size for showing; a small or thin part does not get lost where it shrinks."""
    if mask.shape == size:
        return mask
    cover = resize_image(mask.astype(np.uint8) * np.uint8(255), size)
    return np.asarray(cover > (63 if mask.shape[0] > size[0] else 127))


def shrunk(picture: Picture, side: int) -> Picture:
    """The picture with its longer side at most `side` pixels."""
    factor = side / max(picture.shape[:2])
    if factor >= 1:
        return picture
    return resize_image(picture, (max(1, round(picture.shape[0] * factor)), max(1, round(picture.shape[1] * factor))))


def heat_png(score_map: Map) -> bytes:
    """The heat alone as a PNG with transparency, to be laid over the image by whoever shows it."""
    colour, opacity = heat(score_map)
    alpha = np.rint(opacity * 255).astype(np.uint8)[..., None]
    return encode_png(np.concatenate([np.where(alpha > 0, colour, 0), alpha], axis=2, dtype=np.uint8))


def outline_path(mask: Mask) -> str:
    """The outlines of a mask's parts as SVG path data in the mask's pixels; "" for an empty mask."""
    pieces = []
    for polygon in outline(mask):
        points = " ".join(f"{x + 0.5:g},{y + 0.5:g}" for x, y in polygon.tolist())
        pieces.append(f"M{points}Z")
    return "".join(pieces)
