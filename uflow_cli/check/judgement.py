"""Does a promise on false alarms hold on fresh good images? Exact tests, and how many more images would tell.

A promise counts as kept where nothing speaks against it and a rate of twice the promise would have been noticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from uflow_cli.metrics import clopper_pearson

LEVEL = 0.05  # chance of calling a kept promise broken, and of not noticing a rate of `NOTICEABLE` times the promise
NOTICEABLE = 2.0
MOST_IMAGES = 1_000_000


class Verdict(StrEnum):
    """What fresh good images say of a promise."""

    HOLDS = "holds"
    CANNOT_TELL = "cannot tell yet"
    BROKEN = "broken"


@dataclass(frozen=True)
class Judgement:
    """One promise beside what was seen. `seen`, `low` and `high` (95 %) are per image, as `promised` is."""

    what: str
    promised: float
    seen: float
    low: float
    high: float
    verdict: Verdict
    n_more: int = 0  # fresh good images that would settle it if they are like these; 0 where it is settled


def judge_rate(n_flagged: int, n_images: int, *, rank: int, n_calibration: int, promised: float) -> Judgement:
    """The share of flagged images against a split conformal promise (METHOD 7.3).

    The threshold is the `rank`-th lowest of `n_calibration` values; if the fresh images are like those, n_flagged of
    n_images follows the beta-binomial law of (rank, n_calibration + 1 - rank), whatever the law of the values.
    Raises ValueError unless 1 <= rank <= n_calibration and 0 <= n_flagged <= n_images, n_images > 0.
    """
    if not 1 <= rank <= n_calibration or not 0 <= n_flagged <= n_images or n_images < 1:
        raise ValueError(f"{n_flagged} of {n_images} flagged, value {rank} of {n_calibration}")
    low, high = clopper_pearson(n_flagged, n_images)

    def broken(count: int, total: int) -> bool:
        return float(stats.betabinom.sf(count - 1, total, rank, n_calibration + 1 - rank)) < LEVEL

    def noticed(count: int, total: int) -> bool:
        return float(stats.binom.cdf(count, total, min(NOTICEABLE * promised, 1.0))) < LEVEL

    verdict = _verdict(broken(n_flagged, n_images), noticed(n_flagged, n_images))
    share = n_flagged / n_images
    n_more = 0
    if verdict is Verdict.CANNOT_TELL:
        n_more = _fewest_more(
            n_images, lambda n: broken(math.ceil(share * n), n) or noticed(math.floor(min(share, promised) * n), n)
        )
    return Judgement("good images flagged", promised, share, low, high, verdict, n_more)


def judge_count(counts: NDArray[np.int64], *, promised: float) -> Judgement:
    """False detections per image, `counts` (N,), against the expected number that was promised (METHOD 4.7).

    Detections come in clusters, so counts vary more than Poisson's law says: its exact interval is taken of the counts
    divided by their overdispersion. Raises ValueError for no image.
    """
    if not len(counts):
        raise ValueError("no image to judge by")
    total, n = int(counts.sum()), len(counts)
    mean = total / n
    spread = max(1.0, float(counts.var(ddof=1)) / mean) if total and n > 1 else 1.0
    low, high = _poisson_interval(total / spread, spread / n, 0.05)
    lower, upper = _poisson_interval(total / spread, spread / n, 2 * LEVEL)  # one-sided each
    verdict = _verdict(lower > promised, upper <= NOTICEABLE * promised)

    def tells(images: int) -> bool:
        at_mean = _poisson_interval(mean * images / spread, spread / images, 2 * LEVEL)
        at_best = _poisson_interval(min(mean, promised) * images / spread, spread / images, 2 * LEVEL)
        return at_mean[0] > promised or at_best[1] <= NOTICEABLE * promised

    n_more = _fewest_more(n, tells) if verdict is Verdict.CANNOT_TELL else 0
    return Judgement("false detections per good image", promised, mean, low, high, verdict, n_more)


def worst(judgements: list[Judgement]) -> Verdict:
    """Broken if any promise is, else undecided if any is."""
    verdicts = {judgement.verdict for judgement in judgements}
    return next(v for v in (Verdict.BROKEN, Verdict.CANNOT_TELL, Verdict.HOLDS) if v in verdicts)


def _verdict(broken: bool, noticed: bool) -> Verdict:
    return Verdict.BROKEN if broken else Verdict.HOLDS if noticed else Verdict.CANNOT_TELL


def _poisson_interval(count: float, unit: float, tail: float) -> tuple[float, float]:
    """Two-sided interval of level 1 - `tail` for the mean behind `count` (also broken ones), times `unit`."""
    low = float(stats.gamma.ppf(tail / 2, count)) if count > 0 else 0.0
    return low * unit, float(stats.gamma.isf(tail / 2, count + 1)) * unit


def _fewest_more(n_images: int, tells: Callable[[int], bool]) -> int:
    """How many more images than `n_images` make `tells` true, roughly: rounding makes it uneven."""
    high = max(2 * n_images, 8)
    while not tells(high) and high < MOST_IMAGES:
        high *= 2
    low = max(high // 2, n_images)
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if tells(middle) else (middle, high)
    return max(high - n_images, 1)
