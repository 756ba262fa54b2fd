"""Memory and start-up of training as the number of images grows.

    python benchmarks/scale.py [--images 5000 10000 50000] [--json FILE]

Everything is the real road (listing, hashing, checking, extraction, cache, split, one epoch, calibration) on PNG files
of 32 x 32 pixels, but for a tiny frozen extractor, which stands in so that the images are many and not the hours. Each
size trains in a process of its own, first with an empty cache, then with a full one. Start-up ends with the features,
epoch with the run. Memory is sampled every 20 ms: "anonymous" is what the system cannot take back (RssAnon), "beyond
model" the growth of that since libraries and model were loaded; "resident" counts mapped files too (VmHWM), libraries,
which it can take back. `--channels` sets the size of the features and so of the cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, INPUT = 32, 64
BATCH = 512


class TinyBackbone(nn.Module):
    """Averages over squares of 8 and 16 pixels, mixed at random."""

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for scale, n_channels in enumerate(channels):
            self.register_buffer(f"mix_{scale}", torch.randn(n_channels, 3, 1, 1, generator=generator))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps at strides 8 and 16."""
        return [F.conv2d(F.avg_pool2d(x, 8 * 2**s), self.get_buffer(f"mix_{s}")) for s in range(2)]


@dataclass
class Clock:
    """An observer that notes when each part of the work ended."""

    start: float = field(default_factory=time.perf_counter)
    marks: dict[str, float] = field(default_factory=dict)
    at_hand: int | None = None

    def mark(self, name: str) -> None:
        """Note the time of `name`."""
        self.marks[name] = time.perf_counter() - self.start

    def on_images(self, done: int, total: int) -> None:
        """All images are hashed and checked."""
        if done == total:
            self.mark("surveyed")

    def on_features(self, done: int, total: int) -> None:  # noqa: ARG002
        """Note when kept features are found, and when all are there."""
        if self.at_hand is None:
            self.at_hand = done
            self.mark("found")
        self.mark("features")

    def on_flow(self, number: int, total: int) -> None:
        """Nothing: so many images need one flow."""

    def on_batch(self, done: int, total: int) -> None:
        """Nothing: the end of the run counts."""

    def on_epoch(self, record: object) -> None:
        """Nothing: the end of the run counts."""

    def on_warning(self, message: str) -> None:
        """Pass it on."""
        print(message, file=sys.stderr)


def memory(name: str) -> float:
    """MiB, as the system counts them."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def train_once(images: Path, out: Path, cache: Path, channels: tuple[int, int]) -> dict[str, Any]:
    """One training of one epoch: marks in seconds, memory in MiB before and at the peak."""
    from uflow_cli.cache import GIB, CacheFolder
    from uflow_cli.config import ModelConfig, TrainingConfig
    from uflow_cli.datasets import folder_dataset
    from uflow_cli.features import FeatureExtractor
    from uflow_cli.flow import UFlow
    from uflow_cli.model import Model, build_model
    from uflow_cli.training import train

    torch.set_num_threads(1)
    device = torch.device("cpu")
    real = build_model(ModelConfig(input_size=INPUT), device=device)
    spec = replace(real.extractor.spec, channels=channels, strides=(8, 16), normalisation="layer")
    tiny = Model(
        real.config, FeatureExtractor(spec, TinyBackbone(channels)), type(real.normalisation)("layer", channels),
        UFlow(channels, spec.grids((INPUT, INPUT))), device,
    )  # fmt: skip
    del real
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], memory("RssAnon"))

    before = memory("RssAnon")
    watcher = threading.Thread(target=watch)
    watcher.start()
    clock = Clock()
    data = folder_dataset(images)
    clock.mark("listed")
    with mock.patch("uflow_cli.training.engine.build_model", return_value=tiny):
        train(
            [image.path for image in data.train], out=out, dataset="d", category="c", observer=clock, device=device,
            model_config=tiny.config, config=TrainingConfig(epochs=1, batch_size=BATCH), overwrite=True,
            cache=CacheFolder(cache, limit=100 * GIB),
        )  # fmt: skip
    clock.mark("done")
    stop.set()
    watcher.join()
    return {
        "at_hand": clock.at_hand,
        "before": before,
        "anonymous": peak[0],
        "resident": memory("VmHWM"),
        **clock.marks,
    }


def write_images(folder: Path, n_images: int) -> None:
    """PNG files of noise."""
    from uflow_cli.images import encode_png

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(n_images):
        (folder / f"{i:06d}.png").write_bytes(encode_png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)))


def in_a_process(*arguments: object) -> dict[str, Any]:
    """The result of `train_once` in a new process."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(answer.splitlines()[-1]))


COLUMNS = {
    "images": "{n}", "cache": "{state}", "list s": "{listed:.1f}", "hash, check s": "{survey:.1f}",
    "find s": "{find:.1f}", "extract s": "{extract:.1f}", "start-up ms/image": "{per_image:.2f}",
    "epoch s": "{epoch_s:.1f}", "anonymous MiB": "{anonymous:.0f}", "beyond model": "{beyond:.0f}",
    "resident MiB": "{resident:.0f}",
}  # fmt: skip


def row(n_images: int, state: str, seen: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    return {
        **seen, "n": n_images, "state": state, "survey": seen["surveyed"] - seen["listed"],
        "find": seen["found"] - seen["surveyed"], "extract": seen["features"] - seen["found"],
        "per_image": 1e3 * seen["features"] / n_images, "epoch_s": seen["done"] - seen["features"],
        "beyond": seen["anonymous"] - seen["before"],
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 10000, 50000])
    parser.add_argument("--channels", type=int, nargs=2, default=[16, 32])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        images, out, cache, fine, coarse = options.one
        print(json.dumps(train_once(Path(images), Path(out), Path(cache), (int(fine), int(coarse)))))
        return
    rows = []
    print(" | ".join(COLUMNS), flush=True)
    for n_images in options.images:
        with tempfile.TemporaryDirectory() as folder:
            images, out, cache = (Path(folder) / name for name in ("images", "run", "cache"))
            write_images(images, n_images)
            for state in ("empty", "full"):
                seen = in_a_process(images, out, cache, *options.channels)
                assert seen["at_hand"] == (n_images if state == "full" else 0)
                rows.append(row(n_images, state, seen))
                print(" | ".join(column.format(**rows[-1]) for column in COLUMNS.values()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
