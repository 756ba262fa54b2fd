"""From a trained model and an image to a verdict, regions and a mask. Logarithms are base 10, low is anomalous."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from uflow_cli.detection.detector import Detection, Detector, Findings
from uflow_cli.detection.fitted import EvidenceModel, fitted_evidence, stack_evidence
from uflow_cli.detection.masks import ScaleRegions
from uflow_cli.images import Layout, highest_in, on_content, resize_mask

SCORE_SIZE = (256, 256)  # at which the paper compares scores
LONGEST_SCORE = 1024  # pixels of a score map's longer side, at most


def score_size(layout: Layout) -> tuple[int, int]:
    """The size of score maps of images that are not squashed: in their proportions, 256 x 256 pixels per tile."""
    (height, width), tile = layout.content, layout.tile
    scale = min(math.sqrt(SCORE_SIZE[0] * SCORE_SIZE[1] / (tile[0] * tile[1])), LONGEST_SCORE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image; maps and masks are made when they are asked for."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    score_size: tuple[int, int]  # of the score map, (H, W)
    threshold: float  # on log_nfa
    findings: Findings
    index: int  # of the image in the batch of `findings`
    channels: tuple[int, ...]  # that U of each scale of the flow sums over
    roi: NDArray[np.bool_] | None = None  # the pixels that count, (H, W); None: all

    @property
    def size(self) -> tuple[int, int]:
        """Of the image, (H, W)."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def log_nfa(self) -> float:
        """The lowest of all regions."""
        return float(self.findings.lowest_log_nfa[self.index])

    @cached_property
    def score_map(self) -> NDArray[np.float32]:
        """Anomaly scores, (256, 256) or see `score_size`: 1 - mean likelihood (paper eq. 2) or from fused evidence."""
        size, extent = self.score_size, self.findings.extent
        if self.findings.fusion is not None:  # 1 - the geometric mean over sources of 1 / sqrt(1 + c)
            return _shown(1.0 - np.exp(-0.5 * self.findings.localised(self.index)), size, extent)
        likelihoods = [
            on_content(np.exp(-0.5 * u[self.index] / c), size, extent)
            for u, c in zip(self.findings.evidence, self.channels, strict=False)  # what does not count is none
        ]
        scores: NDArray[np.float32] = 1.0 - np.mean(likelihoods, axis=0)
        return scores

    @property
    def anomaly_score(self) -> float:
        """See `Findings.scores`; the highest of the map where that rests on the same evidence."""
        fusion = self.findings.fusion
        has_own_map = fusion is not None and fusion.map_weights
        return float(self.findings.scores[self.index] if has_own_map else self.score_map.max())

    def maps_of_sources(self) -> list[NDArray[np.float32]]:
        """The score map that each source of fused evidence would give alone, of the size of the score map."""
        size, extent = self.score_size, self.findings.extent
        alone = [self.findings.of_source(source)[self.index] for source in range(len(self.findings.sources))]
        return [_shown(1.0 - np.exp(-0.5 * evidence), size, extent) for evidence in alone]

    @property
    def is_defect(self) -> bool:
        """Whether any region is below the threshold."""
        return bool(self.detections)

    @property
    def verdict(self) -> Literal["defect", "good"]:
        """`is_defect` in a word."""
        return "defect" if self.is_defect else "good"

    @cached_property
    def detections(self) -> tuple[Detection, ...]:
        """The regions below the threshold, most significant first."""
        return self.findings.detections(self.index, threshold=self.threshold, size=self.size)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The union of all detections, (H, W)."""
        mask = self.findings.mask(self.index, threshold=self.threshold, size=self.size)
        return mask if self.roi is None else mask & self.roi

    @cached_property
    def counted(self) -> NDArray[np.bool_] | None:
        """The pixels of the score map that count; None: all."""
        return None if self.roi is None else resize_mask(self.roi, self.score_size)

    @cached_property
    def log_nfa_map(self) -> NDArray[np.float32]:
        """The lowest log NFA over scales, as large as the score map. At its size, what is below t is the mask at t."""
        height, width = self.score_size
        values = self.findings.log_nfa_map(self.index, size=(height, width))
        if self.counted is not None:
            values[~self.counted] = self.findings.ceiling
        return values

    @property
    def region_log_nfas(self) -> NDArray[np.float64]:
        """Of all regions, detected or not."""
        regions = self.findings.regions
        values: NDArray[np.float64] = regions.log_nfa[regions.image == self.index]
        return values

    @property
    def scales(self) -> tuple[ScaleRegions, ...]:
        """The regions cell by cell, from which maps and masks follow."""
        return self.findings.scales(self.index)


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence in some images that lie alike on the model's input."""

    images: list[int]  # their places among all
    sources: Sequence[NDArray[np.float32]]  # U maps (B, H_s, W_s) of every source
    shares: NDArray[np.float32] | None  # how much each cell counts, (B, H, W); None: all of it
    extent: tuple[float, float]  # of the maps over the images
    score_size: tuple[int, int]
    channels: tuple[int, ...]  # that U of each scale of the flow sums over


def evidence_in(
    model: EvidenceModel, images: Sequence[NDArray[np.uint8]], rois: Sequence[NDArray[np.bool_] | None], *,
    hides: bool = True,
) -> list[Evidence]:  # fmt: skip
    """What `model` computes of RGB `images`, each (H, W, 3) of any size, within `rois`, each (H, W) or None."""
    channels = model.source_channels[: len(model.reach)]
    if model.config.is_squashed and all(roi is None for roi in rois):
        maps = model.evidence_maps(images)
        return [Evidence(list(range(len(images))), maps, None, (1.0, 1.0), SCORE_SIZE, channels)]
    found = list(fitted_evidence(model, images, rois, hides=hides))
    alike: dict[Layout, list[int]] = {}
    for index, one in enumerate(found):
        alike.setdefault(one.layout, []).append(index)
    return [
        Evidence(
            indices, *stack_evidence([found[index] for index in indices]), layout.extent,
            SCORE_SIZE if model.config.is_squashed else score_size(layout), channels,
        )
        for layout, indices in alike.items()
    ]  # fmt: skip


def judged(
    detector: Detector, images: Sequence[NDArray[np.uint8]], rois: Sequence[NDArray[np.bool_] | None],
    evidence: Sequence[Evidence], *, threshold: float,
) -> list[Prediction]:  # fmt: skip
    """Predictions for `images` from the `evidence` in them; a region is detected where log_nfa < `threshold`."""
    predictions: dict[int, Prediction] = {}
    for one in evidence:
        findings = detector.find(one.sources, shares=one.shares, extent=one.extent)
        for row, index in enumerate(one.images):
            predictions[index] = Prediction(
                images[index], one.score_size, threshold, findings, row, one.channels, rois[index]
            )
    return [predictions[index] for index in range(len(images))]


def predict(
    model: EvidenceModel, detector: Detector, images: Sequence[NDArray[np.uint8]], *, threshold: float = 0.0,
    rois: Sequence[NDArray[np.bool_] | None] | None = None, hides: bool = True,
) -> list[Prediction]:  # fmt: skip
    """Predictions for RGB `images`, each (H, W, 3) of any size; a region is detected where log_nfa < `threshold`.

    Where there are `rois`, each (H, W) or None, pixels outside are neither evidence nor tests, and hidden from the
    model unless `hides` is false.
    """
    rois = rois or [None] * len(images)
    return judged(detector, images, rois, evidence_in(model, images, rois, hides=hides), threshold=threshold)


def _shown(values: NDArray[np.float32], size: tuple[int, int], extent: tuple[float, float]) -> NDArray[np.float32]:
    """`values` of a canvas's cells resized to `size`; of several cells in a pixel the highest is shown."""
    rows, columns = (max(1, round(n / (e * m))) for n, m, e in zip(values.shape, size, extent, strict=True))
    return on_content(highest_in(values, (rows, columns)) if max(rows, columns) > 1 else values, size, extent)
