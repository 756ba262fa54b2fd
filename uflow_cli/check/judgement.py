"""Judge a promise on false alarms by fresh good images: exact tests, drift of the embeddings, and its likely cause.

A promise counts as kept where nothing speaks against it and a rate of twice the promise would have been noticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from uflow_cli.calibration import MEAN_RATIO_RANGE, Calibration, fit_background, position_levels
from uflow_cli.schema import NumberOrNan

LEVEL = 0.05  # chance of calling a kept promise broken, and of not noticing a rate of `NOTICEABLE` times the promise
NOTICEABLE = 2.0
MOST_IMAGES = 1_000_000
MOVED_Z = 3.0  # standard errors between images: beyond, a mean level has moved
MOVED_RATIO = 0.03  # and by at least this much, for with many images any difference is significant
LOCAL_RATIO = 0.25  # of the median rise over the rise at the top twentieth of positions: below, the change is local
REPEATABLE = 0.5  # correlation of the excess between two halves of the images: beyond, it stays in its place

Floats = NDArray[np.float64]
Norms = Sequence[NDArray[np.float32]]


class Verdict(StrEnum):
    """The verdict of fresh good images on a promise."""

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


@dataclass(frozen=True)
class ScaleDrift:
    """One scale then (calibration) and now (fresh images): v = mean U / C, and k degrees of freedom of its law."""

    scale: int  # 1 is the finest
    v_then: float
    v_now: float
    k_then: float
    k_now: float
    z: NumberOrNan  # of v now minus v then, in standard errors between images
    moved: bool  # whether the level changed by more than chance, and by an amount that matters


def judge_rate(n_flagged: int, n_images: int, *, rank: int, n_calibration: int, promised: float) -> Judgement:
    """The share of flagged images against a split conformal promise.

    The threshold is the `rank`-th lowest of `n_calibration` values; if the fresh images are like those, n_flagged of
    n_images follows the beta-binomial law of (rank, n_calibration + 1 - rank), whatever the law of the values.
    Raises ValueError unless 1 <= rank <= n_calibration and 0 <= n_flagged <= n_images, n_images > 0.
    """
    if not 1 <= rank <= n_calibration or not 0 <= n_flagged <= n_images or n_images < 1:
        raise ValueError(f"{n_flagged} of {n_images} flagged, value {rank} of {n_calibration}")
    interval = stats.binomtest(n_flagged, n_images).proportion_ci()  # Clopper and Pearson's

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
    return Judgement("good images flagged", promised, share, float(interval.low), float(interval.high), verdict, n_more)


def judge_count(counts: NDArray[np.int64], *, promised: float) -> Judgement:
    """False detections per image, `counts` (N,), against the expected number that was promised.

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


def worst(judgements: Sequence[Judgement]) -> Verdict:
    """Broken if any promise is, else undecided if any is."""
    verdicts = {judgement.verdict for judgement in judgements}
    return next(v for v in (Verdict.BROKEN, Verdict.CANNOT_TELL, Verdict.HOLDS) if v in verdicts)


def measure_drift(calibration: Calibration, squared_norms: Norms) -> tuple[ScaleDrift, ...]:
    """Drift per scale of U maps (N, H_s, W_s) of fresh good images, finest first."""
    drifts = []
    for s, (u, reference) in enumerate(zip(squared_norms, calibration.references, strict=False)):
        n_channels = calibration.n_channels[s]
        law, v_now = fit_background(u, n_channels=n_channels)
        now, then = u.mean(axis=(1, 2), dtype=np.float64) / n_channels, np.array(reference.image_levels)
        pooled = np.concatenate([now - now.mean(), then - then.mean()])
        spread = math.sqrt(float((pooled**2).sum()) / max(len(pooled) - 2, 1))
        error = spread * math.sqrt(1 / len(now) + 1 / len(then))
        gap = float(now.mean() - then.mean())
        z = gap / error if error > 0 else math.copysign(math.inf, gap) if gap else 0.0
        v_then = float(then.mean())
        moved = abs(z) > MOVED_Z and abs(v_now / v_then - 1.0) > MOVED_RATIO
        k_then, k_now = calibration.background[s].degrees_of_freedom, law.degrees_of_freedom
        drifts.append(ScaleDrift(s + 1, v_then, v_now, k_then, k_now, z, moved))
    return tuple(drifts)


def likely_cause(calibration: Calibration, squared_norms: Norms, flagged: NDArray[np.bool_]) -> str:
    """In words, why fresh good images may be flagged more often than promised; `flagged` is (N,)."""
    drifts = measure_drift(calibration, squared_norms)
    risen = [drift for drift in drifts if drift.moved and drift.v_now > drift.v_then]
    if any(drift.v_then > MEAN_RATIO_RANGE[1] for drift in drifts):
        return (
            "the flow is over-fitted: already the calibration images had more energy than those it was trained on "
            f"(v up to {max(d.v_then for d in drifts):.2f}); train on more good images, or for fewer epochs"
        )
    if not risen:
        unlike = _apart_from_the_rest(calibration, squared_norms)
        if 0 < unlike.sum() <= max(1, len(flagged) // 5):
            return (
                f"{int(unlike.sum())} of {len(flagged)} images are unlike the others; look at them first, they may "
                "not be good"
            )
        return (
            "the images as a whole are as they were; small marks or dust that the training images lack are the likely "
            "cause: look at what is flagged, and if it is harmless, use --recalibrate"
        )
    local = _local_excess(calibration, squared_norms)
    if local is not None:
        row, column = local
        return (
            f"the change is local (most of it around {column:.0%} from the left, {row:.0%} from the top) and the same "
            "in all images: the camera or the part moved, or something new is in the picture"
        )
    return (
        "the whole image changed, in all images alike: new lighting, exposure, focus or another surface; undo that, "
        "or use --recalibrate if it is to stay"
    )


def _apart_from_the_rest(calibration: Calibration, squared_norms: Norms) -> NDArray[np.bool_]:
    """Images whose level lies far outside what the calibration images spread over, at any scale; (N,)."""
    apart = np.zeros(len(squared_norms[0]), dtype=np.bool_)
    for u, reference, n_channels in zip(squared_norms, calibration.references, calibration.n_channels, strict=False):
        now, then = u.mean(axis=(1, 2), dtype=np.float64) / n_channels, np.array(reference.image_levels)
        spread = float(then.std(ddof=1)) if len(then) > 1 else math.inf
        apart |= now > then.mean() + 4 * spread
    return apart


def _local_excess(calibration: Calibration, squared_norms: Norms) -> tuple[float, float] | None:
    """Where the rise over the calibration's mean map sits, as shares of height and width; None if it is everywhere.

    Rises are taken in the logarithm, since the flow amplifies and spreads what is strange; in both halves of the images
    they must be alike.
    """
    if len(squared_norms[0]) < 4:
        return None
    for u, reference, n_channels in zip(squared_norms, calibration.references, calibration.n_channels, strict=False):
        then = np.array(reference.position_levels)
        halves = [np.log(position_levels(u[start::2], n_channels=n_channels) / then) for start in (0, 1)]
        rise: Floats = np.maximum(halves[0] + halves[1], 0.0) / 2
        if min(half.std() for half in halves) == 0:
            continue
        top = float(np.quantile(rise, 0.95))
        agreement = float(np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1])
        if float(np.median(rise)) < LOCAL_RATIO * top and agreement > REPEATABLE:
            weights = np.where(rise >= np.quantile(rise, 0.9), rise, 0.0)
            rows, columns = np.indices(rise.shape) + 0.5
            height, width = rise.shape
            total = float(weights.sum())
            return float((weights * rows).sum()) / total / height, float((weights * columns).sum()) / total / width
    return None


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
