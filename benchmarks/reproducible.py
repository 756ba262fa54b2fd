"""How far log NFA moves with the number of threads, the images in a batch and what computes: verdicts must not.

    python benchmarks/reproducible.py MODEL IMAGES... [--threads 1,2,4] [--batches 1,3,8]

MODEL is a run folder with a graph. Prints the largest change of an image's log NFA against one thread and one image at
a time by the graph, and how many verdicts change.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from uflow_cli.detection.prediction import predict
from uflow_cli.images import read_image
from uflow_cli.inputs import find_images
from uflow_cli.run.graph import load_engine
from uflow_cli.run.record import load_model, load_run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--threads", default="1,2,4")
    parser.add_argument("--batches", default="1,3,8")
    options = parser.parse_args()
    run = load_run(options.model)
    images = [read_image(path) for path in find_images(options.images).images]
    engine, model = load_engine(run), load_model(run, device=torch.device("cpu"))

    def log_nfas(source: object, batch: int) -> NDArray[np.float64]:
        detector = run.calibration.detector(source)  # type: ignore[arg-type]
        parts = [images[i : i + batch] for i in range(0, len(images), batch)]
        return np.array([p.log_nfa for part in parts for p in predict(source, detector, part)])  # type: ignore[arg-type]

    first = log_nfas(replace(engine, n_threads=1), 1)
    for threads in map(int, options.threads.split(",")):
        torch.set_num_threads(threads)
        for batch in map(int, options.batches.split(",")):
            for name, source in (("graph", replace(engine, n_threads=threads)), ("PyTorch", model)):
                found = log_nfas(source, batch)
                flips = int(((found < 0) != (first < 0)).sum())
                far = float(np.abs(found - first).max())
                print(f"{name}, {threads} threads, batches of {batch}: {far:.2g}, {flips} of {len(images)} verdicts")


if __name__ == "__main__":
    main()
