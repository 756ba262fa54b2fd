"""How far the embeddings of fresh good images lie from those of the calibration, and what may have caused it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uflow_cli.calibration import MEAN_RATIO_RANGE, Calibration, fit_background, position_levels

MOVED_Z = 3.0  # standard errors between images: beyond, a mean level has moved
MOVED_RATIO = 0.03  # and by at least this much, for with many images any difference is significant
LOCAL_RATIO = 0.25  # of the median rise over the rise at the top twentieth of positions: below, the change is local
REPEATABLE = 0.5  # correlation of the excess between two halves of the images: beyond, it stays in its place

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScaleDrift:
    """One scale then (calibration) and now (fresh images): v = mean U / C, and k of METHOD 7.2."""

    v_then: float
    v_now: float
    k_then: float
    k_now: float
    z: float  # of v now minus v then, in standard errors between images

    @property
    def moved(self) -> bool:
        """Whether the level changed by more than chance, and by an amount that matters."""
        return abs(self.z) > MOVED_Z and abs(self.v_now / self.v_then - 1.0) > MOVED_RATIO


def measure_drift(calibration: Calibration, squared_norms: Sequence[NDArray[np.float32]]) -> tuple[ScaleDrift, ...]:
    """Drift per scale of U maps (N, H_s, W_s) of fresh good images, finest first."""
    drifts = []
    for s, (u, reference) in enumerate(zip(squared_norms, calibration.references, strict=True)):
        n_channels = calibration.n_channels[s]
        law, v_now = fit_background(u, n_channels=n_channels)
        now, then = u.mean(axis=(1, 2), dtype=np.float64) / n_channels, np.array(reference.image_levels)
        pooled = np.concatenate([now - now.mean(), then - then.mean()])
        spread = math.sqrt(float((pooled**2).sum()) / max(len(pooled) - 2, 1))
        error = spread * math.sqrt(1 / len(now) + 1 / len(then))
        gap = float(now.mean() - then.mean())
        z = gap / error if error > 0 else math.copysign(math.inf, gap) if gap else 0.0
        drifts.append(
            ScaleDrift(float(then.mean()), v_now, calibration.background[s].degrees_of_freedom,
                       law.degrees_of_freedom, z)
        )  # fmt: skip
    return tuple(drifts)


def likely_cause(
    calibration: Calibration, squared_norms: Sequence[NDArray[np.float32]], flagged: NDArray[np.bool_]
) -> str:
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


def _apart_from_the_rest(calibration: Calibration, squared_norms: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Images whose level lies far outside what the calibration images spread over, at any scale; (N,)."""
    apart = np.zeros(len(squared_norms[0]), dtype=np.bool_)
    for u, reference, n_channels in zip(squared_norms, calibration.references, calibration.n_channels, strict=True):
        now, then = u.mean(axis=(1, 2), dtype=np.float64) / n_channels, np.array(reference.image_levels)
        spread = float(then.std(ddof=1)) if len(then) > 1 else math.inf
        apart |= now > then.mean() + 4 * spread
    return apart


def _local_excess(calibration: Calibration, squared_norms: Sequence[NDArray[np.float32]]) -> tuple[float, float] | None:
    """Where the rise over the calibration's mean map sits, as shares of height and width; None if it is everywhere.

    Rises are taken in the logarithm, since the flow amplifies and spreads what is strange; in both halves of the images
    they must be alike.
    """
    if len(squared_norms[0]) < 4:
        return None
    for u, reference, n_channels in zip(squared_norms, calibration.references, calibration.n_channels, strict=True):
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
