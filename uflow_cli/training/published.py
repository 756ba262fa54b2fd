"""The epoch chosen as published: on the test set, which a factory does not have (METHOD 5, 6.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from uflow_cli.cache import CacheFolder, FeatureStore, features_of
from uflow_cli.config import ModelConfig
from uflow_cli.datasets import Dataset, read_label_mask
from uflow_cli.detection.prediction import SCORE_SIZE
from uflow_cli.errors import DatasetError
from uflow_cli.flow.likelihood import anomaly_score
from uflow_cli.metrics import PixelScores
from uflow_cli.model import Model
from uflow_cli.training.criterion import Criterion
from uflow_cli.training.split import batched

BATCH = 8


class TestSetAuroc:
    """Pixel AUROC of the test images at 256 x 256 after every epoch, from features that are computed once.

    `cache` keeps the features; without one they are computed anew after every epoch. DatasetError, before anything is
    computed, for a data set without defects to test on.
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
) -> Criterion | None:
    """What chooses the epoch of a run of `data`, where that is not the held-out loss."""
    return TestSetAuroc(data, cache=cache, on_progress=on_progress) if model_config.paper_exact else None
