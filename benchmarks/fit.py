"""Ways to fit images to a network: squash, a rectangle of the same area, letterbox, tiles; one row per way and product.

    python benchmarks/fit.py FOLDER DATASET CATEGORY --fit squash --input-size 288,704 --epochs 25

`--fresh FOLDER` also counts false detections in good images of that folder, which the run has never seen.
Measured in pixels of the originals, not at 256 x 256: a strip squashed for the measure would flatter a strip squashed
for the network. Time per image is processor time of prediction and mask, without reading.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uflow_cli.cache import GIB, CacheFolder
from uflow_cli.config import ModelConfig, TrainingConfig, all_settings
from uflow_cli.datasets import load_dataset, read_label_mask
from uflow_cli.detection.prediction import predict
from uflow_cli.files import default_folder
from uflow_cli.images import list_images, read_image, resize_map
from uflow_cli.metrics import PixelScores, auroc, iou
from uflow_cli.run.record import Run, load_model
from uflow_cli.training import Silent, train

CPU = torch.device("cpu")


def measure(
    data: Any, model_config: ModelConfig, *, epochs: int, seed: int, fresh: Sequence[Path] = ()
) -> dict[str, float]:
    """Train on the good images of `data`, and measure on its test images, and on `fresh` good ones the promise."""
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(epochs=epochs, seed=seed, patience=0)
        run = train(
            [item.path for item in data.train], out=Path(folder) / "run", dataset=data.name, category=data.category,
            model_config=model_config, config=config, device=CPU, observer=Silent(),
            cache=CacheFolder(default_folder(), limit=50 * GIB),
        )  # fmt: skip
        model = load_model(run, device=CPU)
    training = time.process_time() - begin
    detector, pixels = run.calibration.detector(model), PixelScores()
    scores, log_nfas, defective, overlaps, seconds = [], [], [], [], 0.0
    for item in data.test:
        image = read_image(item.path)
        start = time.process_time()
        [prediction] = predict(model, detector, [image])
        mask = prediction.mask
        seconds += time.process_time() - start
        truth = read_label_mask(item, mask.shape, image_size=mask.shape)
        pixels.add(resize_map(prediction.score_map, mask.shape), truth)
        scores.append(prediction.anomaly_score)
        log_nfas.append(prediction.log_nfa)
        defective.append(not item.is_good)
        overlaps.append(iou(mask, truth))
    false = [len(predict(model, detector, [read_image(path)])[0].detections) for path in fresh]
    bad, flagged = np.array(defective), np.array(log_nfas) < 0
    return {
        "image AUROC": auroc(np.array(scores), bad),
        "image AUROC (log NFA)": auroc(-np.array(log_nfas), bad),
        "AUPRO": pixels.curve().aupro(),
        "mIoU defective": float(np.mean(np.array(overlaps)[bad])),
        "detected": float(flagged[bad].mean()),
        "good flagged": float(flagged[~bad].mean()),
        "seconds per image": seconds / len(bad),
        "seconds of training": training,
        **(
            {"fresh flagged": float(np.mean(np.array(false) > 0)), "false in a lot": mean_lot(false, run)}
            if fresh
            else {}
        ),
    }


def mean_lot(false: Sequence[int], run: Run) -> float:
    """False detections in as many good images as log NFA counts in; the promise is at most 1."""
    return float(np.mean(false)) * run.model.lot


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("category")
    parser.add_argument("--fit", default="squash")
    parser.add_argument("--input-size", default="448")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lot", type=int, default=100)
    parser.add_argument("--fresh", type=Path)
    options = parser.parse_args()
    data = load_dataset(options.dataset, root=options.root, category=options.category)
    size = all_settings()["input_size"].parse(options.input_size)
    model_config = ModelConfig(input_size=size, lot=options.lot, fit=options.fit)
    fresh = list_images(options.fresh) if options.fresh else []
    found = measure(data, model_config, epochs=options.epochs, seed=options.seed, fresh=fresh)
    name = f"{data.category} {options.fit} {options.input_size} lot {options.lot} seed {options.seed}"
    print(name, *(f"{key} {value:.3f}" for key, value in found.items()), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
