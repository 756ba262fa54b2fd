"""What features for training cost by each engine, and what they change: PyTorch beside the extractor's compiled graph.

    python benchmarks/feature_engines.py [--images 32] [--size 448] [--rounds 5]

Images of the sample become kept features, files to files, in a new cache each time; the engines take turns. Printed are
processor and wall time per image, median and quartiles, and ratios to PyTorch's of the same round. To make the graph is
counted apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from uflow_cli.cache import GIB, CacheFolder, FeatureCache, load_features
from uflow_cli.compiled import CompiledExtractor, with_compiled_extractor
from uflow_cli.config import ModelConfig
from uflow_cli.images import survey_images, write_png
from uflow_cli.model import Model, build_model
from uflow_cli.sample import sample_image

CPU = torch.device("cpu")


def filling(model: Model, paths: list[Path]) -> tuple[float, float]:
    """Processor and wall time, in seconds, of filling a new cache."""
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(CacheFolder(Path(folder), limit=GIB), model)
        sources = survey_images(paths, known=cache, on_progress=lambda *_: None)
        cpu, wall = time.process_time(), time.perf_counter()
        load_features(model, lambda _epoch: sources, cache=cache, on_progress=lambda *_: None)
        return time.process_time() - cpu, time.perf_counter() - wall


def compare(paths: list[Path], *, size: int, rounds: int) -> None:
    """A table of both engines."""
    by_torch = build_model(ModelConfig(input_size=size), device=CPU)
    compiled = with_compiled_extractor(by_torch)
    assert isinstance(compiled.extractor, CompiledExtractor)
    start = time.process_time()
    compiled.extractor.make()
    print(f"to make and check the graph: {time.process_time() - start:.2f} s of processor time\n")
    contenders = {"PyTorch": by_torch, "graph": compiled}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, model in contenders.items():
            found = filling(model, paths)
            if turn:
                times[name].append(found)
    print("| engine | processor ms per image | wall ms | ratio of processor times |\n|---|---|---|---|")
    for name, own in times.items():
        cpu, wall = ([1e3 * value[i] / len(paths) for value in own] for i in (0, 1))
        ratios = [a[0] / b[0] for a, b in zip(own, times["PyTorch"], strict=True)]
        print(f"| {name} | {quartiles(cpu)} | {quartiles(wall)} | {quartiles(ratios)} |")


def quartiles(values: list[float]) -> str:
    """The median and the quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "images" / f"{i:05d}.png" for i in range(options.images)]
        for i, path in enumerate(paths):
            write_png(path, sample_image(split="train", index=i)[0])
        compare(paths, size=options.size, rounds=options.rounds)


if __name__ == "__main__":
    main()
