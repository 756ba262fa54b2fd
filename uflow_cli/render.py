"""Pictures of a result: the anomaly score as heat on the image, what was found, and panels side by side.

Colours mean the same in every picture. NFA in log10: low is anomalous; anomaly score in [0, 1): high is anomalous.
"""

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from uflow_cli.images import colour_map, draw_polygons, encode_png, outline, resize_image, resize_map

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
_STRIP_PIXELS: Final = 1 << 18
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
    (height, width), picture = image.shape[:2], np.ascontiguousarray(image).copy()
    columns = resize_map(score_map, (score_map.shape[0], width))
    n_rows = max(1, _STRIP_PIXELS // width)  # floats of a whole large image would fill the memory
    for top in range(0, height, n_rows):
        part = picture[top : top + n_rows]
        score = _rows(columns, np.arange(top, top + len(part)), height)
        if (score > SCORE_RANGE[0]).any():  # elsewhere the heat is clear
            colour, opacity = heat(score)
            hot = opacity > 0
            cold = part[hot]
            blended = cold + opacity[hot][:, None] * (colour[hot].astype(np.float32) - cold)
            part[hot] = np.rint(blended).astype(np.uint8)
    if true_mask is not None:
        picture = outlined(picture, true_mask, colour=TRUE_COLOUR, dashed=True)
    _draw(picture, mask, colour=FOUND_COLOUR)
    return picture


def _rows(values: NDArray[np.float32], rows: NDArray[np.intp], height: int) -> NDArray[np.float32]:
    """Some `rows` of `values` (h, W) enlarged bilinearly to (`height`, W), as `resize_map` does it whole."""
    place = np.clip((rows + 0.5) * (len(values) / height) - 0.5, 0, len(values) - 1)
    first = np.minimum(place.astype(np.intp), max(len(values) - 2, 0))
    share = (place - first).astype(np.float32)[:, None]
    second = np.minimum(first + 1, len(values) - 1)
    return np.asarray(values[first] * (1 - share) + values[second] * share, dtype=np.float32)


def outlined(picture: Picture, mask: Mask, *, colour: Colour, dashed: bool = False) -> Picture:
    """The picture with a rimmed line around each part of the mask; as thick as the picture's size asks for."""
    drawn = np.ascontiguousarray(picture).copy()
    thickness = _draw(drawn, mask, colour=colour)
    if not dashed:
        return drawn
    dash = 4 * thickness
    rows, cols = np.ogrid[: picture.shape[0], : picture.shape[1]]
    on = (rows // dash + cols // dash) % 2 == 0
    return np.where(on[..., None], drawn, picture)


def _draw(picture: Picture, mask: Mask, *, colour: Colour) -> int:
    """Draw a rimmed line around each part of the mask into the picture; returns its thickness in pixels."""
    size = (int(picture.shape[0]), int(picture.shape[1]))
    thickness = max(1, round(min(size) / 160))
    polygons = outline(fit_mask(mask, size))
    draw_polygons(picture, polygons, colour=_RIM_COLOUR, thickness=thickness + 2 * max(1, thickness // 3))
    draw_polygons(picture, polygons, colour=colour, thickness=thickness)
    return thickness


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
