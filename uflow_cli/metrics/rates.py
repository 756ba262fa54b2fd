"""Image-level numbers: AUROC, rates with exact intervals, bootstrap intervals. Scores: high = anomalous."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


@dataclass(frozen=True)
class Rate:
    """`count` of `total` images, and the Clopper-Pearson interval (low, high) of the rate behind them."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share `count / total`; nan of no images."""
        return self.count / self.total if self.total else float("nan")


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Chance that a defective image (label True) scores higher than a good one, ties half; nan if either is missing.

    Raises ValueError for NaN scores and unequal lengths.
    """
    scores, labels = _checked(scores, labels)
    n_positive, n_negative = np.count_nonzero(labels), np.count_nonzero(~labels)
    if not n_positive or not n_negative:
        return float("nan")
    ranks = stats.rankdata(scores, method="average")
    return float((ranks[labels].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Sum over thresholds of (gain in recall) * precision; nan without defective images. Raises as `auroc` does."""
    scores, labels = _checked(scores, labels)
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last image of each distinct score
    true_positives = np.cumsum(labels[order])[last]
    return float(np.diff(true_positives, prepend=0) @ (true_positives / (last + 1)) / true_positives[-1])


def clopper_pearson(count: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a rate of which `count` of `total` were seen; (0, 1) of none.

    Raises ValueError unless 0 <= count <= total and 0 < confidence < 1.
    """
    if not 0 <= count <= total or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"{count} of {total} at confidence {confidence}; expected 0 <= count <= total, 0 < confidence < 1"
        )
    tail = (1.0 - confidence) / 2.0
    low = float(stats.beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(stats.beta.isf(tail, count + 1, total - count)) if count < total else 1.0
    return low, high


def rate(flags: ArrayLike, *, confidence: float = 0.95) -> Rate:
    """Count how many of the images are flagged."""
    flagged = np.asarray(flags, dtype=np.bool_)
    count, total = int(np.count_nonzero(flagged)), flagged.size
    return Rate(count, total, *clopper_pearson(count, total, confidence=confidence))


def rates_by_kind(flags: ArrayLike, kinds: Sequence[str], *, confidence: float = 0.95) -> dict[str, Rate]:
    """Count how many images of each kind are flagged: of good images false alarms, of defects detections.

    Kinds stand in the order in which they first appear. Raises ValueError for unequal lengths.
    """
    flagged = np.asarray(flags, dtype=np.bool_)
    if flagged.shape != (len(kinds),):
        raise ValueError(f"{flagged.shape} flags for {len(kinds)} kinds")
    names = np.array(kinds, dtype=object)
    return {kind: rate(flagged[names == kind], confidence=confidence) for kind in dict.fromkeys(kinds)}


def bootstrap_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    strata: Sequence[Any] | NDArray[Any],
    *,
    seed: int,
    confidence: float = 0.95,
    n_resamples: int = 1000,
) -> tuple[float, float]:
    """Percentile interval of `statistic(indices)` when images are drawn anew, with replacement, within each stratum.

    `strata` (n,) holds any label per image (good or defective, or the same for all); `indices` (n,) lie in 0..n-1.
    Resamples of value NaN are left out; (nan, nan) where nothing is left.
    """
    labels = np.asarray(strata)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    random = np.random.default_rng(seed)
    values = np.array(
        [statistic(np.concatenate([random.choice(group, len(group)) for group in groups])) for _ in range(n_resamples)]
        if groups
        else []
    )
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.bool_)
    if values.ndim != 1 or values.shape != flags.shape or np.isnan(values).any():
        raise ValueError(f"expected as many scores as labels and no NaN; got {values.shape} and {flags.shape}")
    return values, flags
