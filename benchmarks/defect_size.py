"""How much of the defects of a test set is outlined at log NFA < 0, by the share of the image that they cover.

    python benchmarks/defect_size.py RUN [RUN ...] --data-root DIR

Several runs of one product are taken together. An image counts as detected when it is flagged, and as hit when a
detection touches a true defect.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uflow_cli.datasets import load_dataset, read_label_mask
from uflow_cli.detection.prediction import Prediction
from uflow_cli.metrics import iou
from uflow_cli.run.detector import open_detector
from uflow_cli.run.record import load_run

BOUNDS = (0.0, 0.001, 0.005, 0.02, 0.1, 1.0)  # shares of an image


@dataclass(frozen=True)
class Measured:
    """One defective image."""

    share: float
    is_flagged: bool
    is_hit: bool
    iou: float


def measured(folder: Path, root: Path) -> Iterator[Measured]:
    """What the run in `folder` makes of the defective test images of its product."""
    run = load_run(folder)
    detector = open_detector(run, device="cpu", nfa_threshold=0.0)
    test = load_dataset(run.origin.dataset, root=root, category=run.origin.category).test
    defective = {item.path: item for item in test if not item.is_good}
    for path, prediction in detector.predictions(defective, batch_size=8):
        assert isinstance(prediction, Prediction), prediction
        truth, found = read_label_mask(defective[path], prediction.size), prediction.mask > 0
        yield Measured(float(truth.mean()), prediction.is_defect, bool((found & truth).any()), iou(found, truth))


def main() -> None:
    """Print a row for each range of sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data-root", type=Path, required=True)
    options = parser.parse_args()
    images = [image for run in options.runs for image in measured(run, options.data_root)]
    print("| the defects cover | images | flagged | hit | mean IoU | of those hit |\n|" + 6 * "---|")
    for low, high in itertools.pairwise(BOUNDS):
        of_size = [image for image in images if low < image.share <= high]
        if not of_size:
            continue
        flagged, hit = (sum(getattr(image, name) for image in of_size) for name in ("is_flagged", "is_hit"))
        mean = np.mean([image.iou for image in of_size])
        of_hit = np.mean([image.iou for image in of_size if image.is_hit]) if hit else np.nan
        name = f"{100 * low:g} to {100 * high:g} %"
        print(f"| {name} | {len(of_size)} | {flagged} | {hit} | {mean:.3f} | {of_hit:.3f} |", flush=True)


if __name__ == "__main__":
    main()
