"""From a trained model and an image to a verdict, regions and a mask. Logarithms are base 10, low is anomalous."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from uflow_cli.calibration import Calibration
from uflow_cli.config import Tests
from uflow_cli.halo import suppress_halo
from uflow_cli.images import resize_map
from uflow_cli.likelihood import anomaly_score, squared_norms
from uflow_cli.model import Model
from uflow_cli.nfa import AContrario, Background, Regions, a_contrario, log_n_tests, log_n_tests_by_size

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
    log_nfa_cells: tuple[NDArray[np.float32], ...]  # per scale (H_s, W_s), low is anomalous
    region_log_nfas: NDArray[np.float64]  # of all regions, detected or not
    paper_exact: bool = False  # how maps are up-sampled

    @property
    def is_defect(self) -> bool:
        """Whether any region is below the threshold."""
        return bool(self.detections)

    @property
    def log_nfa_map(self) -> NDArray[np.float32]:
        """Lowest log NFA over scales, (256, 256); made anew at each call, for it takes a while and few need it."""
        return merge_scales(self.log_nfa_cells, size=SCORE_SIZE, paper_exact=self.paper_exact)


def predict(
    model: Model, calibration: Calibration, images: Sequence[NDArray[np.uint8]], *, threshold: float = 0.0
) -> list[Prediction]:
    """Predictions for RGB `images`, each (H, W, 3) of any size; a region is detected where log_nfa < `threshold`."""
    with torch.inference_mode():
        embeddings = model.embeddings(images)
        scores = anomaly_score(embeddings, size=SCORE_SIZE)[:, 0].float().cpu().numpy()  # (B, 256, 256)
        norms = [u.cpu().numpy() for u in squared_norms(embeddings)]  # per scale (B, H_s, W_s)
    exact = model.config.paper_exact
    result = find_regions(
        norms, background=calibration.background, tests=model.config.tests, reach=model.flow.reach, paper_exact=exact
    )
    ceiling = log_nfa_ceiling(result, tests=model.config.tests)
    lowest = lowest_log_nfa(result, ceiling=ceiling)
    grids = [(labels.shape[1], labels.shape[2]) for labels in result.labels]
    predictions = []
    for index, image in enumerate(images):
        size = (image.shape[0], image.shape[1])
        detected = detected_regions(result, index=index, threshold=threshold)
        cells = log_nfa_cells(result, index=index, ceiling=ceiling)
        predictions.append(
            Prediction(
                size=size,
                log_nfa=float(lowest[index]),
                score=float(scores[index].max()),
                threshold=threshold,
                detections=tuple(
                    _detection(detected, i, size=size, grid=grids[detected.scale[i]]) for i in range(len(detected))
                ),
                mask=merge_scales(cells, size=size, paper_exact=True) < threshold
                if exact
                else detection_mask(result, detected, index=index, size=size),
                score_map=scores[index],
                region_log_nfas=result.regions.log_nfa[result.regions.image == index],
                paper_exact=exact,
                log_nfa_cells=cells,
            )
        )
    return predictions


def find_regions(
    squared_norms: Sequence[NDArray[np.float32]], *, background: Sequence[Background], tests: Tests,
    reach: Sequence[int], paper_exact: bool = False,
) -> AContrario:  # fmt: skip
    """Regions of U maps, per scale (B, H_s, W_s), as calibration and prediction both see them: without halos.

    `reach` is the flow's, in cells per scale. `paper_exact` keeps halos, and the published formula of the tail, which
    calls regions far below the mean significant too (METHOD 6.1).
    """
    if paper_exact:
        return a_contrario(squared_norms, background=background, tests=tests, tail="published")
    cleared = suppress_halo(squared_norms, background=background, reach=reach)
    return a_contrario(cleared, background=background, tests=tests)


def log_nfa_ceiling(result: AContrario, *, tests: Tests) -> float:
    """The log NFA of a cell that is no evidence at all: the log number of tests of a single cell."""
    grids = [(labels.shape[1], labels.shape[2]) for labels in result.labels]
    return log_n_tests(grids) if tests == "paper" else float(log_n_tests_by_size(grids, 1))


def lowest_log_nfa(result: AContrario, *, ceiling: float) -> NDArray[np.float64]:
    """The lowest log NFA of each image, (B,); `ceiling` where an image has no region that goes below it."""
    lowest = np.full(len(result.labels[0]), ceiling)
    np.minimum.at(lowest, result.regions.image, result.regions.log_nfa)
    return lowest


def detected_regions(result: AContrario, *, index: int, threshold: float) -> Regions:
    """The regions of image `index` with log_nfa < `threshold`, most significant first."""
    regions = result.regions
    rows = np.flatnonzero((regions.image == index) & (regions.log_nfa < threshold))
    return regions.select(rows[np.argsort(regions.log_nfa[rows], kind="stable")])


def log_nfa_map(result: AContrario, *, index: int, ceiling: float, size: tuple[int, int]) -> NDArray[np.float32]:
    """Lowest log NFA over scales at every pixel of image `index`, (H, W) (paper eq. 8, but see `upsample_by_median`).

    Below any threshold lies what `detection_mask` draws for it. Cells without a region, and regions that are no
    evidence, carry `ceiling`.
    """
    return merge_scales(log_nfa_cells(result, index=index, ceiling=ceiling), size=size)


def log_nfa_cells(result: AContrario, *, index: int, ceiling: float) -> tuple[NDArray[np.float32], ...]:
    """Log NFA of the cells of image `index`, per scale (H_s, W_s)."""
    regions = result.regions.select(result.regions.image == index)
    maps = []
    for scale, labels in enumerate(result.labels):
        values = np.minimum(regions.log_nfa[regions.scale == scale], ceiling)  # in the order of labels
        cells = np.append(values, ceiling)[labels[index]]  # label -1, no region, takes the last
        maps.append(cells.astype(np.float32))
    return tuple(maps)


def merge_scales(
    cells: Sequence[NDArray[np.float32]], *, size: tuple[int, int], paper_exact: bool = False
) -> NDArray[np.float32]:
    """The lowest of all scales at every pixel, (H, W); `paper_exact` up-samples bilinearly, as published (eq. 8)."""
    upsample = resize_map if paper_exact else upsample_by_median
    lowest: NDArray[np.float32] = np.minimum.reduce([upsample(c, size) for c in cells])
    return lowest


def upsample_by_median(cells: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """`cells` (h, w) at `size` (H, W): each pixel takes the lower median of its four cells under the bilinear weights.

    So {map < t} is the up-sampled indicator of {cells < t} cut at one half, for every t: an outline does not depend on
    how significant a region is, as it does where log NFA itself is interpolated (METHOD 7.6).
    """
    top, bottom, y = _neighbours(cells.shape[0], size[0])
    left, right, x = _neighbours(cells.shape[1], size[1])
    values = np.stack([cells[np.ix_(i, j)] for i in (top, bottom) for j in (left, right)], axis=-1)  # (H, W, 4)
    weights = np.stack([np.outer(a, b) for a in (1 - y, y) for b in (1 - x, x)], axis=-1)  # (H, W, 4)
    order = np.argsort(values, axis=-1)
    reached = np.cumsum(np.take_along_axis(weights, order, axis=-1), axis=-1) >= 0.5 - 1e-6
    median = np.take_along_axis(order, reached.argmax(axis=-1)[..., None], axis=-1)
    return np.take_along_axis(values, median, axis=-1)[..., 0]


def _neighbours(n_cells: int, n_pixels: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """The cells before and after each pixel centre, and the weight of the one after (align_corners=False)."""
    position = np.clip((np.arange(n_pixels) + 0.5) * n_cells / n_pixels - 0.5, 0, n_cells - 1)
    before = np.floor(position).astype(np.intp)
    return before, np.minimum(before + 1, n_cells - 1), position - before


def detection_mask(result: AContrario, detected: Regions, *, index: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Union of the `detected` regions of image `index` at `size` (H, W).

    Each region is up-sampled as an indicator and cut at one half, so that its outline follows its cells and does not
    grow with its significance as the published mask does (METHOD 7.6).
    """
    mask = np.zeros(size, dtype=np.bool_)
    for scale, labels in enumerate(result.labels):
        wanted = detected.label[detected.scale == scale]
        if len(wanted):
            mask |= resize_map(np.isin(labels[index], wanted).astype(np.float32), size) >= 0.5
    return mask


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
