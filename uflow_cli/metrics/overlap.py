"""Intersection over union of masks, for one threshold or for all of a sweep. Maps of log10 NFA: low = anomalous."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uflow_cli.schema import NumberOrNan, record

Floats = NDArray[np.float64]


@record
class MeanIou:
    """Mean IoU over all images, and over those whose mask is not empty (nan where there are none)."""

    all_images: NumberOrNan
    defective_images: NumberOrNan


@record
class OracleIou:
    """The threshold of the highest mean IoU over all images, and the means there."""

    threshold: NumberOrNan
    miou: MeanIou


def oracle_thresholds() -> Floats:
    """Thresholds of log10 NFA over which the published oracle searches: -1000, -999, ..., 400."""
    return np.arange(-1000.0, 401.0)


def iou(prediction: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """Intersection over union of two (H, W) bool masks; 1 where both are empty. Raises ValueError for other arrays."""
    _require_masks(prediction, mask)
    union = np.count_nonzero(prediction | mask)
    return np.count_nonzero(prediction & mask) / union if union else 1.0


def mean_iou(pairs: Iterable[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> MeanIou:
    """Mean IoU of (prediction, mask) per image. An image with both empty counts 1. nan without images."""
    ious, defective = [], []
    for prediction, mask in pairs:
        ious.append(iou(prediction, mask))
        defective.append(bool(mask.any()))
    over_defective = [value for value, is_defective in zip(ious, defective, strict=True) if is_defective]
    return MeanIou(*(float(np.mean(values)) if values else float("nan") for values in (ious, over_defective)))


class IouSweep:
    """Mean IoU at many thresholds at once: each image's pixels are sorted once."""

    def __init__(self, thresholds: Sequence[float] | Floats) -> None:
        """Take thresholds (T,) in rising order; raises ValueError for others."""
        self.thresholds = np.asarray(thresholds, dtype=np.float64)
        if self.thresholds.ndim != 1 or not len(self.thresholds) or not (np.diff(self.thresholds) > 0).all():
            raise ValueError("expected one or more thresholds in rising order")
        self._sums = np.zeros((2, len(self.thresholds)))  # of the IoU over all and over defective images
        self._counts = np.zeros(2)

    def add(self, log_nfa: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Add one image: a pixel is detected where `log_nfa` (H, W) < threshold; `mask` (H, W) is bool, True = defect.

        For a score that is high where anomalous and "score > threshold", hand over -score and -thresholds.
        Raises ValueError for unequal shapes, a mask that is not bool, and NaN.
        """
        _require_masks(mask, np.zeros(log_nfa.shape, dtype=np.bool_))
        if np.isnan(log_nfa).any():
            raise ValueError("a value of the map is NaN")
        detected = np.searchsorted(np.sort(log_nfa, axis=None), self.thresholds, side="left")  # pixels below each one
        right = np.searchsorted(np.sort(log_nfa[mask]), self.thresholds, side="left")
        union = detected + np.count_nonzero(mask) - right
        counted_in = np.array([1.0, float(mask.any())])
        self._sums += counted_in[:, None] * np.where(union > 0, right / np.maximum(union, 1), 1.0)
        self._counts += counted_in

    def means(self) -> tuple[Floats, Floats]:
        """Mean IoU per threshold, (T,) over all images and (T,) over defective ones; nan where there are none."""
        over_all, over_defective = np.where(
            self._counts[:, None] > 0, self._sums / np.maximum(self._counts, 1.0)[:, None], np.nan
        )
        return over_all, over_defective

    def oracle(self) -> OracleIou:
        """Find the threshold of the highest mean IoU over all images, the lowest of equals; ValueError if none."""
        over_all, over_defective = self.means()
        if np.isnan(over_all).any():
            raise ValueError("no image was added")
        best = int(np.argmax(over_all))
        return OracleIou(float(self.thresholds[best]), MeanIou(float(over_all[best]), float(over_defective[best])))


def _require_masks(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> None:
    if one.shape != other.shape or one.dtype != np.bool_ or other.dtype != np.bool_:
        raise ValueError(f"masks are {one.shape} {one.dtype} and {other.shape} {other.dtype}; expected equal and bool")
