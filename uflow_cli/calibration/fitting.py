"""From held-out good images to a calibration: background laws, curves of false alarms, promise. Logs are base 10.

Real images are no white noise: their regions are more significant, and in some scales far more so, than the background
law allows. So log NFA under that law only ranks the regions of a scale, and a curve per scale says how many regions of
held-out images rank as high. A scale may have 1 / L of the false alarms that are allowed in all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uflow_cli.calibration.record import FALSE_BELOW, PROBABILITIES, Calibration, Reference
from uflow_cli.config import Tests
from uflow_cli.detection.detector import Detector, FalseAlarmCurve, Fusion, counted_log_nfa, lowest_log_nfa
from uflow_cli.detection.evidence import counting_grids, image_levels
from uflow_cli.detection.fitted import EvidenceModel
from uflow_cli.detection.nfa import Background, Regions, fuse_evidence

TAIL_IMAGES = 6  # of all held-out images, at most half: those that make the tail of a curve; measured with 4 to 20
MEAN_EXCESS = 1 / math.log(10)  # of log NFA below any level, under the background law: P(log NFA < t) grows as 10^t
KNOT_RATIO = 1.25  # between the ranks of two knots: 40 of them span 5 to 10,000 regions
FOLDS = 10
IMAGE_POWER = 3.0  # of what an image as a whole says; see benchmarks/results/fused.md
FINE_SHARE, COARSE_SHARE = 0.3, 0.1  # of the map, for the flow's two finest scales and for all others
STEEPEST = 1e4  # degrees of freedom of a fitted law, at most
POSITIONS = 14  # cells along the longer side of a position map, at most
DIGITS = 5  # significant ones of a reference: what is stored stays small


@dataclass(frozen=True)
class TailPrior:
    """A tail before any image of a product is seen: the mean `excess`, worth as much as `weight` of them."""

    excess: float
    weight: int


# Of fused evidence: the ranks of regions, and of whole images. The mean excess of six products is 0.8 to 2.6, and 0.25
# to 0.5; see benchmarks/results/few.md.
FUSED_TAILS = TailPrior(excess=1.5, weight=8), TailPrior(excess=MEAN_EXCESS, weight=8)


class EvidenceKind(TypedDict):
    """The facts about a model that `calibrate` needs to read its U maps."""

    n_channels: tuple[int, ...]
    tests: Tests
    reach: Sequence[int]
    is_fused: bool
    flow_share: float
    log_lot: float


def kind_of_evidence(model: EvidenceModel) -> EvidenceKind:
    """The facts about `model` that `calibrate` needs."""
    config = model.config
    return {
        "n_channels": model.source_channels, "tests": config.tests, "reach": model.reach,
        "is_fused": config.is_fused, "flow_share": config.flow_share, "log_lot": config.log_lot,
    }  # fmt: skip


def calibrate(
    norms: Sequence[ArrayLike], *, selection: Sequence[ArrayLike] = (), n_channels: tuple[int, ...], tests: Tests,
    reach: Sequence[int], shared: bool = False, is_fused: bool = False, flow_share: float = 0.7,
    log_lot: float = 0.0, groups: Sequence[str] = (), shares: NDArray[np.float32] | None = None,
) -> Calibration:  # fmt: skip
    """Calibration from U maps of held-out good images, per source of evidence (N, H_s, W_s), the flow's scales first.

    `reach` has an entry for each of the flow's scales. `is_fused` fuses the evidence of all sources before regions are
    sought, `flow_share` of it the flow's; without it there are no other sources.

    `norms` give the false-alarm rate; `selection` are U maps of further images, those that chose the epoch. All of them
    fit the background and draw the curves. The images of `norms` take turns to be left out of the curves and are scored
    by the rest, with all of their group where `groups` names the group of each. `shared` tells that they chose the
    epoch themselves. With one image there are no curves, and without any the law of the paper and no promise.
    `shares` say how much each cell counts, of the images of `norms`, then of `selection`; see `Detector.find`.
    """
    scored = [np.asarray(u, dtype=np.float32) for u in norms]
    n = len(scored[0])
    if not n:
        n_channels = n_channels[: len(reach)]
        laws = tuple(Background(c) for c in n_channels)
        v = (1.0,) * len(laws)
        return Calibration(laws, v, n_channels, (), shared, (), 0, (), (), log_lot=log_lot)
    maps = [np.concatenate(pair) for pair in zip(scored, selection, strict=True)] if selection else scored
    fits = [fit_background(u, n_channels=c) for u, c in zip(maps, n_channels, strict=True)]
    laws = tuple(law for law, _ in fits)
    fusion = fit_fusion(maps, laws, n_flow=len(reach), flow_share=flow_share, shares=shares) if is_fused else None
    detector = Detector(laws, tests, tuple(reach), fusion=fusion)
    if fusion is not None:
        fusion = replace(fusion, map_mean=_mean_of(detector.localised(maps, shares), shares))
        detector = replace(detector, fusion=fusion)
    regions = detector.find(maps, shares=shares).regions
    n_counted, n_scales = len(maps[0]), 2 if is_fused else len(maps)
    judged = regions
    if n_counted > 1:
        ranked = detector.ranked(regions)
        priors = FUSED_TAILS if is_fused else ()
        curves = fit_curves(ranked, n_images=n_counted, n_scales=n_scales, priors=priors)
        detector = replace(detector, curves=curves)
        judged = cross_fitted_regions(
            ranked, n_images=n_counted, allowances=detector.allowances, scored=np.arange(n), groups=groups,
            priors=priors,
        )  # fmt: skip
    ceiling = detector.ceiling(counting_grids(maps, shares))
    lowest = lowest_log_nfa(judged, n_images=n_counted, ceiling=ceiling)[:n]
    return Calibration(
        background=detector.background,
        mean_ratio=tuple(ratio for _, ratio in fits),
        n_channels=n_channels,
        lowest_log_nfa=tuple(sorted(float(value) for value in lowest)),
        shared=shared,
        curves=detector.curves,
        n_counted=n_counted,
        false_log_nfas=tuple(round(float(v), 3) for v in np.sort(judged.log_nfa[judged.log_nfa < FALSE_BELOW])),
        references=tuple(fit_reference(u, n_channels=c) for u, c, _ in zip(maps, n_channels, reach, strict=False)),
        log_lot=log_lot,
        fusion=fusion,
        n_groups=len(set(groups)),
    )


def fit_fusion(
    maps: Sequence[NDArray[np.float32]], laws: Sequence[Background], *, n_flow: int, flow_share: float,
    shares: NDArray[np.float32] | None = None,
) -> Fusion:  # fmt: skip
    """How evidence of sources with these `laws` is fused, and its own laws, from U maps (N, H_s, W_s) of good images.

    The first `n_flow` sources are the flow's scales. All of them together, and each as much as the others, count for
    `flow_share`; the rest goes to the witnesses beside it, where there are any. The map has weights of its own, see
    `_map_weights`; its mean on good images is not fitted here.
    """
    others = len(maps) - n_flow
    share = flow_share if others else 1.0
    weights = (share / n_flow,) * n_flow + tuple((1.0 - share) / others for _ in range(others))
    map_weights = _map_weights(n_flow, others)
    fused = fuse_evidence(maps, background=laws, weights=weights)
    cells, counted = (fused, fused) if shares is None else (fused[shares > 0], fused * shares)
    images = image_levels(counted, shares, power=IMAGE_POWER)
    return Fusion(
        weights, _law_of(cells.astype(np.float64)), _law_of(images), map_weights=map_weights, image_power=IMAGE_POWER
    )


def _map_weights(n_flow: int, n_others: int) -> tuple[float, ...]:
    """Weights of the map: most for what tells where an image is strange, other sources and the two finest scales."""
    fine, coarse = min(2, n_flow), max(0, n_flow - 2)
    ranks = np.arange(n_others, 0, -1) + 1.0  # the finer the more, 3 : 2 for two
    weights = np.array([
        *[FINE_SHARE / fine] * fine, *[COARSE_SHARE / max(1, coarse)] * coarse,
        *(1.0 - FINE_SHARE - COARSE_SHARE) * ranks / ranks.sum(),
    ])  # fmt: skip
    return tuple(float(weight) for weight in weights / weights.sum())


def _mean_of(values: NDArray[np.float32], shares: NDArray[np.float32] | None) -> float:
    """The mean of `values`, in which `shares` are contained, over all that counts."""
    return float(values.sum(dtype=np.float64) / (values.size if shares is None else shares.sum(dtype=np.float64)))


def _law_of(values: NDArray[np.float64]) -> Background:
    """A chi-square law, scaled, of the mean and the variance of `values`; it is steep where they hardly vary."""
    mean = max(float(values.mean()), 1e-6)
    k = min(2.0 * mean**2 / max(float(values.var()), 1e-12), STEEPEST)
    return Background(degrees_of_freedom=k, scale=mean / k)


def fit_background(squared_norm: NDArray[np.float32], *, n_channels: int) -> tuple[Background, float]:
    """Background U ~ (v C / k) χ²(k) of one scale, and v = mean(U) / C, from U maps (N, H, W) of good images.

    k = 2 mean² / var (Satterthwaite), at most C. Raises ValueError for maps without positive values.
    """
    values = np.asarray(squared_norm, dtype=np.float64)
    mean, variance = float(values.mean()), float(values.var())
    if not mean > 0:
        raise ValueError("squared norms must have a positive mean")
    k = min(2.0 * mean**2 / variance, float(n_channels)) if variance > 0 else float(n_channels)
    return Background(degrees_of_freedom=k, scale=mean / k), mean / n_channels


def fit_curve(
    log_nfa: ArrayLike, image: ArrayLike, *, n_images: int, prior: TailPrior | None = None
) -> FalseAlarmCurve:
    """The curve of one scale from regions of `n_images` good images: their `log_nfa`, and the `image` each is in.

    Counting: the j-th lowest of a Poisson process seen on n images has j / n points below it on a further image, in the
    mean. The tail: the excesses of the J lowest images' minima below the J-th are taken for exponential. Then a further
    one, as a multiple of their sum, is above c with probability (1 + c)^-(J-1) exactly, however small J is; and images
    that bring several regions at once do not pass for several images. A `prior` adds its `weight` to J - 1 and its
    excesses to the sum: the predictive law of an exponential whose rate has a gamma law over products.
    """
    values = np.asarray(log_nfa, dtype=np.float64)
    if not len(values):  # nothing in n images: at most one in n, and rarer below zero
        return FalseAlarmCurve((0.0,), (-math.log10(n_images),), MEAN_EXCESS, 1)
    order = np.argsort(values, kind="stable")
    values, images = values[order], np.asarray(image)[order]
    minima = values[np.sort(np.unique(images, return_index=True)[1])]  # lowest of each image, increasing
    minima = minima[: min(TAIL_IMAGES, max(2, n_images // 2))]
    exponent = max(len(minima) - 1, 1)
    spread = max(float((minima[-1] - minima).sum()), exponent * MEAN_EXCESS)  # never lighter than the law's own
    if prior is not None:
        exponent, spread = exponent + prior.weight, spread + prior.weight * prior.excess
    ranks = _knot_ranks(int(np.searchsorted(values, minima[-1], side="right")), len(values))
    return FalseAlarmCurve(
        log_nfa=tuple(float(v) for v in values[ranks - 1]),
        log_count=tuple(float(c) for c in np.log10(ranks / n_images)),
        spread=spread,
        exponent=exponent,
    )


def fit_curves(
    regions: Regions, *, n_images: int, n_scales: int, priors: Sequence[TailPrior] = ()
) -> tuple[FalseAlarmCurve, ...]:
    """A curve per scale from the `regions` of `n_images` good images under the background law, with a prior each."""
    curves = []
    for scale, prior in enumerate(priors or (None,) * n_scales):
        rows = np.flatnonzero(regions.scale == scale)
        curves.append(fit_curve(regions.log_nfa[rows], regions.image[rows], n_images=n_images, prior=prior))
    return tuple(curves)


def cross_fitted_regions(
    regions: Regions, *, n_images: int, allowances: Sequence[float], scored: ArrayLike, groups: Sequence[str] = (),
    priors: Sequence[TailPrior] = (),
) -> Regions:  # fmt: skip
    """The regions of the images `scored`, log NFA of each by curves that were fitted without its image; two or more.

    `regions` are those of `n_images` good images under the background law, `allowances` what each scale may have of the
    false alarms. Of these images, the scored ones take turns in folds to be left out: an image that helped to draw the
    curve which judges it looks more ordinary than it is. So do those of its group, where `groups` names the group of
    each scored image; a single group is parted all the same.
    """
    rows = np.asarray(scored)
    numbers = np.unique(np.asarray(groups), return_inverse=True)[1] if len(set(groups)) > 1 else np.arange(len(rows))
    folds = numbers % FOLDS
    log_nfa = np.full(len(regions), np.nan)
    for fold in np.unique(folds):
        left_out = np.zeros(n_images, dtype=np.bool_)
        left_out[rows[folds == fold]] = True
        judged = left_out[regions.image]
        n_drawing = n_images - int(left_out.sum())
        curves = fit_curves(regions.select(~judged), n_images=n_drawing, n_scales=len(allowances), priors=priors)
        log_nfa[judged] = counted_log_nfa(regions.select(judged), curves, allowances=allowances)
    return replace(regions, log_nfa=log_nfa).select(~np.isnan(log_nfa))


def cross_fitted_lowest(
    regions: Regions, *, n_images: int, allowances: Sequence[float], scored: ArrayLike, ceiling: float,
    groups: Sequence[str] = (),
) -> NDArray[np.float64]:  # fmt: skip
    """The lowest log NFA of the images `scored`, see `cross_fitted_regions`."""
    inside = cross_fitted_regions(regions, n_images=n_images, allowances=allowances, scored=scored, groups=groups)
    chosen: NDArray[np.float64] = lowest_log_nfa(inside, n_images=n_images, ceiling=ceiling)[np.asarray(scored)]
    return chosen


def fit_reference(squared_norm: NDArray[np.float32], *, n_channels: int) -> Reference:
    """The reference of one scale from U maps (N, H, W) of good images, N at least 1."""
    levels = squared_norm.astype(np.float64) / n_channels
    return Reference(
        image_levels=_rounded(levels.mean(axis=(1, 2))),
        position_levels=tuple(_rounded(row) for row in position_levels(squared_norm, n_channels=n_channels)),
        quantiles=_rounded(np.quantile(levels, PROBABILITIES)),
    )


def position_levels(squared_norm: NDArray[np.float32], *, n_channels: int) -> NDArray[np.float64]:
    """Mean level over images at each position, (h, w): U maps (N, H, W) pooled to at most `POSITIONS` cells a side."""
    mean = squared_norm.mean(axis=0, dtype=np.float64) / n_channels
    step = -(-max(mean.shape) // POSITIONS)
    rows, columns = (np.arange(0, n, step) for n in mean.shape)
    sums = np.add.reduceat(np.add.reduceat(mean, rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff(np.append(rows, mean.shape[0])), np.diff(np.append(columns, mean.shape[1])))
    pooled: NDArray[np.float64] = sums / counts
    return pooled


def _knot_ranks(first: int, last: int) -> NDArray[np.intp]:
    """Ranks from `first` to `last`, all of the first few, then each `KNOT_RATIO` times the one before."""
    n_steps = max(0, math.ceil(math.log(last / first) / math.log(KNOT_RATIO)))
    steps = first * KNOT_RATIO ** np.arange(n_steps)
    return np.unique(np.append(np.round(steps), last).astype(np.intp))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)
