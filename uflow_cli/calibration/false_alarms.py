"""How many false regions good images really have: log NFA recalibrated on held-out images. Logarithms are base 10.

Real images are no white noise: their regions are more significant, and in some scales far more so, than the background
law allows. So log NFA under that law only ranks the regions of a scale, and a curve per scale says how many regions of
held-out images rank as high. A scale may have 1 / L of the false alarms that are allowed in all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uflow_cli.detection.nfa import AContrario, Regions

TAIL_IMAGES = 6  # of all held-out images, at most half: those that make the tail of a curve; measured with 4 to 20
MEAN_EXCESS = 1 / math.log(10)  # of log NFA below any level, under the background law: P(log NFA < t) grows as 10^t
KNOT_RATIO = 1.25  # between the ranks of two knots: 40 of them span 5 to 10,000 regions
FOLDS = 10


@dataclass(frozen=True)
class FalseAlarmCurve:
    """Expected false regions per good image in one scale, as a function of their log NFA under the background law.

    Knots: `log_count` regions per image have at most `log_nfa`, both increasing; between them it is linear. Below the
    first knot the count falls as (1 + depth / spread)^-exponent.
    """

    log_nfa: tuple[float, ...]
    log_count: tuple[float, ...]
    spread: float
    exponent: int

    def __post_init__(self) -> None:
        if not 0 < len(self.log_nfa) == len(self.log_count):
            raise ValueError(f"a curve needs knots, not {len(self.log_nfa)} and {len(self.log_count)}")
        if not (math.isfinite(self.spread) and self.spread > 0 and self.exponent >= 1):
            raise ValueError(f"a curve needs a positive tail, not spread {self.spread}, exponent {self.exponent}")

    def expected(self, log_nfa: ArrayLike) -> NDArray[np.float64]:
        """log10 of the expected false regions per image at or below `log_nfa`, in the same shape."""
        values = np.asarray(log_nfa, dtype=np.float64)
        depth = np.maximum(self.log_nfa[0] - values, 0.0)
        falls = self.exponent * np.log10(1.0 + depth / self.spread)
        log_count: NDArray[np.float64] = np.interp(values, self.log_nfa, self.log_count) - falls
        return log_count


def fit_curve(log_nfa: ArrayLike, image: ArrayLike, *, n_images: int) -> FalseAlarmCurve:
    """The curve of one scale from regions of `n_images` good images: their `log_nfa`, and the `image` each is in.

    Counting: the j-th lowest of a Poisson process seen on n images has j / n points below it on a further image, in the
    mean. The tail: the excesses of the J lowest images' minima below the J-th are taken for exponential. Then a further
    one, as a multiple of their sum, is above c with probability (1 + c)^-(J-1) exactly, however small J is; and images
    that bring several regions at once do not pass for several images.
    """
    values = np.asarray(log_nfa, dtype=np.float64)
    if not len(values):  # nothing in n images: at most one in n, and rarer below zero
        return FalseAlarmCurve((0.0,), (-math.log10(n_images),), MEAN_EXCESS, 1)
    order = np.argsort(values, kind="stable")
    values, images = values[order], np.asarray(image)[order]
    minima = values[np.sort(np.unique(images, return_index=True)[1])]  # lowest of each image, increasing
    minima = minima[: min(TAIL_IMAGES, max(2, n_images // 2))]
    exponent = max(len(minima) - 1, 1)
    ranks = _knot_ranks(int(np.searchsorted(values, minima[-1], side="right")), len(values))
    return FalseAlarmCurve(
        log_nfa=tuple(float(v) for v in values[ranks - 1]),
        log_count=tuple(float(c) for c in np.log10(ranks / n_images)),
        spread=max(float((minima[-1] - minima).sum()), exponent * MEAN_EXCESS),  # never lighter than the law's own
        exponent=exponent,
    )


def fit_curves(regions: Regions, *, n_images: int, n_scales: int) -> tuple[FalseAlarmCurve, ...]:
    """A curve per scale from the `regions` of `n_images` good images under the background law."""
    rows = [np.flatnonzero(regions.scale == scale) for scale in range(n_scales)]
    return tuple(fit_curve(regions.log_nfa[r], regions.image[r], n_images=n_images) for r in rows)


def recalibrate(regions: Regions, curves: Sequence[FalseAlarmCurve]) -> NDArray[np.float64]:
    """log10 of the false regions, of all scales, that good images have in the mean at the rank of each region."""
    log_nfa = np.empty(len(regions))
    for scale, curve in enumerate(curves):
        rows = regions.scale == scale
        log_nfa[rows] = curve.expected(regions.log_nfa[rows])
    return log_nfa + math.log10(len(curves))


def with_recalibrated_nfa(result: AContrario, curves: Sequence[FalseAlarmCurve]) -> AContrario:
    """`result` with `log_nfa` by `curves`; as it is where there are none."""
    if not curves:
        return result
    return replace(result, regions=replace(result.regions, log_nfa=recalibrate(result.regions, curves)))


def lowest_log_nfa(regions: Regions, *, n_images: int, ceiling: float) -> NDArray[np.float64]:
    """The lowest log NFA of each image, (n_images,); `ceiling` where an image has no region that goes below it."""
    lowest = np.full(n_images, ceiling)
    np.minimum.at(lowest, regions.image, regions.log_nfa)
    return lowest


def cross_fitted_regions(regions: Regions, *, n_images: int, n_scales: int, scored: ArrayLike) -> Regions:
    """The regions of the images `scored`, log NFA of each by curves that were fitted without its image; two or more.

    `regions` are those of `n_images` good images under the background law. Of these, the scored ones take turns in
    folds to be left out: an image that helped to draw the curve which judges it looks more ordinary than it is.
    """
    rows = np.asarray(scored)
    log_nfa = np.full(len(regions), np.nan)
    for fold in range(min(FOLDS, len(rows))):
        left_out = np.zeros(n_images, dtype=np.bool_)
        left_out[rows[fold::FOLDS]] = True
        judged = left_out[regions.image]
        curves = fit_curves(regions.select(~judged), n_images=n_images - int(left_out.sum()), n_scales=n_scales)
        log_nfa[judged] = recalibrate(regions.select(judged), curves)
    return replace(regions, log_nfa=log_nfa).select(~np.isnan(log_nfa))


def cross_fitted_lowest(
    regions: Regions, *, n_images: int, n_scales: int, scored: ArrayLike, ceiling: float
) -> NDArray[np.float64]:
    """The lowest log NFA of the images `scored`, see `cross_fitted_regions`."""
    inside = cross_fitted_regions(regions, n_images=n_images, n_scales=n_scales, scored=scored)
    chosen: NDArray[np.float64] = lowest_log_nfa(inside, n_images=n_images, ceiling=ceiling)[np.asarray(scored)]
    return chosen


def _knot_ranks(first: int, last: int) -> NDArray[np.intp]:
    """Ranks from `first` to `last`, all of the first few, then each `KNOT_RATIO` times the one before."""
    n_steps = max(0, math.ceil(math.log(last / first) / math.log(KNOT_RATIO)))
    steps = first * KNOT_RATIO ** np.arange(n_steps)
    return np.unique(np.append(np.round(steps), last).astype(np.intp))
