"""From a trained model and an image to a verdict, regions and a mask. Logarithms are base 10, low is anomalous."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from uflow_cli.calibration import Calibration, FalseAlarmCurve, lowest_log_nfa, with_recalibrated_nfa
from uflow_cli.config import Tests
from uflow_cli.detection.halo import suppress_halo
from uflow_cli.detection.masks import ScaleRegions, log_nfa_map, mask_below, published_log_nfa_map, scale_regions
from uflow_cli.detection.nfa import AContrario, Background, Regions, a_contrario, log_n_tests, log_n_tests_by_size
from uflow_cli.flow.likelihood import anomaly_score, squared_norms
from uflow_cli.model import Model

SCORE_SIZE = (256, 256)  # METHOD 5: the size at which scores are compared


@dataclass(frozen=True)
class Detection:
    """A region with log_nfa below the threshold, in pixels of the original image."""

    log_nfa: float
    log_pfa: float
    area: float  # pixels
    bounding_box: tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside
    centroid: tuple[float, float]  # x, y
    scale: int  # 1 is the finest that the model sees


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image of size (H, W)."""

    size: tuple[int, int]
    log_nfa: float  # the lowest of all regions
    score: float  # the highest anomaly score
    threshold: float  # on log_nfa
    detections: tuple[Detection, ...]  # most significant first
    mask: NDArray[np.bool_]  # (H, W)
    score_map: NDArray[np.float32]  # (256, 256), high is anomalous
    scales: tuple[ScaleRegions, ...]  # from which maps and masks follow
    region_log_nfas: NDArray[np.float64]  # of all regions, detected or not
    paper_exact: bool = False  # how maps are up-sampled

    @property
    def is_defect(self) -> bool:
        """Whether any region is below the threshold."""
        return bool(self.detections)

    @property
    def log_nfa_map(self) -> NDArray[np.float32]:
        """Lowest log NFA over scales, (256, 256); made anew at each call, for it takes a while and few need it.

        At the same size, {log_nfa_map < t} is the mask at the threshold t.
        """
        return (published_log_nfa_map if self.paper_exact else log_nfa_map)(self.scales, size=SCORE_SIZE)


def predict(
    model: Model, calibration: Calibration, images: Sequence[NDArray[np.uint8]], *, threshold: float = 0.0
) -> list[Prediction]:
    """Predictions for RGB `images`, each (H, W, 3) of any size; a region is detected where log_nfa < `threshold`."""
    with torch.inference_mode():
        embeddings = model.embeddings(images)
        scores = anomaly_score(embeddings, size=SCORE_SIZE)[:, 0].float().cpu().numpy()  # (B, 256, 256)
        norms = [u.cpu().numpy() for u in squared_norms(embeddings)]  # per scale (B, H_s, W_s)
    tests, curves, exact = model.config.tests, calibration.curves, model.config.paper_exact
    result = find_regions(
        norms, background=calibration.background, tests=tests, reach=model.flow.reach, curves=curves, paper_exact=exact
    )
    grids = [(labels.shape[1], labels.shape[2]) for labels in result.labels]
    ceiling = log_nfa_ceiling(grids, tests=tests, recalibrated=bool(curves))
    lowest = lowest_log_nfa(result.regions, n_images=len(images), ceiling=ceiling)
    predictions = []
    for index, image in enumerate(images):
        size = (image.shape[0], image.shape[1])
        detected = detected_regions(result, index=index, threshold=threshold)
        scales = scale_regions(result, norms, index=index, ceiling=ceiling)
        predictions.append(
            Prediction(
                size=size,
                log_nfa=float(lowest[index]),
                score=float(scores[index].max()),
                threshold=threshold,
                detections=tuple(
                    _detection(detected, i, size=size, grid=grids[detected.scale[i]]) for i in range(len(detected))
                ),
                mask=published_log_nfa_map(scales, size=size) < threshold
                if exact
                else mask_below(scales, threshold=threshold, size=size),
                score_map=scores[index],
                region_log_nfas=result.regions.log_nfa[result.regions.image == index],
                paper_exact=exact,
                scales=scales,
            )
        )
    return predictions


def find_regions(
    squared_norms: Sequence[NDArray[np.float32]], *, background: Sequence[Background], tests: Tests,
    reach: Sequence[int], curves: Sequence[FalseAlarmCurve] = (), paper_exact: bool = False,
) -> AContrario:  # fmt: skip
    """Regions of U maps, per scale (B, H_s, W_s), as calibration and prediction both see them: without halos.

    `reach` is the flow's, in cells per scale. `log_nfa` is what held-out images say by `curves`, or the law's own where
    there are none. `paper_exact` keeps halos, and the published formula of the tail, which
    calls regions far below the mean significant too (METHOD 6.1).
    """
    if paper_exact:
        return a_contrario(squared_norms, background=background, tests=tests, tail="published")
    cleared = suppress_halo(squared_norms, background=background, reach=reach)
    return with_recalibrated_nfa(a_contrario(cleared, background=background, tests=tests), curves)


def log_nfa_ceiling(grids: Sequence[tuple[int, int]], *, tests: Tests, recalibrated: bool) -> float:
    """The log NFA of a cell that is no evidence at all, for `grids` of (height, width) cells.

    Recalibrated, as many false regions as there are cells; else the log number of tests of a single cell.
    """
    if recalibrated:
        return math.log10(sum(height * width for height, width in grids))
    return log_n_tests(grids) if tests == "paper" else float(log_n_tests_by_size(grids, 1))


def detected_regions(result: AContrario, *, index: int, threshold: float) -> Regions:
    """The regions of image `index` with log_nfa < `threshold`, most significant first."""
    regions = result.regions
    rows = np.flatnonzero((regions.image == index) & (regions.log_nfa < threshold))
    return regions.select(rows[np.argsort(regions.log_nfa[rows], kind="stable")])


def _detection(region: Regions, i: int, *, size: tuple[int, int], grid: tuple[int, int]) -> Detection:
    y, x = size[0] / grid[0], size[1] / grid[1]  # pixels per cell
    return Detection(
        log_nfa=float(region.log_nfa[i]),
        log_pfa=float(region.log_pfa[i]),
        area=float(region.area[i] * x * y),
        bounding_box=(
            int(region.left[i] * x), int(region.top[i] * y),
            int(np.ceil(region.right[i] * x)), int(np.ceil(region.bottom[i] * y)),
        ),
        centroid=(float((region.column[i] + 0.5) * x), float((region.row[i] + 0.5) * y)),
        scale=int(region.scale[i]) + 1,
    )  # fmt: skip
