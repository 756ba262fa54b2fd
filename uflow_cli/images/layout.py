"""How an image lies on the input of a network: squashed, with a mirrored border, or cut into overlapping tiles.

Whatever the way, evidence comes back as one map per source for the whole image: tiles are stitched, and a share per
cell says how much of it is image, not border, and inside the region of interest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from uflow_cli.config import Fit, Size
from uflow_cli.images.drawing import resize_image, resize_map
from uflow_cli.images.roi import cell_shares, filled

OVERLAP = 4  # tiles overlap by at least a fourth of a side


@dataclass(frozen=True)
class Layout:
    """An image of `size` is resized to `content`, mirrored beyond its right and bottom up to `canvas`, and cut there.

    Tiles of size `tile` have their top left pixels at `corners`. All are (height, width) or (row, column) in pixels.
    """

    size: Size
    content: Size
    canvas: Size
    tile: Size
    corners: tuple[Size, ...]

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width of the canvas over those of the content, at least 1."""
        return self.canvas[0] / self.content[0], self.canvas[1] / self.content[1]

    @property
    def has_border(self) -> bool:
        """Whether the canvas is larger than the content."""
        return self.content != self.canvas

    def resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`image` in the size of the content; the image itself where that is its size."""
        return image if image.shape[:2] == self.content else resize_image(image, self.content)

    def within(self, roi: NDArray[np.bool_]) -> Layout:
        """The layout without the tiles in which `roi`, (H, W) of the image, has no pixel."""
        if len(self.corners) == 1:
            return self
        seen = [c for c in self.corners if roi[c[0] : c[0] + self.tile[0], c[1] : c[1] + self.tile[1]].any()]
        return replace(self, corners=tuple(seen))

    def seen(
        self, image: NDArray[np.uint8], roi: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """`image` in the size of the content, and which pixels of that lie in `roi` (H, W; None: all).

        Pixels outside are no part of it: they are black before the image is resized.
        """
        if roi is None or self.size == self.content:
            return self.resized(image), roi
        content = self.resized(np.where(roi[..., None], image, np.uint8(0)))
        shares = resize_image(roi.astype(np.uint8) * 255, self.content)
        return content, shares >= min(255, int(shares.max()))

    def cut(
        self, content: NDArray[np.uint8], number: int, inside: NDArray[np.bool_] | None = None
    ) -> NDArray[np.uint8]:
        """The tile `number` of the resized image `content` (H, W, 3), a view of it where nothing is mirrored.

        What is not `inside` (H, W) is replaced by the mirror image of what is.
        """
        top, left = self.corners[number]
        place = slice(top, top + self.tile[0]), slice(left, left + self.tile[1])
        tile = content[place] if inside is None else filled(content[place], inside[place])
        missing = (self.tile[0] - tile.shape[0], self.tile[1] - tile.shape[1])
        return np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric") if any(missing) else tile

    def grid(self, tile_grid: Size) -> Size:
        """The grid of the canvas if that of a tile is `tile_grid`."""
        return self.canvas[0] * tile_grid[0] // self.tile[0], self.canvas[1] * tile_grid[1] // self.tile[1]

    def shares(self, grid: Size, *, roi: NDArray[np.bool_] | None = None) -> NDArray[np.float32] | None:
        """How much of each cell of the canvas's `grid` is image inside `roi` (H, W), 0 to 1; None: all."""
        if roi is not None:
            return cell_shares(roi, (grid[0] / self.extent[0], grid[1] / self.extent[1]), grid)
        if not self.has_border:
            return None
        rows, columns = (
            np.clip(side * n / whole - np.arange(n), 0.0, 1.0)
            for side, whole, n in zip(self.content, self.canvas, grid, strict=True)
        )
        return np.outer(rows, columns).astype(np.float32)


def lay_out(size: Size, *, fit: Fit, input_size: Size, step: int) -> Layout:
    """The layout of an image of `size`; tiles lie on multiples of `step` pixels, the network's coarsest stride."""
    if fit == "letterbox":
        scale = min(input_size[0] / size[0], input_size[1] / size[1])
        content = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return Layout(size, content, input_size, input_size, ((0, 0),))
    if fit == "tile":
        canvas = tuple(max(tile, math.ceil(n / step) * step) for n, tile in zip(size, input_size, strict=True))
        starts = [_starts(n, tile, step) for n, tile in zip(canvas, input_size, strict=True)]
        corners = tuple((top, left) for top, left in product(*starts))
        return Layout(size, size, (canvas[0], canvas[1]), input_size, corners)
    return Layout(size, input_size, input_size, input_size, ((0, 0),))


def _starts(side: int, tile: int, step: int) -> list[int]:
    """Where tiles begin along a side: evenly, on multiples of `step`, the last one at the end."""
    n_gaps = math.ceil((side - tile) / max(step, tile - tile // OVERLAP))
    return sorted({round(i * (side - tile) / (step * n_gaps)) * step for i in range(n_gaps + 1)}) if n_gaps else [0]


class Stitcher:
    """Evidence maps of tiles, added one after the other, as one map of the canvas, blended where tiles overlap.

    Weights rise linearly from the border of a tile, where a network sees least around a cell. Cells that no tile has
    seen, as none of them counts, get the mean of the others.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._sums: list[NDArray[np.float32]] = []
        self._weights: list[NDArray[np.float32]] = []
        self._n_added = 0

    def add(self, maps: Iterable[NDArray[np.float32]]) -> None:
        """Add the maps of the next tile, per source (H_s, W_s)."""
        layout = self.layout
        top, left = layout.corners[self._n_added]
        self._n_added += 1
        if layout.canvas == layout.tile:
            self._sums = list(maps)
            return
        for source, tile in enumerate(maps):
            if source == len(self._sums):
                grid = layout.grid((tile.shape[0], tile.shape[1]))
                self._sums.append(np.zeros(grid, np.float32))
                self._weights.append(np.zeros(grid, np.float32))
            weight = np.outer(*(np.minimum(np.arange(n) + 0.5, n - 0.5 - np.arange(n)) for n in tile.shape))
            rows = slice(row := top * tile.shape[0] // layout.tile[0], row + tile.shape[0])
            columns = slice(column := left * tile.shape[1] // layout.tile[1], column + tile.shape[1])
            self._sums[source][rows, columns] += (weight * tile).astype(np.float32)
            self._weights[source][rows, columns] += weight.astype(np.float32)

    def maps(self) -> list[NDArray[np.float32]]:
        """The maps of the canvas, per source (H_s, W_s)."""
        if self._n_added < len(self.layout.corners):
            raise ValueError(f"{self._n_added} of {len(self.layout.corners)} tiles were added")
        if self.layout.canvas == self.layout.tile:
            return self._sums
        return [_mean_of_tiles(total, weight) for total, weight in zip(self._sums, self._weights, strict=True)]


def _mean_of_tiles(total: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """`total` / `weight`, and their mean where no tile has been."""
    seen = weight > 0
    if seen.all():
        return total / weight
    values = np.divide(total, weight, where=seen, out=np.zeros_like(total))
    values[~seen] = values[seen].mean()
    return values


def on_content(values: NDArray[np.floating], size: Size, extent: tuple[float, float]) -> NDArray[np.float32]:
    """A map of the canvas as `resize_map` resizes it, so that the content has `size`, without what is beside that."""
    whole = tuple(max(n, round(n * e)) for n, e in zip(size, extent, strict=True))
    return np.ascontiguousarray(resize_map(values, (whole[0], whole[1]))[: size[0], : size[1]])
