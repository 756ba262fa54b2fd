"""Fixtures that several test files share: a small product and a run trained on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.images import write_png
from uflow_cli.training import Epoch, train


def good_image(seed: int, side: int = 96) -> NDArray[np.uint8]:
    """A striped surface with a random phase, brightness and noise."""
    rng = np.random.default_rng(seed)
    x = np.arange(side)
    stripes = 110 + 40 * np.sin(2 * np.pi * (x / 12 + rng.random()))[None, :] * np.ones((side, 1))
    noisy = stripes + rng.normal(0, 8) + rng.normal(0, 6, (side, side))
    return np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def defective_image(seed: int, side: int = 96) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A good image with a bright square, and its mask."""
    image = good_image(seed, side)
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[side // 3 : side // 3 + side // 4, side // 2 : side // 2 + side // 4] = True
    image[mask] = (250, 40, 40)
    return image, mask


@dataclass
class Recorder:
    """An observer that remembers."""

    epochs: list[Epoch]
    images: int = 0
    features: int = 0
    batches: int = 0

    def on_images(self, done: int, total: int) -> None:
        self.images = done

    def on_features(self, done: int, total: int) -> None:
        self.features = done

    def on_batch(self, done: int, total: int) -> None:
        self.batches += 1

    def on_epoch(self, record: Epoch) -> None:
        self.epochs.append(record)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder([])


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`stripes`, a category in MVTec layout: 20 good images to train on, 4 good and 4 defective ones to test on."""
    root = tmp_path_factory.mktemp("product")
    folder = root / "stripes"
    for i in range(20):
        write_png(folder / "train" / "good" / f"{i:03d}.png", good_image(i))
    for i in range(4):
        write_png(folder / "test" / "good" / f"{i:03d}.png", good_image(100 + i))
        image, mask = defective_image(200 + i)
        write_png(folder / "test" / "spot" / f"{i:03d}.png", image)
        write_png(folder / "ground_truth" / "spot" / f"{i:03d}_mask.png", mask)
    return root


SMALL_MODEL = ModelConfig(input_size=96)
SMALL_TRAINING = TrainingConfig(epochs=4, batch_size=4, learning_rate=2e-3)


@pytest.fixture(scope="session")
def small_run(product: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained for four epochs on `product`. Read only."""
    out = tmp_path_factory.mktemp("runs") / "stripes"
    paths = sorted((product / "stripes" / "train" / "good").iterdir())
    train(
        paths, out=out, dataset="mvtec", category="stripes", model_config=SMALL_MODEL, config=SMALL_TRAINING,
        device=torch.device("cpu"), observer=Recorder([]),
    )  # fmt: skip
    return out
