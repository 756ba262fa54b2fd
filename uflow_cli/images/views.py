"""Images that features are made of: files known by their content, and views of them.

Views of good images are for sets too small to show the flow every position and light; there are none unless asked for.
A view is fixed by the seed, the image's content and its number, never by chance at run time, so that its features can
be kept. Only images that train the flow have views; held-out images are seen as they are.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import ImageError, UflowError
from uflow_cli.images.drawing import resize_image, tilt_image
from uflow_cli.images.layout import Layout
from uflow_cli.images.reading import decode_image, read_encoded
from uflow_cli.images.roi import EVERYWHERE, RoiFile, Rois

Item = TypeVar("Item")
Result = TypeVar("Result")

N_THREADS = min(8, os.cpu_count() or 1)
MAX_TILT = 5.0  # degrees
MAX_BRIGHTNESS = 0.1  # change, as a share
_FLIPS = ((True, 0), (True, 2), (False, 2))  # left-right, top-bottom, both, as (mirror, quarter turns)
_ROTATIONS = ((False, 1), (False, 2), (False, 3))
_BOTH = tuple((mirror, turns) for mirror in (False, True) for turns in range(4) if mirror or turns)


@dataclass(frozen=True)
class View:
    """One way to look at an image; the default is the image as it is."""

    mirror: bool = False  # left-right, before the turns
    quarter_turns: int = 0  # anticlockwise
    tilt: float = 0.0  # degrees, anticlockwise
    brightness: float = 1.0  # factor

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The view of (H, W, 3) `image`; odd quarter turns swap height and width."""
        if self.mirror:
            image = image[:, ::-1]
        if self.quarter_turns:
            image = np.rot90(image, self.quarter_turns)
        image = np.ascontiguousarray(image)
        if self.tilt:
            image = tilt_image(image, self.tilt)
        if self.brightness != 1.0:
            levels = np.clip(np.rint(np.arange(256) * self.brightness), 0, 255).astype(np.uint8)
            image = levels[image]
        return image


ORIGINAL = View()


@dataclass(frozen=True)
class Augmentation:
    """Which `kinds` of change views may have, and how many views of an image there are, the original among them."""

    kinds: tuple[str, ...]
    n_views: int
    seed: int

    def __post_init__(self) -> None:
        if self.kinds and not self._continuous and self.n_views > len(self._symmetries):
            most = len(self._symmetries)
            raise UflowError(
                f"views {self.n_views}: {' and '.join(self.kinds)} give only {most} different ones, the original among "
                f"them; take --views {most}, or add tilts or brightness to --augment"
            )

    @property
    def _continuous(self) -> bool:
        return "tilts" in self.kinds or "brightness" in self.kinds

    @property
    def _symmetries(self) -> tuple[tuple[bool, int], ...]:
        """The mirrorings and turns that the kinds allow, the identity first."""
        flips, rotations = "flips" in self.kinds, "rotations" in self.kinds
        changed = _BOTH if flips and rotations else _FLIPS if flips else _ROTATIONS if rotations else ()
        return ((False, 0), *changed)

    def views(self, digest: bytes, *, epoch: int = 0) -> list[View]:
        """The views, other than the original, of the image whose content has `digest`; other ones in another `epoch`.

        They differ from each other and, where the kinds allow it, go through all mirrorings and turns before one
        comes twice.
        """
        if not self.kinds:
            return []
        rng = np.random.default_rng([self.seed, epoch, int.from_bytes(digest[:8], "little")])
        symmetries = self._symmetries if self._continuous else self._symmetries[1:]
        order = rng.permutation(len(symmetries))
        return [self._view(rng, symmetries[order[i % len(order)]]) for i in range(self.n_views - 1)]

    def _view(self, rng: np.random.Generator, symmetry: Sequence[int]) -> View:
        tilt, light = rng.uniform(-1, 1, 2)
        return View(
            mirror=bool(symmetry[0]),
            quarter_turns=int(symmetry[1]),
            tilt=round(MAX_TILT * float(tilt), 6) if "tilts" in self.kinds else 0.0,
            brightness=round(1 + MAX_BRIGHTNESS * float(light), 6) if "brightness" in self.kinds else 1.0,
        )


@dataclass(frozen=True, slots=True)
class Source:
    """A view of an image file whose content had `digest` when training began, or of a tile of it.

    Without a `layout` the image is squashed into the input size.
    """

    path: Path
    digest: bytes  # SHA-256
    view: View = ORIGINAL
    layout: Layout | None = None
    tile: int = 0  # which of the layout
    size: tuple[int, int] | None = None  # of the image, (H, W); None: it was not decoded
    roi: RoiFile | None = None  # with a layout only

    @property
    def counts_whole(self) -> bool:
        """Whether all of it is image that counts: no border, no region of interest."""
        return self.roi is None and (self.layout is None or not self.layout.has_border)

    @property
    def key(self) -> bytes:
        """A digest that no other image or view has, whatever its file is called."""
        about = [repr(self.view)] if self.view != ORIGINAL else []
        if self.layout is not None:
            about.append(repr((self.layout, self.tile)))
        if self.roi is not None:
            about.append(self.roi.digest.hex())
        return hashlib.sha256(self.digest + "".join(about).encode()).digest() if about else self.digest

    def shares(self, grid: tuple[int, int]) -> NDArray[np.float32] | None:
        """How much of each cell of `grid` (H, W) of the view is image in the region of interest, 0 to 1; None: all."""
        layout = self.layout
        if layout is None:
            return None
        whole = layout.shares(layout.grid(grid), roi=None if self.roi is None else self.roi.mask())
        if whole is None:
            return None
        top, left = (
            n * cells // side for n, cells, side in zip(layout.corners[self.tile], grid, layout.tile, strict=True)
        )
        tile = whole[top : top + grid[0], left : left + grid[1]]
        if self.view == ORIGINAL:
            return tile
        picture = np.repeat(np.rint(255 * tile).astype(np.uint8)[..., None], 3, axis=2)
        turned = resize_image(replace(self.view, brightness=1.0).apply(picture), grid)
        return np.asarray(turned[..., 0] / np.float32(255))

    def pixels(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Pixels of the view in `size` (H, W): (H, W, 3). Raises ImageError, also if the file has changed since."""
        return pixels_of([self], size)[0]


def pixels_of(sources: Sequence[Source], size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Pixels of `sources` of one file, which is decoded once, each in `size` (H, W); ImageError as `Source.pixels`."""
    path = sources[0].path
    data = read_encoded(path)
    if hashlib.sha256(data).digest() != sources[0].digest:
        raise ImageError(f"{path}: the file changed while it was in use; start again when it is settled")
    image, contents = decode_image(data, path=path), {}
    roi = None if sources[0].roi is None else sources[0].roi.mask()
    found = []
    for source in sources:
        layout, part = source.layout, image
        if layout is not None:
            if layout not in contents:
                contents = {layout: layout.seen(image, roi)}
            content, inside = contents[layout]
            part = layout.cut(content, source.tile, inside)
        found.append(resize_image(source.view.apply(part), size))
    return found


def survey_images(
    paths: Sequence[Path], *, known: Container[bytes] | None, on_progress: Callable[[int, int], None],
    on_doubt: Callable[[str], None] = lambda _sentence: None, rois: Rois = EVERYWHERE,
) -> list[Source]:  # fmt: skip
    """Read every image once, so that training does not stop half-way; ImageError names those that cannot be decoded,
    or that have no fitting mask in `rois`.

    Those with features at hand, their digest in `known`, were decoded once and need not be again. `on_doubt` hears of
    images of one content and of images that show nothing.
    """
    blank: list[Path] = []

    def survey(path: Path) -> Source | ImageError:
        try:
            data = read_encoded(path)
            digest, size = hashlib.sha256(data).digest(), None
            if known is None or digest not in known:
                image = decode_image(data, path=path)
                size = (image.shape[0], image.shape[1])
                rois.of(path, size)
                if (image == image[0, 0]).all():
                    blank.append(path)
        except ImageError as error:
            return error
        return Source(path, digest, size=size)

    sources: list[Source] = []
    errors: list[ImageError] = []
    for done, result in enumerate(done_ahead(survey, paths), start=1):
        if isinstance(result, Source):
            sources.append(result)
        else:
            errors.append(result)
        on_progress(done, len(paths))
    if errors:
        more = f" (and {len(errors) - 1} more of {len(paths)} images)" if len(errors) > 1 else ""
        raise ImageError(f"{errors[0]}{more}; remove or replace it before training")
    again = len(sources) - len({source.digest for source in sources})
    if again:
        first = {source.digest: source.path for source in reversed(sources)}
        repeated = next(source.path for source in sources if first[source.digest] != source.path)
        on_doubt(f"{again} of {len(sources)} images are copies of others, such as {repeated}: they teach nothing new")
    if blank:
        on_doubt(f"{len(blank)} of {len(sources)} images are of one colour, such as {min(blank)}: is that a good part?")
    return sources


def with_tiles(sources: Sequence[Source], layouts: Sequence[Layout]) -> list[Source]:
    """Every tile of each of `sources` in its layout."""
    return [
        replace(source, layout=layout, tile=tile)
        for source, layout in zip(sources, layouts, strict=True)
        for tile in range(len(layout.corners))
    ]


def with_views(
    sources: Sequence[Source], training: Iterable[int], augmentation: Augmentation, *, epoch: int = 0
) -> list[Source]:
    """`sources`, and after them the views of those at `training`: all other views of the first, of the second, ..."""
    views = [
        replace(sources[i], view=view) for i in training for view in augmentation.views(sources[i].digest, epoch=epoch)
    ]
    return [*sources, *views]


def done_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = 2 * N_THREADS
) -> Iterator[Result]:
    """`work(item)` for each item, in order, up to `ahead` items before they are asked for; its errors are raised."""
    with ThreadPoolExecutor(N_THREADS) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
