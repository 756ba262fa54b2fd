"""Pixel AUROC, average precision, best F1 and AUPRO over any number of pixels. Scores: high = anomalous.

Every curve moves up only at the scores of defective pixels, so all areas follow from the counts at these: how many
defect-free pixels score above, and how many at least as much. Memory is bounded: the counts are exact up to
`MOST_SCORES` distinct scores, then neighbouring scores share a bin (AUROC, AUPRO and F1 move by some 1e-6, average
precision by less than 1e-4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

AUPRO_MAX_FPR = 0.3  # MVTec's definition
MOST_SCORES = 1 << 22  # distinct scores that are told apart
WAITING_PIXELS = 1 << 22  # pixels kept as they come before they are counted
_EIGHT_CONNECTED = np.ones((3, 3), dtype=np.int8)
_RESAMPLING_BITS = 12  # dropped of float32's 23 bits of fraction where images are drawn anew: 2048 bins from 0.5 to 1
_INFINITY = 0xFF800000  # its key

Floats = NDArray[np.float64]
Keys = NDArray[np.uint32]


@dataclass(frozen=True)
class PixelCurve:
    """Counts of pixels at each distinct score of a defective pixel, from the highest score down; arrays are (N,)."""

    n_positive: int
    n_negative: int
    n_regions: int
    true_positives: Floats  # defective pixels that score at least this
    false_positives: Floats  # defect-free pixels that score at least this
    false_positives_above: Floats  # defect-free pixels that score more
    region_overlap: Floats  # mean over regions of the share that scores at least this

    @property
    def auroc(self) -> float:
        """Area under the ROC curve, ties counted half; nan where either class has no pixel."""
        if not self.n_positive or not self.n_negative:
            return float("nan")
        steps = np.diff(self.true_positives, prepend=0.0)
        beaten = self.n_negative - 0.5 * (self.false_positives + self.false_positives_above)
        return float(steps @ beaten) / self.n_positive / self.n_negative

    @property
    def average_precision(self) -> float:
        """Sum over thresholds of (gain in recall) * precision, not interpolated; nan without defective pixels."""
        if not self.n_positive:
            return float("nan")
        precision = self.true_positives / (self.true_positives + self.false_positives)
        return float(np.diff(self.true_positives, prepend=0.0) @ precision) / self.n_positive

    @property
    def f1_max(self) -> float:
        """Highest F1 over all thresholds; nan without defective pixels."""
        if not self.n_positive:
            return float("nan")
        return float((2 * self.true_positives / (self.true_positives + self.false_positives + self.n_positive)).max())

    def aupro(self, max_fpr: float = AUPRO_MAX_FPR) -> float:
        """Area under region overlap against FPR up to `max_fpr`, divided by it; nan without regions or free pixels."""
        if not 0.0 < max_fpr <= 1.0:
            raise ValueError(f"max_fpr is {max_fpr}; expected 0 < max_fpr <= 1")
        if not self.n_regions or not self.n_negative:
            return float("nan")
        before = np.concatenate([[0.0], self.region_overlap[:-1]])
        # at each score: straight on to the pixels above it, then up (slanted, where defect-free pixels share the score)
        fpr = np.stack([self.false_positives_above, self.false_positives], axis=1).ravel() / self.n_negative
        overlap = np.stack([before, self.region_overlap], axis=1).ravel()
        fpr, overlap = np.concatenate([[0.0], fpr, [1.0]]), np.concatenate([[0.0], overlap, [1.0]])
        inside = int(np.searchsorted(fpr, max_fpr, side="right"))  # points at or left of the limit
        if inside < len(fpr):
            share = (max_fpr - fpr[inside - 1]) / (fpr[inside] - fpr[inside - 1])
            at_limit = overlap[inside - 1] + share * (overlap[inside] - overlap[inside - 1])
            fpr, overlap = np.append(fpr[:inside], max_fpr), np.append(overlap[:inside], at_limit)
        return float(np.diff(fpr) @ (overlap[1:] + overlap[:-1])) / 2.0 / max_fpr


class PixelScores:
    """Counts the pixel scores of image after image; `curve()` may be asked for at any time.

    With `resampling`, each image's counts are also kept apart, in coarse bins, for `curves_of_images`.
    """

    def __init__(self, *, resampling: bool = False) -> None:
        self._free, self._defective = _ScoreCounts(), _ScoreCounts()
        self._n_regions = 0
        self._images: list[_ImageCounts] | None = [] if resampling else None

    def add(
        self, score: NDArray[Any], mask: NDArray[np.bool_], *, counted: NDArray[np.bool_] | None = None
    ) -> None:  # fmt: skip
        """Count one image: `score` (H, W), rounded to float32, and `mask` (H, W), True = defect.

        Pixels that are not `counted` (H, W) are neither good nor defective. Raises ValueError for unequal shapes, a
        mask that is not bool, and NaN.
        """
        if score.shape != mask.shape or mask.dtype != np.bool_ or mask.ndim != 2:
            raise ValueError(
                f"score is {score.shape} and mask {mask.shape} {mask.dtype}; expected equal (H, W) and bool"
            )
        keys = ordered_keys(score)
        free = ~mask if counted is None else ~mask & counted
        mask = mask if counted is None else mask & counted
        regions, n_regions = ndimage.label(mask, structure=_EIGHT_CONNECTED)
        inside = regions[mask]
        shares = 1.0 / np.bincount(inside, minlength=n_regions + 1)[inside]  # of a pixel in its region
        self._free.add(keys[free])
        self._defective.add(keys[mask], shares)
        self._n_regions += int(n_regions)
        if self._images is not None:
            self._images.append(_ImageCounts.of(keys, free, mask, shares, n_regions=int(n_regions)))

    def curve(self) -> PixelCurve:
        """Sum up all images added so far."""
        dropped = max(self._free.count(), self._defective.count())
        free_keys, free, _ = self._free.totals(dropped)
        keys, defective, shares = self._defective.totals(dropped)
        keys = keys[::-1]
        up_to = np.concatenate([[0], np.cumsum(free)])  # free pixels of the first keys, from the lowest
        return _curve(
            defective[::-1], shares[::-1], n_negative=int(up_to[-1]), n_regions=self._n_regions,
            free_above=up_to[-1] - up_to[np.searchsorted(free_keys, keys, side="right")],
            free_at_least=up_to[-1] - up_to[np.searchsorted(free_keys, keys, side="left")],
        )  # fmt: skip

    def curves_of_images(self) -> Callable[[Sequence[int] | NDArray[np.intp]], PixelCurve]:
        """Return a function from image indices, with repetitions, to the curve of these images (bootstrap).

        Raises ValueError unless made for `resampling`.
        """
        if self._images is None:
            raise ValueError("the images are not kept apart; make PixelScores with resampling=True")
        bins = np.unique(np.concatenate([image.bins for image in self._images]))
        tables = np.zeros((3, len(self._images), len(bins)), dtype=np.float32)  # free, defective, shares of regions
        for row, image in enumerate(self._images):
            tables[:, row, np.searchsorted(bins, image.bins)] = image.sums
        n_regions = np.array([image.n_regions for image in self._images])

        def curve(indices: Sequence[int] | NDArray[np.intp]) -> PixelCurve:
            draws = np.bincount(indices, minlength=tables.shape[1]).astype(np.float32)
            free, defective, shares = ((draws @ table)[::-1].astype(np.float64) for table in tables)
            held, at_least = defective > 0, np.cumsum(free)
            return _curve(
                defective[held], shares[held], n_negative=round(free.sum()), n_regions=int(draws @ n_regions),
                free_above=(at_least - free)[held], free_at_least=at_least[held],
            )  # fmt: skip

        return curve

    def threshold(self, false_pixels: float) -> float:
        """Lowest score t of which at most `false_pixels` defect-free pixels (of all images together) score above t.

        The fair threshold of the paper is `threshold(n_images)` over good training images at 256 x 256. Raises
        ValueError for a negative number, and before any defect-free pixel was added.
        """
        dropped = self._free.count()
        keys, counts, _ = self._free.totals(dropped)
        if false_pixels < 0 or not len(keys):
            raise ValueError(f"{false_pixels} false pixels of {counts.sum()}; expected 0 or more, of 1 or more")
        above = counts.sum() - np.cumsum(counts)
        bin_end = (int(keys[np.argmax(above <= false_pixels)]) + 1 << dropped) - 1
        return float(scores_of(np.array([min(bin_end, _INFINITY)], dtype=np.uint32))[0])


def _curve(
    defective: NDArray[Any], shares: Floats, *, free_above: NDArray[Any], free_at_least: NDArray[Any],
    n_negative: int, n_regions: int,
) -> PixelCurve:  # fmt: skip
    """Add up counts per score, from the highest score down."""
    reached = np.cumsum(shares) / max(n_regions, 1)
    return PixelCurve(
        n_positive=round(float(defective.sum())),
        n_negative=n_negative,
        n_regions=n_regions,
        true_positives=np.cumsum(defective, dtype=np.float64),
        false_positives=free_at_least.astype(np.float64),
        false_positives_above=free_above.astype(np.float64),
        region_overlap=np.minimum(reached / reached[-1], 1.0) if len(reached) else reached,  # the last is 1
    )


class _ScoreCounts:
    """Pixels and their summed weight per score, held as an integer key of the same order.

    Each bit dropped from all keys joins neighbouring scores.
    """

    def __init__(self) -> None:
        self._dropped_bits = 0
        self._keys, self._counts, self._weights = np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0)
        self._waiting: list[tuple[Keys, Floats | None]] = []

    def add(self, keys: Keys, weights: Floats | None = None) -> None:
        self._waiting.append((keys, weights))
        if sum(len(waiting) for waiting, _ in self._waiting) >= WAITING_PIXELS:
            self.count()

    def totals(self, dropped_bits: int) -> tuple[Keys, NDArray[np.int64], Floats]:
        """Return what was counted: rising keys without `dropped_bits`, of `count()` or more; counts; weights."""
        return _sum_equal(_without_bits(self._keys, dropped_bits - self._dropped_bits), self._counts, self._weights)

    def count(self) -> int:
        """Count the pixels that wait; return how many bits are dropped so that the distinct scores fit."""
        arrived = np.concatenate([np.empty(0, np.uint32), *(keys for keys, _ in self._waiting)])
        keys = _without_bits(arrived, self._dropped_bits)
        if self._waiting and self._waiting[0][1] is None:
            keys, counts = np.unique(keys, return_counts=True)  # much faster than with weights
            weights = np.zeros(len(keys))
        else:
            counts = np.ones(len(keys), dtype=np.int64)
            weights = np.concatenate([np.empty(0), *(w for _, w in self._waiting if w is not None)])
        self._waiting = []
        kept = _sum_equal(
            np.concatenate([self._keys, keys]), np.concatenate([self._counts, counts]),
            np.concatenate([self._weights, weights]),
        )  # fmt: skip
        while len(kept[0]) > MOST_SCORES:
            self._dropped_bits += 1
            kept = _sum_equal(_without_bits(kept[0], 1), *kept[1:])
        self._keys, self._counts, self._weights = kept
        return self._dropped_bits


@dataclass(frozen=True)
class _ImageCounts:
    """Pixels of one image per coarse bin of the score; `sums` (3, N): free, defective, shares of regions."""

    bins: Keys
    sums: Floats
    n_regions: int

    @staticmethod
    def of(
        keys: Keys, free: NDArray[np.bool_], mask: NDArray[np.bool_], shares: Floats, *, n_regions: int
    ) -> "_ImageCounts":  # fmt: skip
        bins, place = np.unique((keys >> _RESAMPLING_BITS).ravel(), return_inverse=True)
        inside = mask.ravel()
        sums = [np.bincount(place[free.ravel()], minlength=len(bins)), np.bincount(place[inside], minlength=len(bins))]
        return _ImageCounts(bins, np.stack([*sums, np.bincount(place[inside], shares, len(bins))]), n_regions)


def _without_bits(keys: Keys, n_bits: int) -> Keys:
    return np.right_shift(keys, np.uint32(n_bits), dtype=np.uint32)


def _sum_equal(keys: Keys, counts: NDArray[np.int64], weights: Floats) -> tuple[Keys, NDArray[np.int64], Floats]:
    """Sort by key and sum the counts and weights of equal ones."""
    order = np.argsort(keys, kind="stable")  # of sorted runs: linear
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(keys)), np.bool_), keys[1:] != keys[:-1]]))
    if not len(first):
        return keys, counts, weights
    return keys[first], np.add.reduceat(counts[order], first), np.add.reduceat(weights[order], first)


def ordered_keys(score: NDArray[Any]) -> Keys:
    """Map float32 scores to uint32 of the same order: flip all bits of negative numbers, the sign of the others."""
    scores = score.astype(np.float32) + np.float32(0.0)  # -0.0 becomes 0.0: they are equal
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    bits = scores.view(np.uint32)
    return bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


def scores_of(keys: Keys) -> NDArray[np.float32]:
    """Undo `ordered_keys`."""
    bits = keys ^ np.where(keys >> 31, np.uint32(0x80000000), np.uint32(0xFFFFFFFF))
    return bits.astype(np.uint32).view(np.float32)
