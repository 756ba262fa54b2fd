"""The training loop: epochs, the best of them, and the way back from a divergence. Losses are in bits per dimension."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from uflow_cli.cache import FeatureStore
from uflow_cli.calibration import calibrate
from uflow_cli.errors import TrainingError, UflowError
from uflow_cli.features import choose_precision
from uflow_cli.flow import UFlow, bits_per_dimension, negative_log_likelihood
from uflow_cli.model import Model
from uflow_cli.run.log import Epoch
from uflow_cli.run.record import Progress, Run, save_weights
from uflow_cli.run.state import TrainingState, publish, remove_state, write_state
from uflow_cli.training.criterion import Criterion
from uflow_cli.training.observer import Observer
from uflow_cli.training.processes import Processes
from uflow_cli.training.steps import adam, batched, compiled, rate_factor

EXPLODED = 0.5 * (1 + math.log(2 * math.pi)) / math.log(2) + 1.0  # a bit more than an untrained flow, which is at 2.05
RATE_CUT = 0.1  # of the learning rate, after a divergence


class Trainer:
    """A training under way: the model and its optimiser, and the state after the last good epoch.

    `tensors` are those of `state`; empty before the first epoch.
    """

    def __init__(
        self, folder: Path, state: TrainingState, tensors: dict[str, Tensor], model: Model, features: FeatureStore,
        group: Processes, observer: Observer, criterion: Criterion,
    ) -> None:  # fmt: skip
        self.folder, self.state, self.config, self.split = folder, state, state.training, state.split
        self.model, self.features = model, features
        self.rows = [*state.split.training, *range(len(state.images), len(features))]  # what trains: images, views
        self.group, self.observer, self.criterion = group, observer, criterion
        self.optimiser = adam(model.flow.parameters(), weight_decay=self.config.weight_decay)
        if tensors:
            self.tensors = tensors
            self._restore()
        else:
            model.load_state_dict({**model.state_dict(), **group.on_rank_zero(self._fit_statistics)})
            self.tensors = self._copies()
        self.half = choose_precision(self.config.flow_precision, device=model.device) == "bf16"
        flow = group.synchronised(self._training_flow(), device=model.device)
        self.synchronised_model = replace(model, flow=cast(UFlow, flow))  # its gradients are those of all processes
        self.n_epochs = self.config.n_epochs(len(self.rows))
        self.steps_per_epoch = -(-len(self.rows) // self.config.batch_size)

    def _training_flow(self) -> nn.Module:
        if not self.config.compile:
            return self.model.flow
        n_images = len(self.group.part(range(self.config.batch_size)))
        return compiled(
            self.model.flow, batch_size=n_images, device=self.model.device, half=self.half,
            on_warning=self.observer.on_warning,
        )  # fmt: skip

    def run(self, should_stop: Callable[[], bool]) -> Run:
        """Train until all epochs are done, patience has ended or `should_stop` says so after an epoch."""
        if self.group.is_rank_zero and self.state.log:
            publish(self.folder, self.state, "training")  # puts right what a kill left undone
        try:
            while not self.state.is_over:
                self._epoch()
                if not self.state.is_over and self.group.any(should_stop()):
                    return self.group.on_rank_zero(lambda: publish(self.folder, self.state, "stopped"))
            return self.group.on_rank_zero(lambda: publish(self.folder, self.state, "finished"))
        except BaseException as error:
            # an epoch that could not be written to the end may have taken the place of the weights that are known here
            has_weights = bool(self.state.weights) and (self.folder / str(self.state.weights)).is_file()
            if self.group.is_rank_zero and has_weights:
                with contextlib.suppress(UflowError):
                    publish(self.folder, self.state, "stopped" if isinstance(error, KeyboardInterrupt) else "failed")
            raise

    def _epoch(self) -> None:
        start = time.monotonic()
        loss = self._train_epoch(len(self.state.log) + 1)
        speed = len(self.rows) / (time.monotonic() - start)
        tensors = self._copies()
        state = self.group.on_rank_zero(lambda: self._judge(loss, tensors, start=start, images_per_second=speed))
        if state is None:
            self._roll_back()
            return
        self.state, self.tensors = state, tensors
        self.observer.on_epoch(state.log[-1])

    def _train_epoch(self, epoch: int) -> float:
        """Mean training loss over one pass; all that is random in it follows from the seed and the epoch's number."""
        self.synchronised_model.flow.train()
        order = np.random.default_rng([self.config.seed, 1, epoch]).permutation(self.rows).tolist()
        self.features.start_epoch(epoch)
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)  # stays there: no waiting per step
        seen = (epoch - 1) * len(order)
        for step, batch in enumerate(batched(order, self.config.batch_size), start=(epoch - 1) * self.steps_per_epoch):
            total += self._step(batch, step)
            seen += len(batch)
            self.observer.on_batch(seen, self.n_epochs * len(order))
        total = self.group.sum(total)
        return bits_per_dimension(float(total) / len(order), self.model.flow.n_dimensions)

    def _step(self, batch: Sequence[int], step: int) -> Tensor:
        """One step on the images `batch`; the sum of this process's negative log-likelihoods, in nats."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(step)
        part = self.group.part(batch)
        features = self.features.read(part or batch[:1], device=self.model.device)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.half):
            embeddings, log_det_jacobian = self.synchronised_model.embed(features)
        nll = negative_log_likelihood(embeddings, log_det_jacobian).sum()
        if not part:  # fewer images than processes: all must take part in the exchange of gradients
            nll = 0.0 * nll
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(nll / (len(batch) / self.group.size))  # the mean over processes is that over the batch
        if self.config.gradient_clip:
            largest = self.config.gradient_clip * self.model.flow.n_dimensions  # the loss is a sum over dimensions
            torch.nn.utils.clip_grad_norm_(self.model.flow.parameters(), largest)
        self.optimiser.step()
        return nll.detach().double()

    def _rate(self, step: int) -> float:
        n_steps = self.n_epochs * self.steps_per_epoch
        factor = rate_factor(self.config.schedule, step, n_steps=n_steps, warm_up=self.config.warm_up)
        return self.config.learning_rate * self.state.rate_share * factor

    def _judge(
        self, loss: float, tensors: dict[str, Tensor], *, start: float, images_per_second: float
    ) -> TrainingState | None:
        """The state after the epoch, on disk; None if it diverged, TrainingError if that was the second time."""
        held_out_loss, norms = self._loss_and_maps(self.split.selection)
        value = float(self.criterion.value(self.model, held_out_loss))
        epoch, before = len(self.state.log) + 1, self.state.progress
        sane = all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
        if not (sane and loss < EXPLODED and math.isfinite(value)):
            if self.state.rate_share < 1:
                remove_state(self.folder)
                raise TrainingError(
                    f"training diverged in epoch {epoch} (loss {loss:.4g}), again after the learning rate was lowered; "
                    f"start anew with a --learning-rate below {RATE_CUT * self.config.learning_rate:g}"
                )
            return None
        sign = 1.0 if self.criterion.higher_is_better else -1.0
        best = before is None or sign * value > sign * before.value
        mean_squares = tuple(
            float(u.double().mean()) / c for u, c in zip(norms, self.model.flow.embedding_channels, strict=False)
        )
        rate = float(self.optimiser.param_groups[0]["lr"])
        seconds = (self.state.log[-1].seconds if self.state.log else 0.0) + time.monotonic() - start
        record = Epoch(
            epoch, self.n_epochs, loss, held_out_loss, rate, seconds, best, images_per_second, mean_squares, value
        )
        state = replace(self.state, log=(*self.state.log, record))
        if best:
            state = self._with_best(state, held_out_loss, value, norms)
        assert state.progress is not None
        state = replace(state, progress=replace(state.progress, epochs_done=epoch))
        write_state(self.folder, state, tensors)
        publish(self.folder, state, "training")
        return state

    def _with_best(
        self, state: TrainingState, held_out_loss: float, value: float, norms: Sequence[Tensor]
    ) -> TrainingState:
        """`state` with this epoch as the best one, its weights on disk under a name that nothing refers to yet."""
        epoch = len(state.log)
        known = held_out_loss if math.isfinite(held_out_loss) else None
        progress = Progress(epoch, epoch, known, "training", self.n_epochs, self.criterion.name, value)
        shared, flow = self.split.shared, self.model.flow
        calibration = calibrate(
            norms if shared else self._loss_and_maps(self.split.calibration)[1], selection=() if shared else norms,
            n_channels=self.model.source_channels, tests=self.model.config.tests, reach=flow.reach, shared=shared,
            is_fused=self.model.config.is_fused, log_lot=self.model.config.log_lot,
            groups=[self.state.groups[i] for i in self.split.calibration] if self.state.groups else (),
        )  # fmt: skip
        if state.is_recalibrated:
            self.observer.on_warning(
                f"epoch {epoch} takes the place of the one that fresh images recalibrated; held-out images calibrate "
                "it: give the fresh ones to `uflow check --recalibrate` again"
            )
        weights = save_weights(self.folder, self.model, epoch=epoch)
        return replace(state, progress=progress, calibration=calibration, weights=weights, is_recalibrated=False)

    def _roll_back(self) -> None:
        """Back to the last good epoch, with a lower learning rate from there on."""
        self.state = replace(self.state, rate_share=RATE_CUT)
        self._restore()
        self.observer.on_warning(
            f"training diverged in epoch {len(self.state.log) + 1}; it goes on from the epoch before with a learning "
            f"rate of at most {RATE_CUT * self.config.learning_rate:g}"
        )

    def _fit_statistics(self) -> dict[str, Tensor]:
        """What is fitted to the training images in one pass and not trained: normalisation and Gaussians."""
        model = self.model
        batches = list(batched(self.rows, self.config.batch_size))
        model.normalisation.fit(self.features.read(batch, device=model.device) for batch in batches)
        if model.gaussians is not None:
            features = (self.features.read(batch, device=model.device) for batch in batches)
            model.gaussians.fit([of_image[scale] for scale in model.scales] for of_image in features)
        return {key: value for key, value in model.state_dict().items() if not key.startswith("flow.")}

    def _copies(self) -> dict[str, Tensor]:
        """Copies on the CPU of all tensors that training changes."""
        moments = self.optimiser.state_dict()["state"]
        adam = {f"adam.{i}.{name}": value for i, values in moments.items() for name, value in values.items()}
        return {name: value.detach().cpu().clone() for name, value in {**self.model.state_dict(), **adam}.items()}

    def _restore(self) -> None:
        """Set all tensors that training changes to those of the last good epoch."""
        self.model.load_state_dict({k: v for k, v in self.tensors.items() if not k.startswith("adam.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in self.tensors.items():
            if name.startswith("adam."):
                _, index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = value.clone()
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})

    @torch.inference_mode()
    def _loss_and_maps(self, indices: Sequence[int]) -> tuple[float, list[Tensor]]:
        """Loss and U maps (N, H_s, W_s) per scale of the held-out images `indices`."""
        flow = self.model.flow.eval()
        if not indices:
            return math.nan, [torch.empty(0, 1, 1) for _ in self.model.source_channels]
        total, norms = 0.0, []
        for batch in batched(indices, self.config.batch_size):
            features = self.features.read(batch, device=self.model.device)
            embeddings, log_det_jacobian = self.model.embed(features)
            total += float(negative_log_likelihood(embeddings, log_det_jacobian).double().sum())
            norms.append([u.cpu() for u in self.model.evidence(features, embeddings)])
        loss = bits_per_dimension(total / len(indices), flow.n_dimensions)
        return loss, [torch.cat(maps) for maps in zip(*norms, strict=True)]
