"""Training on the good images of a data set's product: what the command, many categories and Python have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from uflow_cli.cache import CacheFolder
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.datasets import Dataset, groups_of
from uflow_cli.run.record import Run
from uflow_cli.training.criterion import criterion_of
from uflow_cli.training.engine import train
from uflow_cli.training.observer import Observer


def train_product(
    data: Dataset, *, out: Path, model_config: ModelConfig, config: TrainingConfig, device: torch.device,
    observer: Observer, should_stop: Callable[[], bool] = lambda: False, overwrite: bool = False,
    root: Path | None = None, good: Path | None = None, cache: CacheFolder | None = None,
    excluded: Sequence[str] = (), compile_graph: bool = False, roi: Path | None = None,
) -> Run:  # fmt: skip
    """Train on the good images of `data`, whose groups are those of `config`; see `train`."""
    return train(
        [image.path for image in data.train], out=out, dataset=data.name, category=data.category,
        model_config=model_config, config=config, device=device, observer=observer, should_stop=should_stop,
        overwrite=overwrite, root=root, good=good, cache=cache, groups=groups_of(data.train, config.groups),
        excluded=excluded, compile_graph=compile_graph, roi=roi,
        criterion=criterion_of(model_config, data, cache=cache, on_progress=observer.on_features),
    )  # fmt: skip
