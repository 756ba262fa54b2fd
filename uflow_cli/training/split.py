"""Which good images train, which choose the epoch, which calibrate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from uflow_cli.config import MIN_HELD_OUT
from uflow_cli.errors import TrainingError


@dataclass(frozen=True)
class Split:
    """Indices of the good images by use. `calibration` is `selection` where there are too few to part them."""

    training: tuple[int, ...]
    selection: tuple[int, ...]
    calibration: tuple[int, ...]

    @property
    def shared(self) -> bool:
        """Whether the same images choose the epoch and calibrate."""
        return self.selection == self.calibration


def split_images(n_images: int, *, held_out_fraction: float, seed: int) -> Split:
    """A random split of `n_images` good images (METHOD 7.1): by default 15 %, at least 8, never train the flow.

    With at least 24 held-out images a third of them chooses the epoch and the others calibrate; with fewer, all
    do both. Fewer than 16 images are halved. A fraction of 0 holds none out. TrainingError for less than 2 images.
    """
    if n_images < 2:
        raise TrainingError(
            f"{n_images} good image: at least 2 are needed, one to train and one held out, and 50 or more do well"
        )
    if held_out_fraction == 0:
        return Split(tuple(range(n_images)), (), ())
    n_held_out = min(max(MIN_HELD_OUT, round(held_out_fraction * n_images)), n_images // 2)
    order = [int(i) for i in np.random.default_rng(seed).permutation(n_images)]
    held_out, training = order[:n_held_out], order[n_held_out:]
    if n_held_out < 3 * MIN_HELD_OUT:
        return Split(tuple(training), tuple(held_out), tuple(held_out))
    n_selection = max(MIN_HELD_OUT, n_held_out // 3)
    return Split(tuple(training), tuple(held_out[:n_selection]), tuple(held_out[n_selection:]))


def batched(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`indices` in pieces of `size`; the last may be shorter."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
