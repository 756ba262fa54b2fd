"""Pixel AUROC, average precision, best F1 and AUPRO, exact over any number of pixels. Scores: high = anomalous.

Every curve moves up only at the scores of defective pixels, so all areas follow exactly from the counts at these:
how many defect-free pixels score above, and how many at least as much. Scores are float32, some 33 million of them kept
as they come and the rest as distinct values with counts, 8 bytes each: there are 8.4 million values from 0.5 to 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

AUPRO_MAX_FPR = 0.3  # METHOD 5, MVTec's definition
_EIGHT_CONNECTED = np.ones((3, 3), dtype=np.int8)
_NEGATIVE_BUFFER = 1 << 25  # pixels kept as they come
_POSITIVE_BUFFER = 1 << 22
_SLICE = 1 << 20  # distinct scores merged at a time

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PixelCurve:
    """Counts of pixels at each distinct score of a defective pixel, from the highest score down; arrays are (N,)."""

    n_positive: int
    n_negative: int
    n_regions: int
    scores: NDArray[np.float32]
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
        return float(self._f1.max()) if self.n_positive else float("nan")

    @property
    def f1_threshold(self) -> float:
        """Highest score s for which "score >= s" reaches `f1_max`; nan without defective pixels."""
        return float(self.scores[np.argmax(self._f1)]) if self.n_positive else float("nan")

    @property
    def _f1(self) -> Floats:
        return 2.0 * self.true_positives / (self.true_positives + self.false_positives + self.n_positive)

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
    """Counts the pixel scores of image after image; `curve()` may be asked for at any time."""

    def __init__(self) -> None:
        self._negative = _ScoreCounts(buffer=_NEGATIVE_BUFFER, weighted=False)
        self._positive = _ScoreCounts(buffer=_POSITIVE_BUFFER, weighted=True)
        self._n_regions = 0

    def add(self, score: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Count one image: `score` (H, W), rounded to float32, and `mask` (H, W), True = defect.

        Raises ValueError for unequal shapes, a mask that is not bool, and NaN.
        """
        if score.shape != mask.shape or mask.dtype != np.bool_ or mask.ndim != 2:
            raise ValueError(
                f"score is {score.shape} and mask {mask.shape} {mask.dtype}; expected equal (H, W) and bool"
            )
        keys = _ordered_keys(score)
        if not mask.any():
            self._negative.add(keys.ravel())
            return
        self._negative.add(keys[~mask])
        regions, n_regions = ndimage.label(mask, structure=_EIGHT_CONNECTED)
        inside = regions[mask]
        self._positive.add(keys[mask], 1.0 / np.bincount(inside, minlength=n_regions + 1)[inside])
        self._n_regions += int(n_regions)

    def curve(self) -> PixelCurve:
        """Sum up what was added so far."""
        keys, counts, weights = self._positive.merged()
        keys, counts, weights = keys[::-1], counts[::-1], weights[::-1]
        overlap = np.cumsum(weights) / max(self._n_regions, 1)
        return PixelCurve(
            n_positive=self._positive.total,
            n_negative=self._negative.total,
            n_regions=self._n_regions,
            scores=_scores_of(keys),
            true_positives=np.cumsum(counts, dtype=np.float64),
            false_positives=self._negative.at_least(keys),
            false_positives_above=self._negative.above(keys),
            region_overlap=np.minimum(overlap / overlap[-1], 1.0) if len(overlap) else overlap,  # the last is 1
        )

    def threshold(self, false_pixels: float) -> float:
        """Lowest float32 t such that at most `false_pixels` defect-free pixels (of all images together) score above t.

        The fair threshold of METHOD 5 is `threshold(n_images)` over good training images at 256 x 256. ValueError for a
        negative number, and before any defect-free pixel was added.
        """
        if false_pixels < 0 or not self._negative.total:
            raise ValueError(f"{false_pixels} false pixels of {self._negative.total}; expected 0 or more, of 1 or more")
        low, high = 0, (1 << 32) - 1  # the answer lies in low..high
        while low < high:
            middle = (low + high) // 2
            if self._negative.above(np.array([middle], dtype=np.uint32))[0] <= false_pixels:
                high = middle
            else:
                low = middle + 1
        floor = self._negative.lowest()  # below every score, any t will do: take the lowest score
        return float(_scores_of(np.array([max(low, floor)], dtype=np.uint32))[0])


def pixel_curve(pairs: Iterable[tuple[NDArray[Any], NDArray[np.bool_]]]) -> PixelCurve:
    """Count the (score map, mask) of each image; see `PixelScores.add`."""
    scores = PixelScores()
    for score, mask in pairs:
        scores.add(score, mask)
    return scores.curve()


@dataclass(frozen=True)
class _Run:
    """Keys in rising order; per key how many pixels have it (None: one each, keys may repeat) and their weight."""

    keys: NDArray[np.uint32]
    counts: NDArray[np.uint32] | None
    weights: Floats | None


class _ScoreCounts:
    """Exact counts per distinct key: an unsorted buffer, and sorted runs, each over twice as long as the next."""

    def __init__(self, *, buffer: int, weighted: bool) -> None:
        self.total = 0
        self._keys = np.empty(buffer, dtype=np.uint32)
        self._weights = np.empty(buffer) if weighted else None
        self._buffered = 0
        self._runs: list[_Run] = []

    def add(self, keys: NDArray[np.uint32], weights: Floats | None = None) -> None:
        self.total += len(keys)
        if self.total >> 32:
            raise OverflowError("more than 2^32 pixels: their counts do not fit")
        while len(keys):
            room = slice(self._buffered, self._buffered + len(keys))
            written = len(self._keys[room])
            self._keys[room] = keys[:written]
            if self._weights is not None and weights is not None:
                self._weights[room] = weights[:written]
                weights = weights[written:]
            keys = keys[written:]
            self._buffered += written
            if self._buffered == len(self._keys):
                self._flush()

    def at_least(self, keys: NDArray[np.uint32]) -> Floats:
        return self._count(keys, side="left")

    def above(self, keys: NDArray[np.uint32]) -> Floats:
        return self._count(keys, side="right")

    def lowest(self) -> int:
        return min(int(run.keys[0]) for run in self._sorted())

    def merged(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], Floats]:
        """Return distinct keys, their counts and summed weights."""
        if not self.total:
            return np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0)
        run = _merge(self._sorted())
        assert run.counts is not None
        assert run.weights is not None
        return run.keys, run.counts, run.weights

    def _count(self, keys: NDArray[np.uint32], *, side: Any) -> Floats:
        counted = np.zeros(len(keys))
        for run in self._sorted():
            below = np.searchsorted(run.keys, keys, side=side)
            if run.counts is None:
                counted += len(run.keys) - below
            else:
                summed = np.concatenate([[0], np.cumsum(run.counts, dtype=np.int64)])
                counted += summed[-1] - summed[below]
        return counted

    def _sorted(self) -> list[_Run]:
        """Sort the buffer where it stands, and return it as one more run."""
        keys = self._keys[: self._buffered]
        if self._weights is None:
            keys.sort()
            weights = None
        else:
            weights = self._weights[: self._buffered]
            order = np.argsort(keys, kind="stable")
            keys[:], weights[:] = keys[order], weights[order]
        return [*self._runs, _Run(keys, None, weights)] if len(keys) else self._runs

    def _flush(self) -> None:
        """Turn the full buffer into a run, together with the runs that are not much longer."""
        runs = self._sorted()
        joined, length = 1, self._buffered
        while joined < len(runs) and len(runs[-joined - 1].keys) <= 2 * length:
            length += len(runs[-joined - 1].keys)
            joined += 1
        self._runs = [*runs[:-joined], _merge(runs[-joined:])]
        self._buffered = 0


def _merge(runs: list[_Run]) -> _Run:
    """Merge runs into one of distinct keys, slice by slice, so that little more than the result is made."""
    cuts = np.unique(max((run.keys for run in runs), key=len)[_SLICE::_SLICE])
    bounds = [[0, *np.searchsorted(run.keys, cuts), len(run.keys)] for run in runs]
    pieces = [
        _joined([_part(run, slice(*bound[i : i + 2])) for run, bound in zip(runs, bounds, strict=True)])
        for i in range(len(cuts) + 1)
    ]
    return _Run(
        np.concatenate([piece.keys for piece in pieces]),
        np.concatenate([piece.counts for piece in pieces if piece.counts is not None]),
        None if runs[0].weights is None else np.concatenate([p.weights for p in pieces if p.weights is not None]),
    )


def _part(run: _Run, part: slice) -> _Run:
    counts = np.ones(len(run.keys[part]), dtype=np.uint32) if run.counts is None else run.counts[part]
    return _Run(run.keys[part], counts, None if run.weights is None else run.weights[part])


def _joined(runs: list[_Run]) -> _Run:
    """Merge a few short runs at once."""
    keys = np.concatenate([run.keys for run in runs])
    counts = np.concatenate([run.counts for run in runs if run.counts is not None])
    order = np.argsort(keys, kind="stable")  # of sorted runs: linear
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(keys)), np.bool_), keys[1:] != keys[:-1]]))
    weights = None
    if runs[0].weights is not None:
        weights = np.add.reduceat(
            np.concatenate([run.weights for run in runs if run.weights is not None])[order], first
        )
    return _Run(keys[first], np.add.reduceat(counts[order], first, dtype=np.uint32), weights)


def _ordered_keys(score: NDArray[Any]) -> NDArray[np.uint32]:
    """Map float32 scores to uint32 of the same order: flip all bits of negative numbers, the sign of the others."""
    scores = score.astype(np.float32) + np.float32(0.0)  # -0.0 becomes 0.0: they are equal
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    bits = scores.view(np.uint32)
    return bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


def _scores_of(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Undo `_ordered_keys`."""
    bits = keys ^ np.where(keys >> 31, np.uint32(0x80000000), np.uint32(0xFFFFFFFF))
    return bits.astype(np.uint32).view(np.float32)
