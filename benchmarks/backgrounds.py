"""Candidate background models: each turns U maps of held-out and test images into maps, laws and, maybe, curves.

Imported by benchmarks/calibration.py. A candidate sees held-out good images only; the default is `counted per scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import genpareto

from uflow_cli.calibration import fit_background, fit_curve, fit_curves
from uflow_cli.detection.detector import FalseAlarmCurve, counted_log_nfa
from uflow_cli.detection.evidence import clear_halos
from uflow_cli.detection.nfa import AContrario, Background, a_contrario

Maps = list[np.ndarray]  # per scale (N, H_s, W_s), finest first


@dataclass(frozen=True)
class Sample:
    """Evidence of one trained flow for held-out good images and for test images."""

    seed: int
    held_out: Maps  # U
    test: Maps  # U
    held_out_embeddings: list[np.ndarray]  # per scale (N, C_s, H_s, W_s) float16
    test_embeddings: list[np.ndarray]
    reach: tuple[int, ...]  # of the flow, in cells per scale
    kinds: np.ndarray  # of the test images, "good" among them
    masks: np.ndarray  # (N, 256, 256) bool

    @property
    def n_channels(self) -> tuple[int, ...]:
        """Per scale."""
        return tuple(z.shape[1] for z in self.held_out_embeddings)


@dataclass(frozen=True)
class Outcome:
    """Regions of the test images, and the maps in which they were sought."""

    result: AContrario
    maps: Maps


def fit(maps: Maps, n_channels: Sequence[int]) -> list[Background]:
    """(v, k) of each scale."""
    return [fit_background(u, n_channels=c)[0] for u, c in zip(maps, n_channels, strict=True)]


def seek(maps: Maps, laws: Sequence[Background], reach: Sequence[int]) -> AContrario:
    """Regions without halos, log NFA as the laws have it."""
    return a_contrario(clear_halos(maps, background=laws, reach=reach), background=laws, tests="by-size")


def by_law(sample: Sample, _held_out: Maps, test: Maps, laws: Sequence[Background]) -> Outcome:
    """Log NFA as the law has it."""
    return Outcome(seek(test, laws, sample.reach), test)


def counted(sample: Sample, held_out: Maps, test: Maps, laws: Sequence[Background]) -> Outcome:
    """Log NFA as held-out images have it, scale by scale."""
    regions, result = seek(held_out, laws, sample.reach).regions, seek(test, laws, sample.reach)
    curves = fit_curves(regions, n_images=len(held_out[0]), n_scales=len(laws))
    return Outcome(
        with_log_nfa(result, counted_log_nfa(result.regions, curves, allowances=[1 / len(curves)] * len(curves))), test
    )


def counted_together(sample: Sample, held_out: Maps, test: Maps, laws: Sequence[Background]) -> Outcome:
    """Log NFA as held-out images have it, by one curve for all scales."""
    regions, result = seek(held_out, laws, sample.reach).regions, seek(test, laws, sample.reach)
    curve: FalseAlarmCurve = fit_curve(regions.log_nfa, regions.image, n_images=len(held_out[0]))
    return Outcome(with_log_nfa(result, curve.expected(result.regions.log_nfa)), test)


def with_log_nfa(result: AContrario, log_nfa: np.ndarray) -> AContrario:
    """`result` with another log NFA of its regions."""
    return replace(result, regions=replace(result.regions, log_nfa=log_nfa))


def as_is(sample: Sample) -> tuple[Maps, Maps]:
    """U as it comes."""
    return sample.held_out, sample.test


def per_position(sample: Sample) -> tuple[Maps, Maps]:
    """U over its held-out mean at each position, smoothed over a cell."""
    means = [gaussian_filter(u.mean(axis=0), 1, mode="nearest") for u in sample.held_out]
    return divide(sample.held_out, means), divide(sample.test, means)


def per_image(sample: Sample) -> tuple[Maps, Maps]:
    """U over the image's own median, so that an image that is off as a whole is none."""
    return tuple(  # type: ignore[return-value]
        [u / np.median(u, axis=(1, 2), keepdims=True) for u in maps] for maps in (sample.held_out, sample.test)
    )


def per_channel(sample: Sample) -> tuple[Maps, Maps]:
    """Each channel over its held-out root mean square."""
    matrices = [
        np.diag(1 / np.sqrt((z.astype(np.float32) ** 2).mean(axis=(0, 2, 3)))) for z in sample.held_out_embeddings
    ]
    return project(sample, matrices)


def whitened(sample: Sample, *, shrinkage: float = 0.1) -> tuple[Maps, Maps]:
    """Embeddings whitened by their held-out second moments, of which a part is taken for equal."""
    matrices = []
    for z in sample.held_out_embeddings:
        x = np.moveaxis(z, 1, 0).reshape(z.shape[1], -1).astype(np.float32)
        moments = x @ x.T / x.shape[1]
        moments = (1 - shrinkage) * moments + shrinkage * np.trace(moments) / len(moments) * np.eye(len(moments))
        values, vectors = np.linalg.eigh(moments)
        matrices.append((vectors / np.sqrt(values)).T)
    return project(sample, matrices)


def pareto_tail(sample: Sample) -> tuple[Maps, Maps]:
    """U moved so that Chernoff's bound under (v, k) gives its held-out tail: empirical, then generalised Pareto."""
    laws = fit(sample.held_out, sample.n_channels)
    moved = [_pareto_map(u, law) for u, law in zip(sample.held_out, laws, strict=True)]
    return tuple(  # type: ignore[return-value]
        [move(u) for u, move in zip(maps, moved, strict=True)] for maps in (sample.held_out, sample.test)
    )


def divide(maps: Maps, by: Sequence[np.ndarray]) -> Maps:
    """Each scale of `maps` over its own divisor."""
    return [u / b for u, b in zip(maps, by, strict=True)]


def project(sample: Sample, matrices: Sequence[np.ndarray]) -> tuple[Maps, Maps]:
    """U of embeddings under a linear map of the channels."""
    return tuple(  # type: ignore[return-value]
        [
            np.stack([(np.tensordot(m.astype(np.float32), x.astype(np.float32), 1) ** 2).sum(axis=0) for x in z])
            for z, m in zip(embeddings, matrices, strict=True)
        ]
        for embeddings in (sample.held_out_embeddings, sample.test_embeddings)
    )


def _pareto_map(u: np.ndarray, law: Background) -> Callable[[np.ndarray], np.ndarray]:
    values = np.sort(u.ravel()).astype(np.float64)
    mean, k = law.degrees_of_freedom * law.scale, law.degrees_of_freedom
    start = values[int(0.99 * len(values))]
    shape, _, scale = genpareto.fit(values[values > start] - start, floc=0)
    ratios = np.linspace(1, 400, 200_000)  # of m to the mean, to invert Chernoff's bound on a grid
    exponents = k / 2 * (ratios - 1 - np.log(ratios))

    def move(maps: np.ndarray) -> np.ndarray:
        ranks = np.searchsorted(values, maps) / len(values)
        deep = genpareto.logsf(np.maximum(maps - start, 0), shape, scale=scale) + np.log(0.01)
        log_tail = np.where(maps > start, deep, np.log(np.maximum(1 - ranks, 0.01)))
        return (mean * np.interp(-log_tail, exponents, ratios)).astype(np.float32)

    return move


Prepare = Callable[[Sample], tuple[Maps, Maps]]
Count = Callable[[Sample, Maps, Maps, Sequence[Background]], Outcome]


def fitted(prepare: Prepare, count: Count = by_law) -> Callable[[Sample], Outcome]:
    """The candidate that prepares maps, fits (v, k) to the held-out ones and takes log NFA from `count`."""

    def run(sample: Sample) -> Outcome:
        held_out, test = ([u.astype(np.float32) for u in maps] for maps in prepare(sample))
        return count(sample, held_out, test, fit(held_out, sample.n_channels))

    return run


def chi_square(sample: Sample) -> Outcome:
    """The law of the paper."""
    return by_law(sample, sample.held_out, sample.test, [Background(c) for c in sample.n_channels])


def effective_area(sample: Sample) -> Outcome:
    """(v, k), where n correlated cells count as n / factor: the factor by which means of 3 x 3 cells vary too much."""
    laws = []
    for u, law in zip(sample.held_out, fit(sample.held_out, sample.n_channels), strict=True):
        height, width = (side - side % 3 for side in u.shape[1:])
        blocks = u[:, :height, :width].reshape(len(u), height // 3, 3, width // 3, 3).mean(axis=(2, 4))
        factor = max(1.0, 9 * float(blocks.var() / u.var()))
        k = law.degrees_of_freedom / factor  # log PFA is proportional to n k
        laws.append(Background(k, law.scale * factor))
    return by_law(sample, sample.held_out, sample.test, laws)


CANDIDATES: dict[str, Callable[[Sample], Outcome]] = {
    "chi-square(C), the paper's law": chi_square,
    "(v, k) per scale": fitted(as_is),
    "(v, k), effective area": effective_area,
    "(v, k), U per position": fitted(per_position),
    "(v, k), U per image": fitted(per_image),
    "(v, k), channel variances": fitted(per_channel),
    "(v, k), whitened": fitted(whitened),
    "generalised Pareto tail of U": fitted(pareto_tail),
    "(v, k), counted over all scales": fitted(as_is, counted_together),
    "(v, k), counted per scale": fitted(as_is, counted),
    "per position, counted per scale": fitted(per_position, counted),
    "whitened, counted per scale": fitted(whitened, counted),
}
DEFAULT = "(v, k), counted per scale"
