"""Views of good images, for sets too small to show the flow every position and light: off unless asked for.

A view is fixed by the seed, the image's content and its number, never by chance at run time, so that its features can
be kept. Only images that train the flow have views; held-out images are seen as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uflow_cli.errors import UflowError
from uflow_cli.images import tilt_image

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
        """What this view shows of (H, W, 3) `image`; odd quarter turns swap height and width."""
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
