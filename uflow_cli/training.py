"""Training of the flow on good images only. Losses are negative log-likelihoods in bits per dimension."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from uflow_cli.cache import FeatureStore, extract_features
from uflow_cli.calibration import Calibration, fit_background
from uflow_cli.checkpoint import LOG_NAME, Origin, Progress, is_run, mark_state, save_run
from uflow_cli.config import MIN_HELD_OUT, ModelConfig, TrainingConfig
from uflow_cli.errors import ImageError, TrainingError, UflowError
from uflow_cli.files import write_text
from uflow_cli.flow import bits_per_dimension, negative_log_likelihood
from uflow_cli.images import read_image
from uflow_cli.likelihood import squared_norms
from uflow_cli.model import Model, build_model
from uflow_cli.prediction import find_regions, log_nfa_ceiling, lowest_log_nfa


@dataclass(frozen=True)
class Epoch:
    """One line of the training log."""

    epoch: int  # from 1
    n_epochs: int
    loss: float
    held_out_loss: float
    learning_rate: float
    seconds: float  # since training of the flow began
    best: bool


@dataclass(frozen=True)
class Split:
    """Indices of the good images by use. `calibration` is `selection` where there are too few to part them."""

    training: tuple[int, ...]
    selection: tuple[int, ...]
    calibration: tuple[int, ...]

    @property
    def shared(self) -> bool:
        """Whether the same images choose the epoch and calibrate."""
        return self.selection == self.calibration


@dataclass(frozen=True)
class TrainingResult:
    """What a training left in its run folder."""

    folder: Path
    origin: Origin
    progress: Progress
    calibration: Calibration
    log: tuple[Epoch, ...]


class Observer(Protocol):
    """Hears how training goes; every method may be called many times."""

    def on_images(self, done: int, total: int) -> None:
        """`done` of `total` images were checked."""

    def on_features(self, done: int, total: int) -> None:
        """Features of `done` of `total` images are computed."""

    def on_batch(self, done: int, total: int) -> None:
        """`done` of `total` training images were seen, an image counting once per epoch."""

    def on_epoch(self, record: Epoch) -> None:
        """An epoch ended and its log line is written."""


def split_images(n_images: int, *, held_out_fraction: float, seed: int) -> Split:
    """A random split of `n_images` good images (METHOD 7.1): by default 15 %, at least 8, never train the flow.

    With at least 24 held-out images a third of them chooses the epoch and the others calibrate; with fewer, all
    do both. Fewer than 16 images are halved. TrainingError for less than 2 images.
    """
    if n_images < 2:
        raise TrainingError(
            f"{n_images} good image: at least 2 are needed, one to train and one held out, and 50 or more do well"
        )
    n_held_out = min(max(MIN_HELD_OUT, round(held_out_fraction * n_images)), n_images // 2)
    order = [int(i) for i in np.random.default_rng(seed).permutation(n_images)]
    held_out, training = order[:n_held_out], order[n_held_out:]
    if n_held_out < 3 * MIN_HELD_OUT:
        return Split(tuple(training), tuple(held_out), tuple(held_out))
    n_selection = max(MIN_HELD_OUT, n_held_out // 3)
    return Split(tuple(training), tuple(held_out[:n_selection]), tuple(held_out[n_selection:]))


def check_images(paths: Sequence[Path], *, on_progress: Callable[[int, int], None]) -> None:
    """Read every image once, so that training does not stop half-way; ImageError names those that cannot be read."""
    errors: list[str] = []
    for done, path in enumerate(paths, start=1):
        try:
            read_image(path)
        except ImageError as error:
            errors.append(str(error))
        on_progress(done, len(paths))
    if errors:
        more = f" (and {len(errors) - 1} more of {len(paths)} images)" if len(errors) > 1 else ""
        raise ImageError(f"{errors[0]}{more}; remove or replace it before training")


def train(
    paths: Sequence[Path], *, out: Path, dataset: str, category: str, model_config: ModelConfig, config: TrainingConfig,
    device: torch.device, observer: Observer, should_stop: Callable[[], bool] = lambda: False, overwrite: bool = False,
) -> TrainingResult:  # fmt: skip
    """Train on the good images at `paths` and leave a run in `out`; it is whole from the first epoch on.

    `should_stop` is asked after every epoch. UflowError for images that cannot be read, an existing run without
    `overwrite`, a loss that is no number.
    """
    if is_run(out) and not overwrite:
        raise TrainingError(
            f"{out} already holds a run; replace it with --overwrite, or choose another folder with --out"
        )
    split = split_images(len(paths), held_out_fraction=config.held_out_fraction, seed=config.seed)
    check_images(paths, on_progress=observer.on_images)
    model = build_model(model_config, device=device, seed=config.seed)
    _make_folder(out)
    store = extract_features(model, paths, folder=out, on_progress=observer.on_features)
    origin = Origin(dataset, category, len(split.training), len(split.selection), len(split.calibration))
    return _Trainer(model, store, split, config, origin, out, observer).run(should_stop)


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
    ) -> None:
        self.model, self.store, self.split, self.config = model, store, split, config
        self.origin, self.out, self.observer = origin, out, observer
        self.order = np.random.default_rng([config.seed, 1])
        self.optimiser = torch.optim.Adam(
            model.flow.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.n_epochs = config.n_epochs(len(split.training))
        n_steps = self.n_epochs * -(-len(split.training) // config.batch_size)
        self.schedule = one_cycle(self.optimiser, n_steps)
        self.log: list[Epoch] = []
        self.progress: Progress | None = None
        self.calibration: Calibration | None = None

    def run(self, should_stop: Callable[[], bool]) -> TrainingResult:
        start = time.monotonic()
        batches = batched(self.split.training, self.config.batch_size)
        self.model.normalisation.fit(self.store.read(batch, device=self.model.device) for batch in batches)
        state = "finished"
        for epoch in range(1, self.n_epochs + 1):
            loss = self._train_epoch(epoch)
            self._end_epoch(epoch, loss, time.monotonic() - start)
            if should_stop() and epoch < self.n_epochs:
                state = "stopped"
                break
        if self.progress is None or self.calibration is None:
            raise TrainingError("no epoch ended with a finite held-out loss; try a lower --learning-rate")
        progress = Progress(len(self.log), self.progress.best_epoch, self.progress.held_out_loss, state)
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
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(nll.mean())
            self.optimiser.step()
            self.schedule.step()
            total += nll.detach().double().sum()
            seen += len(batch)
            self.observer.on_batch((epoch - 1) * len(order) + seen, self.n_epochs * len(order))
        return bits_per_dimension(float(total) / len(order), flow.n_dimensions)

    def _end_epoch(self, epoch: int, loss: float, seconds: float) -> None:
        held_out_loss, norms = self._held_out(self.split.selection)
        if not np.isfinite(held_out_loss) or not np.isfinite(loss):
            raise TrainingError(
                f"the loss is no number after epoch {epoch}; "
                f"try a lower --learning-rate than {self.config.learning_rate:g}"
            )
        best = self.progress is None or held_out_loss < self.progress.held_out_loss
        if best:
            self.progress = Progress(epoch, epoch, held_out_loss, "training")
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
        record = Epoch(epoch, self.n_epochs, loss, held_out_loss, rate, seconds, best)
        self.log.append(record)
        write_log(self.out / LOG_NAME, self.log)
        self.observer.on_epoch(record)

    @torch.inference_mode()
    def _held_out(self, indices: Sequence[int]) -> tuple[float, list[Tensor]]:
        """Loss in bits per dimension and U maps (N, H_s, W_s) per scale of the held-out images `indices`."""
        flow = self.model.flow.eval()
        total, norms = 0.0, []
        for batch in batched(indices, self.config.batch_size):
            features = self.store.read(batch, device=self.model.device)
            embeddings, log_det_jacobian = self.model.embed(features)
            total += float(negative_log_likelihood(embeddings, log_det_jacobian).double().sum())
            norms.append([u.cpu() for u in squared_norms(embeddings)])
        loss = bits_per_dimension(total / len(indices), flow.n_dimensions)
        return loss, [torch.cat(maps) for maps in zip(*norms, strict=True)]


def calibrate(
    background_norms: Sequence[Tensor], norms: Sequence[Tensor], *, model: Model, shared: bool
) -> Calibration:
    """Calibration from U maps of held-out good images, per scale (N, H_s, W_s).

    `background_norms` give the background model, `norms` the lowest log NFA per image; where the two are disjoint, the
    false-alarm rate of METHOD 7.3 is exact.
    """
    channels = model.flow.embedding_channels
    fits = [fit_background(u.numpy(), n_channels=c) for u, c in zip(background_norms, channels, strict=True)]
    background = tuple(fit for fit, _ in fits)
    result = find_regions([u.numpy() for u in norms], background=background, tests=model.config.tests)
    lowest = lowest_log_nfa(result, ceiling=log_nfa_ceiling(result, tests=model.config.tests))
    return Calibration(
        background=background,
        mean_ratio=tuple(ratio for _, ratio in fits),
        n_channels=channels,
        lowest_log_nfa=tuple(sorted(float(value) for value in lowest)),
        shared=shared,
    )


def batched(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`indices` in pieces of `size`; the last may be shorter."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def one_cycle(optimiser: torch.optim.Optimizer, n_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over the first tenth of `n_steps`, then a cosine decay to a hundredth of the peak."""
    n_warm_up = max(1, n_steps // 10)

    def factor(step: int) -> float:
        if step < n_warm_up:
            return (step + 1) / n_warm_up
        part = (step - n_warm_up) / max(1, n_steps - n_warm_up)
        return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * part)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def write_log(path: Path, log: Sequence[Epoch]) -> None:
    """The training log as CSV with a header, one line per epoch."""
    names = [field.name for field in fields(Epoch)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(getattr(record, name)) for name in names] for record in log)
    write_text(path, text.getvalue())


def _cell(value: float | bool) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(int(value))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UflowError(f"cannot make folder {folder}: {error.strerror}; choose another with --out") from error
