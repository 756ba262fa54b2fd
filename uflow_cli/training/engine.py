"""One training from images to a run folder. Losses are negative log-likelihoods in bits per dimension."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uflow_cli.cache import FeatureStore, extract_features
from uflow_cli.calibration import Calibration
from uflow_cli.checkpoint import CURVE_NAME, LOG_NAME, Origin, Progress, is_run, mark_state, save_run
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.errors import TrainingError, UflowError
from uflow_cli.flow import bits_per_dimension, negative_log_likelihood
from uflow_cli.likelihood import squared_norms
from uflow_cli.model import Model, build_model, check_model_config
from uflow_cli.training.criterion import Criterion, HeldOutLoss
from uflow_cli.training.held_out import calibrate
from uflow_cli.training.log import Epoch, Observer, write_curve, write_log
from uflow_cli.training.schedule import rate_factor
from uflow_cli.training.split import Split, batched, check_images, split_images


@dataclass(frozen=True)
class TrainingResult:
    """What a training left in its run folder."""

    folder: Path
    origin: Origin
    progress: Progress
    calibration: Calibration
    log: tuple[Epoch, ...]


def train(
    paths: Sequence[Path], *, out: Path, dataset: str, category: str, model_config: ModelConfig, config: TrainingConfig,
    device: torch.device, observer: Observer, should_stop: Callable[[], bool] = lambda: False, overwrite: bool = False,
    criterion: Criterion | None = None,
) -> TrainingResult:  # fmt: skip
    """Train on the good images at `paths` and leave a run in `out`; it is whole from the first epoch on.

    `should_stop` is asked after every epoch; `criterion` chooses the epoch, by default the held-out loss. UflowError
    for images that cannot be read, an existing run without `overwrite`, a loss that is no number.
    """
    if is_run(out) and not overwrite:
        raise TrainingError(
            f"{out} already holds a run; replace it with --overwrite, or choose another folder with --out"
        )
    check_model_config(model_config)
    split = split_images(len(paths), held_out_fraction=config.held_out_fraction, seed=config.seed)
    check_images(paths, on_progress=observer.on_images)
    model = build_model(model_config, device=device, seed=config.seed)
    _make_folder(out)
    store = extract_features(model, paths, folder=out, on_progress=observer.on_features)
    origin = Origin(dataset, category, len(split.training), len(split.selection), len(split.calibration))
    return _Trainer(model, store, split, config, origin, out, observer, criterion or HeldOutLoss()).run(should_stop)


class _Trainer:
    """The state of one training: optimiser, schedule, log and best epoch so far."""

    def __init__(
        self,
        model: Model,
        store: FeatureStore,
        split: Split,
        config: TrainingConfig,
        origin: Origin,
        out: Path,
        observer: Observer,
        criterion: Criterion,
    ) -> None:
        self.model, self.store, self.split, self.config = model, store, split, config
        self.origin, self.out, self.observer = origin, out, observer
        self.criterion = criterion
        self.order = np.random.default_rng([config.seed, 1])
        self.optimiser = torch.optim.Adam(
            model.flow.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.n_epochs = config.n_epochs(len(split.training))
        n_steps = self.n_epochs * -(-len(split.training) // config.batch_size)
        self.n_steps, self.step = n_steps, 0
        self.log: list[Epoch] = []
        self.progress: Progress | None = None
        self.calibration: Calibration | None = None

    def run(self, should_stop: Callable[[], bool]) -> TrainingResult:
        batches = batched(self.split.training, self.config.batch_size)
        self.model.normalisation.fit(self.store.read(batch, device=self.model.device) for batch in batches)
        state = "finished"
        self.seconds = 0.0
        for epoch in range(1, self.n_epochs + 1):
            start = time.monotonic()
            loss = self._train_epoch(epoch)
            speed = len(self.split.training) / (time.monotonic() - start)
            self._end_epoch(epoch, loss, start=start, images_per_second=speed)
            if self._is_patience_over():
                break
            if should_stop() and epoch < self.n_epochs:
                state = "stopped"
                break
        if self.progress is None or self.calibration is None:
            raise TrainingError("no epoch ended with a finite loss; try a lower --learning-rate")
        progress = replace(self.progress, epochs_done=len(self.log), state=state)
        mark_state(self.out, progress)
        return TrainingResult(self.out, self.origin, progress, self.calibration, tuple(self.log))

    def _train_epoch(self, epoch: int) -> float:
        """Mean training loss over one pass, in bits per dimension."""
        flow = self.model.flow.train()
        order = self.order.permutation(self.split.training)
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        seen = 0
        for batch in batched(order.tolist(), self.config.batch_size):
            embeddings, log_det_jacobian = self.model.embed(self.store.read(batch, device=self.model.device))
            nll = negative_log_likelihood(embeddings, log_det_jacobian)  # (B,)
            self._set_rate()
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(nll.mean())
            if self.config.gradient_clip:
                torch.nn.utils.clip_grad_norm_(flow.parameters(), self.config.gradient_clip)
            self.optimiser.step()
            self.step += 1
            total += nll.detach().double().sum()
            seen += len(batch)
            self.observer.on_batch((epoch - 1) * len(order) + seen, self.n_epochs * len(order))
        return bits_per_dimension(float(total) / len(order), flow.n_dimensions)

    def _set_rate(self) -> None:
        factor = rate_factor(self.config.schedule, self.step, n_steps=self.n_steps, warm_up=self.config.warm_up)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * factor

    def _is_patience_over(self) -> bool:
        assert self.progress is not None
        return 0 < self.config.patience <= len(self.log) - self.progress.best_epoch

    def _end_epoch(self, epoch: int, loss: float, *, start: float, images_per_second: float) -> None:
        held_out_loss, norms = self._held_out(self.split.selection)
        value = self.criterion.value(self.model, held_out_loss)
        if not np.isfinite(value) or not np.isfinite(loss):
            raise TrainingError(
                f"the loss is no number after epoch {epoch}; "
                f"try a lower --learning-rate than {self.config.learning_rate:g}"
            )
        sign = 1.0 if self.criterion.higher_is_better else -1.0
        best = self.progress is None or sign * value > sign * self.progress.value
        if best:
            known = held_out_loss if np.isfinite(held_out_loss) else None
            self.progress = Progress(epoch, epoch, known, "training", self.n_epochs, self.criterion.name, value)
            calibration_norms = norms if self.split.shared else self._held_out(self.split.calibration)[1]
            self.calibration = calibrate(norms, calibration_norms, model=self.model, shared=self.split.shared)
            save_run(
                self.out,
                model=self.model,
                training=self.config,
                origin=self.origin,
                progress=self.progress,
                calibration=self.calibration,
            )
        rate = float(self.optimiser.param_groups[0]["lr"])
        self.seconds += time.monotonic() - start
        mean_squares = tuple(
            float(u.double().mean()) / c for u, c in zip(norms, self.model.flow.embedding_channels, strict=True)
        )
        record = Epoch(
            epoch, self.n_epochs, loss, held_out_loss, rate, self.seconds, best, images_per_second, mean_squares, value
        )
        self.log.append(record)
        write_log(self.out / LOG_NAME, self.log)
        write_curve(self.out / CURVE_NAME, self.log, title=f"{self.origin.dataset}/{self.origin.category}")
        self.observer.on_epoch(record)

    @torch.inference_mode()
    def _held_out(self, indices: Sequence[int]) -> tuple[float, list[Tensor]]:
        """Loss in bits per dimension and U maps (N, H_s, W_s) per scale of the held-out images `indices`."""
        flow = self.model.flow.eval()
        if not indices:
            return float("nan"), [torch.empty(0, *grid) for grid in flow.grids]
        total, norms = 0.0, []
        for batch in batched(indices, self.config.batch_size):
            features = self.store.read(batch, device=self.model.device)
            embeddings, log_det_jacobian = self.model.embed(features)
            total += float(negative_log_likelihood(embeddings, log_det_jacobian).double().sum())
            norms.append([u.cpu() for u in squared_norms(embeddings)])
        loss = bits_per_dimension(total / len(indices), flow.n_dimensions)
        return loss, [torch.cat(maps) for maps in zip(*norms, strict=True)]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UflowError(f"cannot make folder {folder}: {error.strerror}; choose another with --out") from error
