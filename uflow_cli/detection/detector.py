"""From evidence maps to regions, and what each image of a batch says. Logarithms are base 10, low is anomalous.

An evidence map is any map of positive values that is high where an image is strange; U = Σ z² of a scale of the flow
is one. The detector takes several, treats each by its own background law and curve, and does not ask where they are
from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uflow_cli.config import Tests
from uflow_cli.detection.evidence import at_scales, clear_halos, counting_cells, image_levels, largest_grids
from uflow_cli.detection.masks import (
    LONGEST_SIDE,
    ScaleRegions,
    contours,
    log_nfa_map,
    mask_below,
    published_log_nfa_map,
    published_mask_below,
    scale_regions,
)
from uflow_cli.detection.nfa import (
    AContrario,
    Background,
    Regions,
    a_contrario,
    chi2_log_tail,
    fuse_evidence,
    log_n_tests,
    log_n_tests_by_size,
)
from uflow_cli.images import resize_mask

AREA_EXPONENT = 0.25  # of what ranks a region of fused evidence, and
WHOLE_SHARE = 1 / 3  # of the false alarms are for whole images; see benchmarks/results/fused.md
PIXELS_PER_CELL = 2  # at least, where outlines of large images are drawn


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
        if not all(map(math.isfinite, (*self.log_nfa, *self.log_count))):
            raise ValueError("the knots of a curve must be finite")
        if not (math.isfinite(self.spread) and self.spread > 0 and self.exponent >= 1):
            raise ValueError(f"a curve needs a positive tail, not spread {self.spread}, exponent {self.exponent}")

    def expected(self, log_nfa: ArrayLike) -> NDArray[np.float64]:
        """log10 of the expected false regions per image at or below `log_nfa`, in the same shape."""
        values = np.asarray(log_nfa, dtype=np.float64)
        depth = np.maximum(self.log_nfa[0] - values, 0.0)
        falls = self.exponent * np.log10(1.0 + depth / self.spread)
        log_count: NDArray[np.float64] = np.interp(values, self.log_nfa, self.log_count) - falls
        return log_count


@dataclass(frozen=True)
class Part:
    """A region of cells below the threshold that is part of a detection, in pixels of the original image."""

    log_nfa: float
    log_pfa: float
    area: float  # pixels
    bounding_box: tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside


@dataclass(frozen=True)
class Detection:
    """A defect: one or more regions with log_nfa below the threshold, in pixels of the original image.

    Regions whose outlines touch are parts of one detection, which the most significant of them names. A detection of
    the whole image says that its evidence as a whole is too high, wherever it is; nothing of it is drawn.
    """

    log_nfa: float
    log_pfa: float
    area: float  # pixels
    bounding_box: tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside
    centroid: tuple[float, float]  # x, y
    scale: int  # 1 is the finest that the model sees, or all of them where their evidence is fused
    is_whole_image: bool = False
    parts: tuple[Part, ...] = ()  # where there are several


@dataclass(frozen=True)
class Fusion:
    """How the evidence of several sources becomes one map, and the laws of that map on good images.

    `law` is that of a cell, `image_law` that of an image as a whole; both only rank. A region ranks by how unlikely
    its highest cell is, times its area to the power `area_exponent`. Neighbouring cells are no independent witnesses:
    counted as such (an exponent of 1) wide and faint regions, as good images have them, outrank small defects. Whole
    images may have `whole_share` of the false alarms, regions the rest.

    Where an image is strange is shown, and regions are outlined, on a map of its own: by `map_weights`, with half of
    the halos that the flow spreads; its mean on good images is `map_mean`. What tells best that there is a defect,
    coarse scales of the flow, is not what tells best where. Runs of before have no such weights: there the map has
    those of the verdict, and outlines follow the evidence as it is.

    What an image as a whole says is the mean of its evidence to the power `image_power`, its root taken: between the
    mean, which a small defect does not move, and the maximum, which a change of all the texture hardly does.
    """

    weights: tuple[float, ...]
    law: Background
    image_law: Background
    area_exponent: float = AREA_EXPONENT
    whole_share: float = WHOLE_SHARE
    map_weights: tuple[float, ...] = ()
    map_mean: float = 0.0
    image_power: float = 1.0

    def __post_init__(self) -> None:
        for weights in (self.weights, self.map_weights):
            if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
                raise ValueError(f"weights of evidence must be finite and not negative, not {weights}")
        if self.map_weights and not (len(self.map_weights) == len(self.weights) and any(self.map_weights)):
            raise ValueError(f"a map of {len(self.weights)} sources has weights {self.map_weights}")
        if not (math.isfinite(self.map_mean) and math.isfinite(self.image_power) and self.image_power >= 1):
            raise ValueError(f"mean {self.map_mean} or power {self.image_power} of a map is out of range")
        if not (0 <= self.area_exponent <= 1 and 0 < self.whole_share < 1):
            raise ValueError(f"area exponent {self.area_exponent} or share {self.whole_share} is not in 0..1")


@dataclass(frozen=True)
class Detector:
    """How evidence maps become regions with a number of false alarms; one law, reach and curve per map.

    `reach` is how far, in cells, a strange cell spreads into its neighbours. Without `curves` the log NFA is that of
    the law; with them it is what was counted on good images. `paper_exact` restores the published procedure: no halos
    are cleared, and the formula of the tail also calls regions far below the mean significant.

    With a `fusion` the evidence of all maps becomes one before regions are sought, and the image as a whole is one more
    thing to test; then there are two curves, of regions and of whole images, and no halos to clear. `log_lot` is log10
    of the good images among which false detections are counted.
    """

    background: tuple[Background, ...]
    tests: Tests
    reach: tuple[int, ...]
    curves: tuple[FalseAlarmCurve, ...] = ()
    paper_exact: bool = False
    fusion: Fusion | None = None
    log_lot: float = 0.0

    def find(
        self, evidence: Sequence[NDArray[np.float32]], *, shares: NDArray[np.float32] | None = None,
        extent: tuple[float, float] = (1.0, 1.0),
    ) -> Findings:  # fmt: skip
        """Find the regions in evidence maps, each (B, H_s, W_s), finest first.

        `shares` (B, H, W), on the finest grid, say how much each cell counts; None: all of it. Evidence is taken times
        its share, and there are as many tests as shares add up to. `extent` is that of the images' `Layout`.
        """
        by_scale = at_scales(shares, evidence)
        n_cells = counting_cells(evidence, by_scale)
        ceiling = self.ceiling(largest_grids(n_cells))
        if self.paper_exact:
            result = a_contrario(evidence, background=self.background, tests=self.tests, tail="published")
            return Findings(result, tuple(evidence), ceiling, paper_exact=True)
        sources = tuple(evidence)
        if self.fusion is not None:
            fused = fuse_evidence(evidence, background=self.background, weights=self.fusion.weights)
            fused = fused if shares is None else fused * shares
            result = a_contrario([fused], background=[self.fusion.law], tests=self.tests)
            result = self._tested(result, [[cells[0]] for cells in n_cells], shares)
            result = replace(
                result, regions=with_whole_images(result.regions, fused, fusion=self.fusion, shares=shares)
            )
            evidence = [fused]
        else:
            cleared = clear_halos(evidence, background=self.background, reach=self.reach)
            if by_scale is not None:
                cleared = [u * share for u, share in zip(cleared, by_scale, strict=True)]
                evidence = [u * share for u, share in zip(evidence, by_scale, strict=True)]
            result = a_contrario(cleared, background=self.background, tests=self.tests)
            result = self._tested(result, n_cells, shares)
        log_nfa = result.regions.log_nfa
        if self.curves:
            log_nfa = counted_log_nfa(self.ranked(result.regions), self.curves, allowances=self.allowances)
        result = replace(result, regions=replace(result.regions, log_nfa=log_nfa + self.log_lot))
        return Findings(result, tuple(evidence), ceiling, detector=self, sources=sources, shares=shares, extent=extent)

    @property
    def allowances(self) -> tuple[float, ...]:
        """Of all false alarms, what each curve may have: of every scale as much, or of regions and of whole images."""
        if self.fusion is not None:
            return 1.0 - self.fusion.whole_share, self.fusion.whole_share
        return (1.0 / len(self.background),) * len(self.background)

    def ranked(self, regions: Regions) -> Regions:
        """`regions` with what ranks them, low is strange, in the place of log NFA; curves are drawn from it."""
        if self.fusion is None:
            return regions
        law = self.fusion.law
        tail = chi2_log_tail(regions.peak, degrees_of_freedom=law.degrees_of_freedom, scale=law.scale)
        ranks = regions.area.astype(np.float64) ** self.fusion.area_exponent * tail
        return replace(regions, log_nfa=np.where(regions.scale == 0, ranks, regions.log_pfa))

    def _tested(
        self, result: AContrario, n_cells: Sequence[Sequence[int]], shares: NDArray[np.float32] | None
    ) -> AContrario:
        """`result` with the number of tests of each image's own cells: `n_cells` per image and scale."""
        if shares is None:
            return result
        regions, log_nfa = result.regions, result.regions.log_nfa.copy()
        for image, cells in enumerate(n_cells):
            rows = regions.image == image
            grids = [(1, n) for n in cells]
            by_size = self.tests == "by-size"
            n_tests = log_n_tests_by_size(grids, regions.area[rows]) if by_size else log_n_tests(grids)
            log_nfa[rows] = n_tests + regions.log_pfa[rows]
        return replace(result, regions=replace(regions, log_nfa=log_nfa))

    def localised(
        self, evidence: Sequence[NDArray[np.float32]], shares: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Where images are strange, (B, H, W): the evidence of all sources fused by the weights of the map.

        It is the mean of that evidence as it is and without the halos that the flow spreads.
        """
        assert self.fusion is not None
        weights = self.fusion.map_weights or self.fusion.weights
        used = [source for source, weight in enumerate(weights) if weight]
        maps, laws = [evidence[source] for source in used], [self.background[source] for source in used]
        weights = tuple(weights[source] for source in used)
        reach = [cells for source, cells in enumerate(self.reach) if source in used]
        cleared = clear_halos(maps[: len(reach)], background=laws[: len(reach)], reach=reach)
        whole = fuse_evidence(maps, background=laws, weights=weights)
        without = fuse_evidence([*cleared, *maps[len(reach) :]], background=laws, weights=weights)
        halved: NDArray[np.float32] = 0.5 * (whole + without)
        return halved if shares is None else halved * shares

    def ceiling(self, grids: Sequence[tuple[int, int]]) -> float:
        """The log NFA of a cell that is no evidence at all, for `grids` of (height, width) cells.

        With curves, as many false regions as there are cells; else the number of tests of a single cell.
        """
        if self.curves:
            return math.log10(sum(height * width for height, width in grids)) + self.log_lot
        return self.log_lot + (log_n_tests(grids) if self.tests == "paper" else float(log_n_tests_by_size(grids, 1)))


@dataclass(frozen=True, eq=False)
class Findings:
    """The findings of a detector in a batch of images: all regions, and of each image its detections and masks.

    `ceiling` is the log NFA of an image without any region; `sources` is the evidence of each source, which `evidence`
    fuses where there is a `detector` that does.
    """

    result: AContrario
    evidence: tuple[NDArray[np.float32], ...]
    ceiling: float
    paper_exact: bool = False  # how maps are up-sampled
    detector: Detector | None = None
    sources: tuple[NDArray[np.float32], ...] = ()
    shares: NDArray[np.float32] | None = None  # how much each cell counts, (B, H, W)
    extent: tuple[float, float] = (1.0, 1.0)  # of the maps over the images
    _localised: dict[int, NDArray[np.float32]] = field(default_factory=dict, init=False)  # what was asked for

    @property
    def regions(self) -> Regions:
        """The table of all regions of all images."""
        return self.result.regions

    @cached_property
    def lowest_log_nfa(self) -> NDArray[np.float64]:
        """The lowest log NFA of each image, (B,)."""
        return lowest_log_nfa(self.regions, n_images=len(self.evidence[0]), ceiling=self.ceiling)

    @property
    def fusion(self) -> Fusion | None:
        """How the evidence of all sources was fused, if it was."""
        return self.detector.fusion if self.detector is not None else None

    def localised(self, image: int) -> NDArray[np.float32]:
        """Where `image` is strange, on the grid of the fused evidence, (H, W); see `Detector.localised`."""
        assert self.detector is not None
        if image not in self._localised:
            shares = None if self.shares is None else self.shares[image, None]
            self._localised[image] = self.detector.localised([u[image, None] for u in self.sources], shares)[0]
        return self._localised[image]

    def of_source(self, source: int) -> NDArray[np.float32]:
        """The evidence ln(1 + c) of one source alone, (B, H_s, W_s); of what counts, on its own grid."""
        assert self.detector is not None
        u = self.sources[source]
        alone = fuse_evidence([u], background=[self.detector.background[source]])
        shares = at_scales(self.shares, [u])
        return alone if shares is None else alone * shares[0]

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """How strange each image is as a whole, (B,) in [0, 1): 1 - exp(-E / 2) of its `image_levels`."""
        assert self.fusion is not None
        levels = image_levels(self.evidence[0], self.shares, power=self.fusion.image_power)
        scores: NDArray[np.float64] = 1.0 - np.exp(-0.5 * levels)
        return scores

    def detections(self, image: int, *, threshold: float, size: tuple[int, int]) -> tuple[Detection, ...]:
        """The regions of `image` with log NFA < `threshold` in an original of `size` (H, W), most significant first."""
        chosen = self._ranked(image, below=threshold)
        if self.fusion is None:
            return tuple(self._detection(chosen, row, size) for row in range(len(chosen)))
        return self._grouped(image, chosen, size)

    def scales(self, image: int) -> tuple[ScaleRegions, ...]:
        """The regions of `image` cell by cell, from which its masks and maps follow."""
        return scale_regions(self.result, self.evidence, index=image, ceiling=self.ceiling)

    def mask(self, image: int, *, threshold: float, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The union of the outlines of all detections of `image`, (H, W)."""
        if self.fusion is not None:
            drawn = self._contours(image, self._ranked(image, below=threshold), size)[0] >= 0
            return drawn if drawn.shape == size else resize_mask(drawn, size)
        if self.paper_exact:
            return published_mask_below(self.scales(image), threshold=threshold, size=size)
        whole = self._whole(size)
        return mask_below(self.scales(image), threshold=threshold, size=whole)[: size[0], : size[1]]

    def log_nfa_map(self, image: int, *, size: tuple[int, int]) -> NDArray[np.float32]:
        """The lowest log NFA around each pixel of `image`, (H, W); what is below t is the mask at t."""
        if self.fusion is not None:
            ranked = self._ranked(image, below=self.ceiling)
            log_nfa = np.append(ranked.log_nfa, self.ceiling).astype(np.float32)  # the last is where no region is
            return log_nfa[self._contours(image, ranked, size)[0]]
        lowest = published_log_nfa_map if self.paper_exact else log_nfa_map
        return lowest(self.scales(image), size=self._whole(size))[: size[0], : size[1]]

    def _whole(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of the maps where the image is drawn in `size`."""
        return max(size[0], round(size[0] * self.extent[0])), max(size[1], round(size[1] * self.extent[1]))

    def _ranked(self, image: int, *, below: float) -> Regions:
        """The regions of `image` with a log NFA below that, most significant first."""
        rows = np.flatnonzero((self.regions.image == image) & (self.regions.log_nfa < below))
        return self.regions.select(rows[np.argsort(self.regions.log_nfa[rows], kind="stable")])

    def _contours(
        self, image: int, ranked: Regions, size: tuple[int, int]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], list[int]]:
        """See `contours`; the image as a whole is a group of its own and has no contour."""
        assert self.fusion is not None
        longest = max(LONGEST_SIDE, PIXELS_PER_CELL * max(self.evidence[0].shape[1:]))
        shrink = min(1.0, longest / max(size))
        drawn = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
        if not len(ranked):
            return np.full(drawn, -1, dtype=np.int32), np.zeros(drawn, dtype=np.int32), []
        has_map = bool(self.fusion.map_weights)
        evidence = self.localised(image) if has_map else self.evidence[0][image]
        mean = self.fusion.map_mean if has_map else self.fusion.law.degrees_of_freedom * self.fusion.law.scale
        first, group, groups = contours(
            evidence, self.result.labels[0][image], ranked, mean=mean, size=self._whole(drawn)
        )
        return first[: drawn[0], : drawn[1]], group[: drawn[0], : drawn[1]], groups

    def _grouped(self, image: int, ranked: Regions, size: tuple[int, int]) -> tuple[Detection, ...]:
        """A detection for each group of regions whose outlines touch, and one for the image as a whole."""
        region, group, groups = self._contours(image, ranked, size)
        members: dict[int, list[int]] = {}
        for row, number in enumerate(groups):
            members.setdefault(number, []).append(row)
        detections = []
        for number, rows in members.items():
            singles = [self._detection(ranked, row, size) for row in rows]
            detections.append(_outlined(singles, (group == number) & (region >= 0), size=size))
        return tuple(detections)

    def _detection(self, regions: Regions, row: int, size: tuple[int, int]) -> Detection:
        scale = int(regions.scale[row])
        if scale == len(self.evidence):  # the image as a whole
            height, width = size
            return Detection(
                log_nfa=float(regions.log_nfa[row]), log_pfa=float(regions.log_pfa[row]), area=float(height * width),
                bounding_box=(0, 0, width, height), centroid=(width / 2, height / 2), scale=1, is_whole_image=True,
            )  # fmt: skip
        _, rows, columns = self.evidence[scale].shape
        y, x = size[0] * self.extent[0] / rows, size[1] * self.extent[1] / columns  # pixels per cell
        return Detection(
            log_nfa=float(regions.log_nfa[row]),
            log_pfa=float(regions.log_pfa[row]),
            area=float(regions.area[row] * x * y),
            bounding_box=(
                int(regions.left[row] * x), int(regions.top[row] * y),
                min(size[1], int(np.ceil(regions.right[row] * x))), min(size[0], int(np.ceil(regions.bottom[row] * y))),
            ),
            centroid=(float((regions.column[row] + 0.5) * x), float((regions.row[row] + 0.5) * y)),
            scale=scale + 1,
        )  # fmt: skip


def _outlined(singles: Sequence[Detection], inside: NDArray[np.bool_], *, size: tuple[int, int]) -> Detection:
    """One detection of regions, the most significant first, that share the outline `inside`."""
    first, (rows, columns) = singles[0], np.nonzero(inside)
    if not len(rows):
        return first
    y, x = size[0] / inside.shape[0], size[1] / inside.shape[1]
    parts = tuple(Part(one.log_nfa, one.log_pfa, one.area, one.bounding_box) for one in singles)
    return replace(
        first,
        area=float(len(rows) * x * y),
        bounding_box=(
            int(columns.min() * x), int(rows.min() * y), math.ceil((columns.max() + 1) * x),
            math.ceil((rows.max() + 1) * y),
        ),
        centroid=(float((columns.mean() + 0.5) * x), float((rows.mean() + 0.5) * y)),
        parts=parts if len(parts) > 1 else (),
    )  # fmt: skip


def with_whole_images(
    regions: Regions, evidence: NDArray[np.float32], *, fusion: Fusion, shares: NDArray[np.float32] | None = None
) -> Regions:
    """`regions` and a row for each image as a whole, of scale 1, where what it says is above the law's mean."""
    law, levels = fusion.image_law, image_levels(evidence, shares, power=fusion.image_power)
    log_pfa = chi2_log_tail(levels, degrees_of_freedom=law.degrees_of_freedom, scale=law.scale)
    images = np.flatnonzero(log_pfa < 0)
    height, width = evidence.shape[1:]
    columns: dict[str, object] = {
        "image": images, "scale": 1, "label": 0, "level": levels[images], "log_pfa": log_pfa[images],
        "log_nfa": log_pfa[images], "area": height * width, "top": 0, "left": 0, "bottom": height, "right": width,
        "row": (height - 1) / 2, "column": (width - 1) / 2, "peak": levels[images],
        "total": levels[images] * height * width,
    }  # fmt: skip
    joined = {}
    for name, more in columns.items():
        own = getattr(regions, name)
        joined[name] = np.concatenate([own, np.broadcast_to(np.asarray(more, dtype=own.dtype), len(images))])
    order = np.lexsort((joined["scale"], joined["image"]))  # lexsort is stable: labels keep their order
    return Regions(**{name: values[order] for name, values in joined.items()})


def counted_log_nfa(
    regions: Regions, curves: Sequence[FalseAlarmCurve], *, allowances: Sequence[float]
) -> NDArray[np.float64]:
    """Log NFA of each region by the curve of its scale, which may have its part of the false alarms in all."""
    log_nfa = np.empty(len(regions))
    for scale, (curve, allowance) in enumerate(zip(curves, allowances, strict=True)):
        rows = regions.scale == scale
        log_nfa[rows] = curve.expected(regions.log_nfa[rows]) - math.log10(allowance)
    return log_nfa


def lowest_log_nfa(regions: Regions, *, n_images: int, ceiling: float) -> NDArray[np.float64]:
    """The lowest log NFA of each image, (n_images,); `ceiling` where an image has no region that goes below it."""
    lowest = np.full(n_images, ceiling)
    np.minimum.at(lowest, regions.image, regions.log_nfa)
    return lowest
