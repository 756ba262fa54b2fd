"""What fusing evidence gains: detectors beside each other on the same evidence, each calibrated anew on random splits.

    uflow train --dataset mtd --category magnetic_tile --data-root mtd --out RUN
    python benchmarks/fusion.py RUN --data-root mtd

Half of the good test images, drawn at random, calibrate each detector; the others and the defective ones are judged, in
lots of 100. What is printed is the mean over the splits. False detections are counted at log NFA < 1, 0 and -1, where
10, 1 and 0.1 are promised. Masks are measured at 256 x 256 at log NFA < 0 and beside them the best threshold in
hindsight on log NFA, and on the map that is shown.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from uflow_cli.calibration import FUSED_TAILS, calibrate, fit_curves
from uflow_cli.datasets import load_dataset, read_label_mask
from uflow_cli.detection.detector import AREA_EXPONENT, WHOLE_SHARE, Detector, Findings
from uflow_cli.detection.stream import squared_norm_maps
from uflow_cli.errors import ImageError
from uflow_cli.images import resize_map
from uflow_cli.metrics import auroc, iou
from uflow_cli.run.record import load_model, load_run

SIZE = (256, 256)
LOT = 2.0  # log10

Maps = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Kind:
    """A detector: the sources of evidence that it sees, by number, whether they are fused, and what then ranks."""

    name: str
    sources: tuple[int, ...]
    n_flow: int
    is_fused: bool
    area_exponent: float = AREA_EXPONENT
    whole_share: float = WHOLE_SHARE


def main() -> None:
    """Print the table of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--masks", type=int, default=3, help="splits for which masks are drawn, which takes a while")
    options = parser.parse_args()
    run = load_run(options.run)
    data = load_dataset(run.origin.dataset, root=options.data_root, category=run.origin.category)
    model = load_model(run, device=torch.device("cpu"))
    paths = [item.path for item in data.test]
    read = [found.maps for _, found in squared_norm_maps(model, paths) if not isinstance(found, ImageError)]
    evidence: Maps = [np.stack(source) for source in zip(*read, strict=True)]
    good = np.array([item.is_good for item in data.test])
    truth = [read_label_mask(item, SIZE) for item in data.test]
    n_flow, n = len(model.flow.grids), len(evidence)
    every = tuple(range(n))
    kinds = [
        Kind("a tree per scale, minimum", every[:n_flow], n_flow, False),
        Kind("flow, fused", every[:n_flow], n_flow, True),
    ]
    if n > n_flow:
        kinds += [
            Kind("witnesses, fused", every[n_flow:], n - n_flow, True),
            Kind("flow and witnesses, fused", every, n_flow, True),
        ]
    kinds += [
        Kind(f"area^{power:g} x log P, {share:.2f} for whole images", every, n_flow, True, power, share)
        for power, share in ((0.0, WHOLE_SHARE), (0.5, WHOLE_SHARE), (1.0, WHOLE_SHARE), (0.25, 0.5), (0.25, 0.1))
    ]
    print(f"{run.origin.dataset}/{run.origin.category}: {good.sum()} good and {(~good).sum()} defective test images")
    print(
        "| detector | image AUROC by NFA | false detections in 100 good images of 10, 1, 0.1 | flagged | "
        "detected | detections per detected image | mIoU at 0, all / defective | best in hindsight | of the map |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in kinds:
        print(row(kind, evidence, model.source_channels, model.flow.reach, good, truth, options.splits, options.masks))


def row(
    kind: Kind, evidence: Maps, n_channels: Sequence[int], reach: Sequence[int], good: NDArray[np.bool_],
    truth: Sequence[NDArray[np.bool_]], n_splits: int, n_masks: int,
) -> str:  # fmt: skip
    """One line of the table."""
    maps, channels = [evidence[i] for i in kind.sources], tuple(n_channels[i] for i in kind.sources)
    figures, overlaps = [], []
    for split in range(n_splits):
        order = np.random.default_rng(split).permutation(np.flatnonzero(good))
        fresh = np.sort(np.concatenate([order[len(order) // 2 :], np.flatnonzero(~good)]))
        half = [u[order[: len(order) // 2]] for u in maps]
        flow_reach = tuple(reach)[: kind.n_flow]
        calibration = calibrate(
            half, n_channels=channels, tests="by-size", reach=flow_reach, is_fused=kind.is_fused, log_lot=LOT
        )
        fusion = calibration.fusion and replace(
            calibration.fusion, area_exponent=kind.area_exponent, whole_share=kind.whole_share
        )
        detector = Detector(calibration.background, "by-size", flow_reach, fusion=fusion, log_lot=LOT)
        ranked = detector.ranked(detector.find(half).regions)
        n_curves, priors = len(detector.allowances), FUSED_TAILS if kind.is_fused else ()
        detector = replace(detector, curves=fit_curves(ranked, n_images=len(half[0]), n_scales=n_curves, priors=priors))
        findings = detector.find([u[fresh] for u in maps])
        is_good, lowest = good[fresh], findings.lowest_log_nfa
        regions, found = findings.regions, lowest < 0
        alarms = [100 * np.count_nonzero(is_good[regions.image] & (regions.log_nfa < t)) for t in (1, 0, -1)]
        figures.append([
            auroc(-lowest, ~is_good), *np.array(alarms) / is_good.sum(), found[is_good].mean(), found[~is_good].mean()
        ])  # fmt: skip
        if split < n_masks:
            overlaps.append(mask_figures(findings, fresh, truth))
    auc, *alarms, flagged, detected = np.mean(figures, axis=0)
    at_zero, at_zero_defective, parts, best, best_of_map = np.mean(overlaps, axis=0) if overlaps else [math.nan] * 5
    return (
        f"| {kind.name} | {auc:.3f} | {' / '.join(f'{n:.2f}' for n in alarms)} | {flagged:.3f} | {detected:.3f} | "
        f"{parts:.2f} | {at_zero:.3f} / {at_zero_defective:.3f} | {best:.3f} | {best_of_map:.3f} |"
    )


def mask_figures(findings: Findings, images: NDArray[np.intp], truth: Sequence[NDArray[np.bool_]]) -> list[float]:
    """mIoU at log NFA < 0 over all and over defective images, detections per detected image, best mIoU over all.

    The last one is the best mIoU over all at one threshold on the map that is shown; nan where there is none.
    """
    thresholds = np.arange(-12.0, 4.5, 0.5)
    values, parts = [], []
    for index, image in enumerate(images):
        log_nfa = findings.log_nfa_map(index, size=SIZE)
        values.append([iou(log_nfa < threshold, truth[image]) for threshold in (0.0, *thresholds)])
        if truth[image].any() and (n := len(findings.detections(index, threshold=0.0, size=SIZE))):
            parts.append(n)
    table = np.array(values)
    defective = np.array([truth[image].any() for image in images])
    return [
        float(table[:, 0].mean()), float(table[defective, 0].mean()), float(np.mean(parts)) if parts else math.nan,
        float(table[:, 1:].mean(axis=0).max()), best_on_map(findings, images, truth),
    ]  # fmt: skip


def best_on_map(findings: Findings, images: NDArray[np.intp], truth: Sequence[NDArray[np.bool_]]) -> float:
    """The best mIoU over all images at one threshold on the map of a fused detector."""
    if findings.fusion is None:
        return math.nan
    maps = [findings.localised(image) for image in range(len(images))]
    thresholds = np.quantile(maps, 1 - np.geomspace(0.3, 1e-5, 40))
    overlaps = [
        [iou(drawn > threshold, truth[image]) for threshold in thresholds]
        for image, drawn in zip(images, (resize_map(one, SIZE) for one in maps), strict=True)
    ]
    return float(np.mean(overlaps, axis=0).max())


if __name__ == "__main__":
    main()
