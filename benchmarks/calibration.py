"""Compare background models on real images, over seeds: the false alarms that they give, and what they detect.

    python benchmarks/calibration.py --data-root DIR --dataset mtd --category magnetic_tile --seeds 5 --runs DIR
    python benchmarks/calibration.py --quick                        (the built-in sample, one small model)

Trains one model per seed, which also draws the split, and keeps runs and embeddings in --runs, from where a second call
takes them. Prints tables in Markdown: false regions per good test image beside the promise, flagged good images,
detected defects and mIoU for each candidate (backgrounds.py); the promise over random splits of all good images that no
flow was trained on; and ways to draw masks. Nothing here chooses on test images: it shows what a choice would mean.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from backgrounds import CANDIDATES, DEFAULT, Outcome, Sample, fit, seek, with_log_nfa

import uflow_cli.detection.masks as outline
from uflow_cli.calibration import cross_fitted_lowest, fit_curves
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.datasets import Dataset, load_dataset, read_label_mask
from uflow_cli.detection.detector import counted_log_nfa, lowest_log_nfa
from uflow_cli.detection.prediction import SCORE_SIZE
from uflow_cli.flow.likelihood import squared_norms
from uflow_cli.images import read_image, resize_map, resize_mask
from uflow_cli.metrics import iou
from uflow_cli.run.record import is_run, load_model, load_run
from uflow_cli.sample import write_sample
from uflow_cli.training import Silent, split_images, train

LEVELS = np.array([1.0, 0.0, -1.0, -2.0])  # log10 NFA
RATES = (0.01, 0.05, 0.1, 0.2)
N_SPLITS = 200
TABLES = ("candidates", "splits", "masks")


def main() -> None:
    """All tables, to standard output."""
    options = parse()
    with tempfile.TemporaryDirectory() as workshop:
        if options.quick:
            folder = Path(workshop)
            write_sample(folder, n_train=60, n_test_good=40, n_test_per_defect=6)
            data, config = load_dataset("mvtec", root=folder, category="fabric"), ModelConfig(input_size=224)
            samples = [make_sample(data, seed=0, runs=folder, config=config, epochs=10)]
        else:
            data = load_dataset(options.dataset, root=options.data_root, category=options.category)
            seeds = range(options.seeds)
            samples = [
                make_sample(data, seed=s, runs=options.runs, config=ModelConfig(), epochs=options.epochs) for s in seeds
            ]
    if "candidates" in options.tables:
        print_candidates(samples, title=f"{data.name}/{data.category}")
    if "splits" in options.tables:
        print_splits(samples, n_splits=20 if options.quick else N_SPLITS)
    if "masks" in options.tables:
        print_masks(samples)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--dataset", default="mtd")
    parser.add_argument("--category", default="magnetic_tile")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--runs", type=Path, help="folder for runs and embeddings, reused where they are there")
    parser.add_argument("--quick", action="store_true", help="the built-in sample, one small model")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    options = parser.parse_args()
    if not options.quick and not (options.data_root and options.runs):
        parser.error("give --data-root and --runs, or --quick")
    return options


def make_sample(data: Dataset, *, seed: int, runs: Path, config: ModelConfig, epochs: int) -> Sample:
    """Train, or take, the model of `seed` and what it makes of held-out and test images."""
    file, folder = runs / f"seed-{seed}.npz", runs / f"seed-{seed}"
    if not file.is_file():
        training = TrainingConfig(seed=seed, epochs=epochs)
        if not is_run(folder):
            train(
                [image.path for image in data.train], out=folder, dataset=data.name, category=data.category,
                model_config=config, config=training, device=torch.device("cpu"), observer=Silent(),
            )  # fmt: skip
        embed(data, folder, training, file)
    with np.load(file) as kept:
        groups = {name: [kept[f"{name}_{s}"] for s in range(int(kept["n_scales"]))] for name in ARRAYS}
        return Sample(
            seed, groups["held_u"], groups["test_u"], groups["held_z"], groups["test_z"],
            tuple(int(r) for r in kept["reach"]), kept["kinds"], np.unpackbits(kept["masks"], axis=-1).astype(bool),
        )  # fmt: skip


ARRAYS = ("held_u", "test_u", "held_z", "test_z")


def embed(data: Dataset, folder: Path, training: TrainingConfig, file: Path) -> None:
    """Write U and embeddings of held-out and test images of the run in `folder`, and masks, to `file`."""
    model = load_model(load_run(folder), device=torch.device("cpu"))
    split = split_images(len(data.train), held_out_fraction=training.held_out_fraction, seed=training.seed)
    held_out = [data.train[i].path for i in dict.fromkeys((*split.selection, *split.calibration))]
    arrays: dict[str, np.ndarray] = {}
    for name, paths in (("held", held_out), ("test", [image.path for image in data.test])):
        norms, embeddings = [], []
        for start in range(0, len(paths), 8):
            z = model.embeddings([read_image(path) for path in paths[start : start + 8]])
            norms.append([u.numpy() for u in squared_norms(z)])
            embeddings.append([x.clamp(-6e4, 6e4).half().numpy() for x in z])
        for letter, parts in (("u", norms), ("z", embeddings)):
            for scale, maps in enumerate(zip(*parts, strict=True)):
                arrays[f"{name}_{letter}_{scale}"] = np.concatenate(maps)
    masks = []
    for item in data.test:
        size = read_image(item.path).shape[:2]
        masks.append(resize_mask(read_label_mask(item, size, image_size=size), SCORE_SIZE))
    np.savez(
        file, **arrays, n_scales=len(model.flow.reach), reach=np.array(model.flow.reach),
        kinds=np.array([item.defect for item in data.test]), masks=np.packbits(np.array(masks), axis=-1),
    )  # fmt: skip


def print_candidates(samples: Sequence[Sample], *, title: str) -> None:
    """Each candidate, its laws and curves from all held-out images, on the test images; means over seeds."""
    kinds = [kind for kind in np.unique(samples[0].kinds) if kind != "good"]
    n_good = int((samples[0].kinds == "good").sum())
    print(f"\n## {title}: {len(samples)} seeds, {len(samples[0].held_out[0])} held-out and {n_good} test good images\n")
    heads = [f"{10**t:g}" for t in LEVELS]
    print("| background model | " + " | ".join(f"false regions at {h}" for h in heads), end=" | ")
    print(" | ".join(f"flagged at {h}" for h in heads), "| detected at 1 |", " | ".join(kinds), "| mIoU at 1 |")
    print("|---" * (4 + 2 * len(heads) + len(kinds) - 1) + "|")
    for name, candidate in CANDIDATES.items():
        measured = [measure(sample, candidate(sample), kinds) for sample in samples]
        regions, flagged, detected, overlap = (np.array(column) for column in zip(*measured, strict=True))
        cells = [interval(regions[:, :, i]) for i in range(len(LEVELS))]
        cells += [f"{value:.3f}" for value in flagged.mean(axis=0)]
        cells += [f"{value:.3f}" for value in detected.mean(axis=0)]
        bold = "**" if name == DEFAULT else ""
        print(f"| {bold}{name}{bold} |", " | ".join(cells), f"| {overlap.mean():.4f} |", flush=True)


def measure(
    sample: Sample, outcome: Outcome, kinds: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[float], float]:
    """False regions per good image and level, (N, 4); good images flagged; detected; mIoU over defective images."""
    regions, n, good = outcome.result.regions, len(sample.kinds), sample.kinds == "good"
    counts = np.stack([np.bincount(regions.image[regions.log_nfa < t], minlength=n) for t in LEVELS], axis=1)
    found = counts[:, 1] > 0
    detected = [found[~good].mean(), *(found[sample.kinds == kind].mean() for kind in kinds)]
    overlaps = []
    for i in np.flatnonzero(~good):
        scales = outline.scale_regions(outcome.result, outcome.maps, index=i, ceiling=math.inf)
        overlaps.append(iou(outline.mask_below(scales, threshold=0.0, size=SCORE_SIZE), sample.masks[i]))
    return counts[good], (counts[good] > 0).mean(axis=0), detected, float(np.mean(overlaps))


def interval(counts: np.ndarray) -> str:
    """Mean of (seeds, images), and a 95 % bootstrap interval over images, which all seeds share."""
    per_image = counts.mean(axis=0)
    draws = np.random.default_rng(0).integers(0, len(per_image), (2000, len(per_image)))
    low, high = np.quantile(per_image[draws].mean(axis=1), [0.025, 0.975])
    return f"{per_image.mean():.3f} ({low:.3f}-{high:.3f})"


def print_splits(samples: Sequence[Sample], *, n_splits: int) -> None:
    """The default on random splits of all good images that no flow was trained on, held-out and test."""
    n_all = [len(s.held_out[0]) + int((s.kinds == "good").sum()) for s in samples]
    sizes = [n for n in (5, 8, 20, len(samples[0].held_out[0])) if n <= len(samples[0].held_out[0])]
    print(f"\n### {n_splits} random splits of {n_all[0]} unseen good images into calibration and test\n")
    print("| calibration images |", " | ".join(f"false regions at {10**t:g}" for t in LEVELS), end=" | ")
    print(" | ".join(f"flagged at rate {rate:g}" for rate in RATES), "|")
    print("|---" * (1 + len(LEVELS) + len(RATES)) + "|")
    for n in dict.fromkeys(sizes):
        share = math.ceil(n_splits / len(samples))
        values = np.concatenate([split_promises(sample, n_images=n, n_splits=share) for sample in samples])
        cells = []
        for column in values.T:
            known = column[np.isfinite(column)]
            cells.append(f"{known.mean():.4f} ± {1.96 * known.std() / len(known) ** 0.5:.4f}" if len(known) else "-")
        print(f"| {n} |", " | ".join(cells), "|", flush=True)


def split_promises(sample: Sample, *, n_images: int, n_splits: int) -> np.ndarray:
    """Per split: false regions per new image at each level, share flagged at each rate (NaN: cannot be promised)."""
    good = sample.kinds == "good"
    maps = [np.concatenate([u, t[good]]) for u, t in zip(sample.held_out, sample.test, strict=True)]
    n_all, n_scales = len(maps[0]), len(maps)
    shares = [1 / n_scales] * n_scales
    rng = np.random.default_rng(sample.seed)
    rows = []
    for _ in range(n_splits):
        order = rng.permutation(n_all)
        seen, new = ([u[part] for u in maps] for part in (order[:n_images], order[n_images:]))
        laws = fit(seen, sample.n_channels)
        regions = seek(seen, laws, sample.reach).regions
        curves = fit_curves(regions, n_images=n_images, n_scales=n_scales)
        scored = cross_fitted_lowest(
            regions, n_images=n_images, allowances=shares, scored=np.arange(n_images), ceiling=math.inf
        )
        result = seek(new, laws, sample.reach)
        regions = with_log_nfa(result, counted_log_nfa(result.regions, curves, allowances=shares)).regions
        lowest = lowest_log_nfa(regions, n_images=n_all - n_images, ceiling=math.inf)
        row = [(regions.log_nfa < t).sum() / (n_all - n_images) for t in LEVELS]
        for rate in RATES:
            rank = math.floor(rate * (n_images + 1) + 1e-9)
            row.append((lowest < np.sort(scored)[rank - 1]).mean() if rank else math.nan)
        rows.append(row)
    return np.array(rows)


def print_masks(samples: Sequence[Sample]) -> None:
    """Ways to draw the same detections at NFA = 1: mIoU over defective images."""
    ways = ["published", "cells, cut at one half", *(f"{level:g} of the region's level" for level in OUTLINES)]
    print("\n### Masks of the default's detections at NFA = 1\n")
    print("| mask |", " | ".join(f"seed {s.seed}" for s in samples), "| mean |")
    print("|---" * (2 + len(samples)) + "|")
    columns = [mask_overlaps(sample) for sample in samples]
    for way, values in zip(ways, np.array(columns).T, strict=True):
        print(f"| {way} |", " | ".join(f"{v:.4f}" for v in values), f"| {values.mean():.4f} |", flush=True)


OUTLINES = (1.0, 0.9, 0.8, 0.7)


def mask_overlaps(sample: Sample) -> list[float]:
    """mIoU over defective images by each way to draw a mask."""
    outcome = CANDIDATES[DEFAULT](sample)
    ceiling = math.log10(sum(u[0].size for u in sample.test))
    overlaps = []
    for i in np.flatnonzero(sample.kinds != "good"):
        scales = outline.scale_regions(outcome.result, outcome.maps, index=i, ceiling=ceiling)
        cells = [resize_map((s.log_nfa < 0).astype(np.float32), SCORE_SIZE) >= 0.5 for s in scales]
        masks = [outline.published_log_nfa_map(scales, size=SCORE_SIZE) < 0, np.logical_or.reduce(cells)]
        masks += [outline.mask_below(scales, threshold=0.0, size=SCORE_SIZE, outline_level=c) for c in OUTLINES]
        overlaps.append([iou(mask, sample.masks[i]) for mask in masks])
    return [float(value) for value in np.mean(overlaps, axis=0)]


if __name__ == "__main__":
    main()
