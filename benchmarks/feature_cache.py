"""Time that keeping features saves: an epoch that computes them anew, as published, beside one that reads them.

    python benchmarks/feature_cache.py [--extractor NAME ...] [--device cuda] [--images 64] [--random] [--json FILE]

Both epochs are the same code on the same images and the same flow: read a batch of features, one training step. They
differ in the store alone; computing includes reading, decoding and resizing the images, in threads. Epochs take turns,
so that both see the same machine; times are wall-clock medians with quartiles over rounds, after one that is not
counted, and a ratio is the median over rounds. Both stores are checked to give the same features. `--random` leaves the
extractor's weights random, which costs the same time: the paper's extractor is `--extractor ms-cait --random`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from uflow_cli.bench import Comparison, Timing, machine_facts, time_comparison
from uflow_cli.cache import GIB, CacheFolder, FeatureCache, FeatureStore, ResidentFeatures, load_features
from uflow_cli.config import ModelConfig
from uflow_cli.features import FeatureNormalisation, build_extractor
from uflow_cli.flow import UFlow, negative_log_likelihood
from uflow_cli.images import survey_images, write_png
from uflow_cli.model import Model, build_model, choose_device
from uflow_cli.sample import sample_image
from uflow_cli.training.steps import batched

BATCH = 8


def make_model(name: str, *, input_size: int, device: torch.device, pretrained: bool) -> Model:
    """An extractor, its weights random unless `pretrained`, and an untrained flow."""
    config = ModelConfig(extractor=name, input_size=input_size)
    if pretrained:
        return build_model(config, device=device)
    extractor = build_extractor(config, device=device, pretrained=False)
    spec = extractor.spec
    flow = UFlow(spec.channels, spec.grids((input_size, input_size))).to(device)
    normalisation = FeatureNormalisation(spec.normalisation, spec.channels).to(device)
    return Model(config, extractor, normalisation, flow, device)


def epoch_over(store: FeatureStore, model: Model, *, device: torch.device) -> Callable[[int], object]:
    """One epoch of training on the features of `store`."""
    optimiser = torch.optim.Adam(model.flow.parameters(), lr=1e-4)

    def epoch(turn: int) -> None:
        store.start_epoch(turn)
        for batch in batched(range(len(store)), BATCH):
            loss = negative_log_likelihood(*model.embed(store.read(batch, device=device))).mean()
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return epoch


def measure(name: str, paths: list[Path], folder: Path, options: argparse.Namespace) -> tuple[list[Timing], float, int]:
    """Timings, seconds to fill the cache, and bytes of one image's features."""
    device = choose_device(options.device)
    model = make_model(name, input_size=options.input_size, device=device, pretrained=not options.random)
    cache = FeatureCache(CacheFolder(folder, limit=100 * GIB), model)
    sources = survey_images(paths, known=cache, on_progress=lambda *_: None)
    start = time.perf_counter()
    kept = load_features(model, lambda _epoch: sources, cache=cache, on_progress=lambda *_: None)
    filling = time.perf_counter() - start
    computed = load_features(model, lambda _epoch: sources, cache=None, on_progress=lambda *_: None)
    model.normalisation.fit([kept.read(range(min(64, len(kept))), device=device)])
    tolerance = 0 if device.type == "cpu" else 1e-2
    for a, b in zip(kept.read(range(BATCH), device=device), computed.read(range(BATCH), device=device), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    stores: dict[str, FeatureStore] = {"computed in every epoch": computed, "kept, a file per image": kept}
    if device.type == "cuda":
        stores["kept, on the GPU"] = ResidentFeatures(kept, device)
    contenders = {title: epoch_over(store, model, device=device) for title, store in stores.items()}
    comparison = Comparison(name, f"epoch of {len(paths)} images", 1, contenders)
    return time_comparison(comparison, rounds=options.rounds), filling, kept.n_bytes // len(kept)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extractor", nargs="+", default=["efficientnet-lite0"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--input-size", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "images" / f"{i:05d}.png" for i in range(options.images)]
        for i, path in enumerate(paths):
            write_png(path, sample_image(split="train", index=i)[0])
        for name in options.extractor:
            timings, filling, n_bytes = measure(name, paths, Path(folder) / "cache", options)
            print(
                f"{name}, {options.images} images: cache filled in {filling:.1f} s, {n_bytes / 2**20:.2f} MiB per image"
            )
            for timing in timings:
                print(
                    f"  {timing.contender:24s} {timing.milliseconds / 1e3:8.2f} s per epoch "
                    f"({timing.lower / 1e3:.2f}-{timing.upper / 1e3:.2f}), {1 / timing.ratio:6.1f} times as fast"
                )
            results.append({"filling_s": filling, "bytes_per_image": n_bytes, "timings": [asdict(t) for t in timings]})
    facts = machine_facts(choose_device(options.device))
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    if options.json:
        arguments = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"arguments": arguments, "machine": facts, "results": results}, indent=1))


if __name__ == "__main__":
    main()
