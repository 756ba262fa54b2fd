"""Image-level numbers: AUROC, rates with exact intervals, bootstrap intervals. Scores: high = anomalous."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from uflow_cli.schema import record


@record
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


def clopper_pearson(count: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a rate of which `count` of `total` were seen; (0, 1) of none.

    Raises ValueError unless 0 <= count <= total and 0 < confidence < 1.
    """
    if not 0 <= count <= total or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"{count} of {total} at confidence {confidence}; expected 0 <= count <= total, 0 < confidence < 1"
        )
    if not total:
        return 0.0, 1.0
    interval = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


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


def bootstrap_intervals(
    statistics: Callable[[NDArray[np.intp]], Mapping[str, float]],
    strata: Sequence[Any] | NDArray[Any],
    *,
    seed: int,
    confidence: float = 0.95,
    n_resamples: int = 1000,
) -> dict[str, tuple[float, float]]:
    """Percentile interval of each of `statistics(indices)` when images are drawn anew, with replacement.

    Images are drawn within each stratum: `strata` (n,) holds any label per image (good or defective, or the same for
    all), `indices` (n,) lie in 0..n-1. Resamples of value NaN are left out; (nan, nan) where nothing is left.
    """
    labels = np.asarray(strata)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    random = np.random.default_rng(seed)
    values: dict[str, list[float]] = {}
    for _ in range(n_resamples):
        drawn = statistics(np.concatenate([np.empty(0, np.intp), *(random.choice(g, len(g)) for g in groups)]))
        for name, value in drawn.items():
            values.setdefault(name, []).append(value if groups else float("nan"))
    tails = [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0]
    intervals = {}
    for name, of_resamples in values.items():
        known = [value for value in of_resamples if not np.isnan(value)]
        low, high = np.quantile(known, tails) if known else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.bool_)
    if values.ndim != 1 or values.shape != flags.shape or np.isnan(values).any():
        raise ValueError(f"expected as many scores as labels and no NaN; got {values.shape} and {flags.shape}")
    return values, flags
