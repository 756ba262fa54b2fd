"""The paper's measures for any method that gives a score map and a score per image; high is anomalous.

docs/method.md, section 7 defines them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uflow_cli.metrics import (
    IouSweep,
    MeanIou,
    PixelScores,
    auroc,
    bootstrap_intervals,
    mean_iou,
    oracle_thresholds,
)

N_ORACLE_THRESHOLDS = 2000

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """The scores of a method for some images: maps (256, 256) and one score each, high where anomalous.

    `maps` is empty for a method that has none; so are `log_nfa_maps` (low where anomalous) and `log_nfas`.
    """

    maps: tuple[Map, ...]
    scores: tuple[float, ...]
    log_nfa_maps: tuple[Map, ...] = ()
    log_nfas: tuple[float, ...] = ()


def measure(
    test: Scored, masks: Sequence[Mask], is_defective: Sequence[bool], *, training: Scored, held_out: Scored, seed: int
) -> dict[str, float]:
    """All measures by name: shares in 0..1, and the thresholds behind them."""
    labels = np.asarray(is_defective, dtype=np.bool_)
    scores = np.asarray(test.scores)
    intervals = bootstrap_intervals(lambda rows: {"image_auroc": auroc(scores[rows], labels[rows])}, labels, seed=seed)
    low, high = intervals["image_auroc"]
    measures = {"image_auroc": auroc(scores, labels), "image_auroc_low": low, "image_auroc_high": high}
    if test.maps:
        measures |= _pixel_measures(test, masks, training=training, held_out=held_out)
    if test.log_nfa_maps:
        measures |= _nfa_measures(test, masks, labels)
    return measures


def fair_threshold(maps: Sequence[Map]) -> float:
    """The score above which these good images have one pixel each on average (docs/method.md, section 7)."""
    pixels = PixelScores()
    for score_map in maps:
        pixels.add(score_map, np.zeros(score_map.shape, dtype=np.bool_))
    return pixels.threshold(len(maps))


def miou_above(maps: Sequence[Map], masks: Sequence[Mask], *, threshold: float) -> MeanIou:
    """Mean IoU of {map > threshold}."""
    return mean_iou((score_map > threshold, mask) for score_map, mask in zip(maps, masks, strict=True))


def oracle_of_scores(maps: Sequence[Map], masks: Sequence[Mask]) -> tuple[float, MeanIou]:
    """The threshold of the highest mean IoU over all images, and the means there.

    Tried are 2000 values of the maps, evenly spread on the logarithm of the share of pixels above them.
    """
    values = np.sort(np.concatenate([score_map.ravel() for score_map in maps]))
    above = np.geomspace(1, len(values), N_ORACLE_THRESHOLDS).astype(np.int64)
    thresholds = np.unique(values[len(values) - above].astype(np.float64))
    sweep = IouSweep(-thresholds[::-1])
    for score_map, mask in zip(maps, masks, strict=True):
        sweep.add(-score_map.astype(np.float64), mask)
    found = sweep.oracle()
    return -found.threshold, found.miou


def _pixel_measures(test: Scored, masks: Sequence[Mask], *, training: Scored, held_out: Scored) -> dict[str, float]:
    pixels = PixelScores()
    for score_map, mask in zip(test.maps, masks, strict=True):
        pixels.add(score_map, mask)
    curve = pixels.curve()
    oracle_threshold, oracle = oracle_of_scores(test.maps, masks)
    measures = {
        "pixel_auroc": curve.auroc,
        "aupro": curve.aupro(),
        "oracle_threshold": oracle_threshold,
        **_named("oracle", oracle),
    }
    for name, normal in (("fair", training), ("fair_held_out", held_out)):
        threshold = fair_threshold(normal.maps)
        measures[f"{name}_threshold"] = threshold
        measures |= _named(name, miou_above(test.maps, masks, threshold=threshold))
    return measures


def _nfa_measures(test: Scored, masks: Sequence[Mask], labels: NDArray[np.bool_]) -> dict[str, float]:
    sweep = IouSweep(oracle_thresholds())
    for log_nfa_map, mask in zip(test.log_nfa_maps, masks, strict=True):
        sweep.add(log_nfa_map, mask)
    oracle = sweep.oracle()
    automatic = mean_iou((log_nfa_map < 0, mask) for log_nfa_map, mask in zip(test.log_nfa_maps, masks, strict=True))
    return {
        "image_auroc_nfa": auroc(-np.asarray(test.log_nfas), labels),
        "nfa_oracle_threshold": oracle.threshold,
        **_named("nfa_oracle", oracle.miou),
        **_named("nfa_automatic", automatic),
    }


def _named(name: str, miou: MeanIou) -> dict[str, float]:
    return {f"{name}_miou": miou.all_images, f"{name}_miou_defective": miou.defective_images}
