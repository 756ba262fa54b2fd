"""Bootstrap intervals of pixel measures: images are drawn anew with all of their pixels. Scores: high = anomalous."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from uflow_cli.metrics.pixels import EIGHT_CONNECTED, PixelCurve
from uflow_cli.metrics.score_counts import ordered_keys, scores_of

_DROPPED_BITS = 12  # of float32's 23 bits of fraction: 2048 bins from 0.5 to 1

Floats = NDArray[np.float64]


class BinnedPixels:
    """Pixel counts per image over common bins of the score: exact enough for an interval, and quick to draw anew."""

    def __init__(self) -> None:
        self._images: list[tuple[NDArray[np.uint32], NDArray[np.uint32], Floats, int]] = []
        self._positives: list[Floats] = []

    def add(self, score: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Count one image: `score` (H, W), `mask` (H, W) bool, True = defect."""
        keys = (ordered_keys(score) >> _DROPPED_BITS).ravel()
        bins, place = np.unique(keys, return_inverse=True)
        inside = mask.ravel()
        regions, n_regions = ndimage.label(mask, structure=EIGHT_CONNECTED)
        labels = regions.ravel()[inside]
        weights = 1.0 / np.maximum(np.bincount(labels, minlength=n_regions + 1), 1)[labels]
        total = np.bincount(place, minlength=len(bins)).astype(np.uint32)
        self._positives.append(np.bincount(place[inside], minlength=len(bins)).astype(np.float64))
        overlap = np.bincount(place[inside], weights=weights, minlength=len(bins)).astype(np.float64)
        self._images.append((bins.astype(np.uint32), total, overlap, int(n_regions)))

    def curves(self) -> Callable[[Sequence[int] | NDArray[np.intp]], PixelCurve]:
        """A function from image indices, with repetitions, to the curve of these images."""
        bins = np.unique(np.concatenate([image[0] for image in self._images]))
        tables = np.zeros((3, len(self._images), len(bins)), dtype=np.float32)  # defective, free, region overlap
        n_regions = np.array([image[3] for image in self._images])
        for row, ((own, total, overlap, _), positive) in enumerate(zip(self._images, self._positives, strict=True)):
            place = np.searchsorted(bins, own)
            tables[0, row, place], tables[1, row, place], tables[2, row, place] = positive, total - positive, overlap
        scores = scores_of((bins << _DROPPED_BITS)[::-1].astype(np.uint32))

        def curve(indices: Sequence[int] | NDArray[np.intp]) -> PixelCurve:
            draws = np.bincount(indices, minlength=tables.shape[1]).astype(np.float32)
            positive, free, overlap = ((draws @ table)[::-1].astype(np.float64) for table in tables)
            held = positive > 0  # a curve moves up only at the scores of defective pixels
            at_least = np.cumsum(free)
            regions = int(draws @ n_regions)
            reached = np.cumsum(overlap)[held]
            return PixelCurve(
                n_positive=round(positive.sum()),
                n_negative=round(free.sum()),
                n_regions=regions,
                scores=scores[held],
                true_positives=np.cumsum(positive)[held],
                false_positives=at_least[held],
                false_positives_above=(at_least - free)[held],
                region_overlap=np.minimum(reached / reached[-1], 1.0) if regions else reached,
            )

        return curve
