"""The criterion that chooses the epoch whose weights are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from uflow_cli.cache import CacheFolder, FeatureStore, features_of
from uflow_cli.config import ModelConfig
from uflow_cli.datasets import Dataset, read_label_mask
from uflow_cli.detection.prediction import SCORE_SIZE
from uflow_cli.errors import DatasetError
from uflow_cli.flow.likelihood import anomaly_score
from uflow_cli.metrics import PixelScores
from uflow_cli.model import Model
from uflow_cli.training.steps import batched

BATCH = 8


class Criterion(Protocol):
    """A number per epoch; the epoch with the best one is kept."""

    @property
    def name(self) -> str:
        """The quantity and its unit, for people."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value is the better one."""

    def value(self, model: Model, held_out_loss: float) -> float:
        """The epoch's value; `model` is in eval mode, `held_out_loss` nan where no images are held out."""


class HeldOutLoss:
    """Negative log-likelihood of good images that never trained the flow."""

    name = "held-out loss in bits per dimension"
    higher_is_better = False

    def value(self, model: Model, held_out_loss: float) -> float:  # noqa: ARG002 - other criteria look at the model
        """The held-out loss itself."""
        return held_out_loss


class TestSetAuroc:
    """Pixel AUROC of the test images at 256 x 256 after every epoch, from features that are computed once.

    So the published procedure chooses, on a test set that a factory does not have. `cache` keeps the features; without
    one they are computed anew after every epoch. DatasetError, before anything is computed, for a data set without
    defects to test on.
    """

    __test__ = False  # no test, whatever its name
    name = "pixel AUROC of the test set"
    higher_is_better = True

    def __init__(self, data: Dataset, *, cache: CacheFolder | None, on_progress: Callable[[int, int], None]) -> None:
        if not any(not item.is_good for item in data.test):
            raise DatasetError(
                f"--paper-exact selects on the test set, and {data.name}/{data.category} has no defective test images; "
                "name a data set that has some, or train without --paper-exact"
            )
        self.images, self.cache, self.on_progress = data.test, cache, on_progress
        self.masks = [read_label_mask(item, SCORE_SIZE) for item in data.test]
        self.features: FeatureStore | None = None

    @torch.inference_mode()
    def value(self, model: Model, held_out_loss: float) -> float:  # noqa: ARG002 - nothing is held out
        """The pixel AUROC as `uflow evaluate` measures it."""
        if self.features is None:
            paths = [item.path for item in self.images]
            self.features = features_of(model, paths, cache=self.cache, on_progress=self.on_progress)
        scores = PixelScores()
        for batch in batched(range(len(self.images)), BATCH):
            embeddings, _ = model.embed(self.features.read(batch, device=model.device))
            maps = anomaly_score(embeddings, size=SCORE_SIZE)[:, 0].float().cpu().numpy()  # (B, 256, 256)
            for index, score in zip(batch, maps, strict=True):
                scores.add(score, self.masks[index])
        return scores.curve().auroc


def criterion_of(
    model_config: ModelConfig, data: Dataset, *, cache: CacheFolder | None, on_progress: Callable[[int, int], None]
) -> Criterion:
    """The criterion of a run of `data`."""
    if model_config.paper_exact:
        return TestSetAuroc(data, cache=cache, on_progress=on_progress)
    return HeldOutLoss()
