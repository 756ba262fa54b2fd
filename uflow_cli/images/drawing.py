"""Outlines, colours and letters on (H, W, 3) uint8 RGB images; each function returns a new array. Points: (x, y)."""

from typing import Any

import cv2  # noqa: TID251
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]


def outline(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Trace the borders of a mask's 8-connected parts and of their holes: one (N, 2) polygon of (x, y) pixels each."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(contour, dtype=np.int32).reshape(-1, 2) for contour in contours]


def draw_outlines(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], *, colour: Colour = (255, 0, 0), thickness: int = 1
) -> NDArray[np.uint8]:
    """Return a copy of the (H, W, 3) image with the outline of an (H, W) mask; ValueError where their sizes differ."""
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image is {image.shape[:2]} and mask {mask.shape}; resize the mask first")
    drawn = np.ascontiguousarray(image).copy()
    cv2.polylines(drawn, outline(mask), True, colour, thickness)
    return drawn


def colour_map(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Colour an (H, W) map of values in 0..1 with the perceptually uniform "inferno": (H, W, 3) uint8 RGB.

    Values outside are clipped; NaN counts as 0.
    """
    levels = np.rint(np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])


def put_text(
    image: NDArray[np.uint8], text: str, *, at: tuple[int, int], colour: Colour = (255, 255, 255), height: int = 12
) -> NDArray[np.uint8]:
    """Return a copy of the (H, W, 3) image with ASCII `text`, capitals `height` pixels tall, lower left corner `at`."""
    drawn = np.ascontiguousarray(image).copy()
    scale = height / 21.0  # Hershey's simplex capitals are 21 units tall
    cv2.putText(drawn, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, max(1, round(height / 12)), cv2.LINE_AA)
    return drawn
