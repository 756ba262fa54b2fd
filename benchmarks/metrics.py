"""Pixel AUROC and AUPRO: our exact counts beside anomalib's metrics and scikit-learn's AUROC, on the same maps.

    python benchmarks/metrics.py [--images 100] [--side 256] [--repeats 5]     (needs: pip install --group peers)

Maps are smooth noise with brighter defects; each repeat takes new ones. Contenders take turns, ratios are medians. The
values must agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from uflow_cli.metrics import PixelScores

TOLERANCE = 2e-3  # anomalib reads its curve at fewer points


def make_maps(n_images: int, side: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, H, W) float32 in 0..1 and masks (N, H, W) bool with up to three defects each."""
    rng = np.random.default_rng(seed)
    scores = ndimage.gaussian_filter(rng.normal(size=(n_images, side, side)), (0, 4, 4))
    masks = np.zeros(scores.shape, dtype=bool)
    for mask in masks[: n_images // 2]:
        for _ in range(rng.integers(1, 4)):
            y, x, r = *rng.integers(0, side, 2), rng.integers(3, side // 8)
            rows, columns = np.ogrid[:side, :side]
            mask |= (rows - y) ** 2 + (columns - x) ** 2 < r * r
    scores = scores / scores.std() + 1.5 * masks
    return (1 / (1 + np.exp(-scores))).astype(np.float32), masks


def ours(scores: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """AUROC and AUPRO by one pass of exact counting."""
    pixels = PixelScores()
    for score, mask in zip(scores, masks, strict=True):
        pixels.add(score, mask)
    curve = pixels.curve()
    return curve.auroc, curve.aupro()


def anomalib_metrics(scores: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """The same by anomalib, image after image as its evaluator does."""
    from anomalib.metrics.aupro import _AUPRO
    from anomalib.metrics.auroc import _AUROC

    metrics = _AUROC(), _AUPRO(fpr_limit=0.3)
    for score, mask in zip(torch.from_numpy(scores), torch.from_numpy(masks), strict=True):
        metrics[0].update(score.flatten(), mask.flatten().int())
        metrics[1].update(score[None], mask[None].int())
    return float(metrics[0].compute()), float(metrics[1].compute())


def scikit_learn(scores: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """AUROC only."""
    return float(roc_auc_score(masks.ravel(), scores.ravel())), float("nan")


def main() -> None:
    """Time all contenders in turn and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    contenders: dict[str, Callable[[np.ndarray, np.ndarray], tuple[float, float]]] = {
        "uflow, AUROC and AUPRO": ours, "anomalib, AUROC and AUPRO": anomalib_metrics,
        "scikit-learn, AUROC alone": scikit_learn,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(arguments.repeats):
        scores, masks = make_maps(arguments.images, arguments.side, seed=repeat)
        values = {}
        for name, contender in contenders.items():
            start = time.perf_counter()
            values[name] = contender(scores, masks)
            seconds[name].append(time.perf_counter() - start)
        reference = values["uflow, AUROC and AUPRO"]
        for name, value in values.items():
            gap = np.nanmax(np.abs(np.subtract(value, reference)))
            if gap > TOLERANCE:
                raise SystemExit(f"{name} gives {value}, ours {reference}")
    base = seconds["uflow, AUROC and AUPRO"]
    print(f"{arguments.images} maps of {arguments.side} x {arguments.side}, {arguments.repeats} repeats")
    for name, times in seconds.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(times, base, strict=True))
        print(f"{name:28s} {statistics.median(times):8.3f} s   {ratio:6.2f} x")


if __name__ == "__main__":
    main()
