"""Pixel AUROC, average precision, best F1 and AUPRO, exact over any number of pixels. Scores: high = anomalous.

Every curve moves up only at the scores of defective pixels, so all areas follow exactly from the counts at these:
how many defect-free pixels score above, and how many at least as much.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from uflow_cli.metrics.score_counts import Floats, ScoreCounts, ordered_keys, scores_of

AUPRO_MAX_FPR = 0.3  # METHOD 5, MVTec's definition
EIGHT_CONNECTED = np.ones((3, 3), dtype=np.int8)
NEGATIVE_BUFFER = 1 << 25  # pixels kept as they come
POSITIVE_BUFFER = 1 << 22


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
        self._negative = ScoreCounts(buffer=NEGATIVE_BUFFER, weighted=False)
        self._positive = ScoreCounts(buffer=POSITIVE_BUFFER, weighted=True)
        self._n_regions = 0

    def add(self, score: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Count one image: `score` (H, W), rounded to float32, and `mask` (H, W), True = defect.

        Raises ValueError for unequal shapes, a mask that is not bool, and NaN.
        """
        if score.shape != mask.shape or mask.dtype != np.bool_ or mask.ndim != 2:
            raise ValueError(
                f"score is {score.shape} and mask {mask.shape} {mask.dtype}; expected equal (H, W) and bool"
            )
        keys = ordered_keys(score)
        if not mask.any():
            self._negative.add(keys.ravel())
            return
        self._negative.add(keys[~mask])
        regions, n_regions = ndimage.label(mask, structure=EIGHT_CONNECTED)
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
            scores=scores_of(keys),
            true_positives=np.cumsum(counts, dtype=np.float64),
            false_positives=self._negative.at_least(keys),
            false_positives_above=self._negative.above(keys),
            region_overlap=np.minimum(overlap / overlap[-1], 1.0) if len(overlap) else overlap,  # the last is 1
        )

    def threshold(self, false_pixels: float) -> float:
        """Lowest score t of which at most `false_pixels` defect-free pixels (of all images together) score above t.

        The fair threshold of METHOD 5 is `threshold(n_images)` over good training images at 256 x 256. ValueError for a
        negative number, and before any defect-free pixel was added.
        """
        if false_pixels < 0 or not self._negative.total:
            raise ValueError(f"{false_pixels} false pixels of {self._negative.total}; expected 0 or more, of 1 or more")
        low, high = self._negative.lowest(), (1 << 32) - 1  # keys; the answer lies in low..high
        while low < high:
            middle = (low + high) // 2
            if self._negative.above(np.array([middle], dtype=np.uint32))[0] <= false_pixels:
                high = middle
            else:
                low = middle + 1
        return float(scores_of(np.array([low], dtype=np.uint32))[0])


def pixel_curve(pairs: Iterable[tuple[NDArray[Any], NDArray[np.bool_]]]) -> PixelCurve:
    """Count the (score map, mask) of each image; see `PixelScores.add`."""
    scores = PixelScores()
    for score, mask in pairs:
        scores.add(score, mask)
    return scores.curve()
