"""From a trained model and an image to a verdict, regions and a mask. Logarithms are base 10, low is anomalous."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from uflow_cli.config import ModelConfig
from uflow_cli.detection.detector import Detection, Detector, Findings
from uflow_cli.detection.masks import ScaleRegions
from uflow_cli.images import resize_map

SCORE_SIZE = (256, 256)  # at which the paper compares scores


class EvidenceModel(Protocol):
    """What computes evidence maps: a `Model` in PyTorch, or an `Engine` without it."""

    @property
    def config(self) -> ModelConfig:
        """What fixes the maps, beside the weights."""

    @property
    def source_channels(self) -> tuple[int, ...]:
        """What U of each source counts."""

    @property
    def reach(self) -> tuple[int, ...]:
        """How far, in cells, a strange cell spreads in each scale of the flow; these come first of the sources."""

    @property
    def batch_size(self) -> int:
        """Images to give at a time."""

    def evidence_maps(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """U maps (B, H_s, W_s) of every source, of RGB `images`, each (H, W, 3) of any size."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one image; maps and masks are made when they are asked for."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    score_map: NDArray[np.float32]  # (256, 256), high is anomalous
    threshold: float  # on log_nfa
    findings: Findings
    index: int  # of the image in the batch of `findings`

    @property
    def size(self) -> tuple[int, int]:
        """Of the image, (H, W)."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def log_nfa(self) -> float:
        """The lowest of all regions."""
        return float(self.findings.lowest_log_nfa[self.index])

    @property
    def score(self) -> float:
        """The highest anomaly score."""
        return float(self.score_map.max())

    @property
    def is_defect(self) -> bool:
        """Whether any region is below the threshold."""
        return bool(self.detections)

    @cached_property
    def detections(self) -> tuple[Detection, ...]:
        """The regions below the threshold, most significant first."""
        return self.findings.detections(self.index, threshold=self.threshold, size=self.size)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The union of all detections, (H, W)."""
        return self.findings.mask(self.index, threshold=self.threshold, size=self.size)

    @property
    def log_nfa_map(self) -> NDArray[np.float32]:
        """The lowest log NFA over scales, (256, 256). At the same size, what is below t is the mask at t."""
        return self.findings.log_nfa_map(self.index, size=SCORE_SIZE)

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


def predict(
    model: EvidenceModel, detector: Detector, images: Sequence[NDArray[np.uint8]], *, threshold: float = 0.0
) -> list[Prediction]:
    """Predictions for RGB `images`, each (H, W, 3) of any size; a region is detected where log_nfa < `threshold`."""
    sources = model.evidence_maps(images)
    findings = detector.find(sources)
    if detector.fusion is None:
        n_channels = model.source_channels[: len(model.reach)]
        scores = 1.0 - np.mean([_likelihood(u, c) for u, c in zip(sources, n_channels, strict=False)], axis=0)
    else:  # 1 - the geometric mean over sources of 1 / sqrt(1 + c)
        shown = detector.localised(sources, findings.evidence[0])
        scores = np.stack([resize_map(1.0 - np.exp(-0.5 * e), SCORE_SIZE) for e in shown])
    return [Prediction(image, scores[index], threshold, findings, index) for index, image in enumerate(images)]


def _likelihood(u: NDArray[np.float32], n_channels: int) -> NDArray[np.float32]:
    """exp(-U / 2C) of one scale's maps (B, H_s, W_s), up-sampled after that (paper eq. 2): (B, 256, 256)."""
    return np.stack([resize_map(np.exp(-0.5 * one / n_channels), SCORE_SIZE) for one in u])
