"""The training loop: epochs, the best of them, and the way back from a divergence. Losses are in bits per dimension."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from uflow_cli.cache import FeatureStore
from uflow_cli.calibration import Calibration, calibrate, kind_of_evidence, suspicious_images
from uflow_cli.detection.fitted import stack_shares
from uflow_cli.errors import TrainingError, UflowError
from uflow_cli.model import Model, build_model
from uflow_cli.run.log import Epoch
from uflow_cli.run.record import Progress, Run, RunState, save_weights
from uflow_cli.run.state import TrainingState, remove_state, write_best_epoch, write_state
from uflow_cli.run.suspects import Suspect, write_suspects
from uflow_cli.training.criterion import Criterion
from uflow_cli.training.fit import FlowFit, largest_canvas, rows_of_images
from uflow_cli.training.observer import Observer
from uflow_cli.training.processes import Processes
from uflow_cli.training.roi import CellShares, layouts_of, roi_files, roi_masks

EXPLODED = 0.5 * (1 + math.log(2 * math.pi)) / math.log(2) + 1.0  # a bit more than an untrained flow, which is at 2.05
RATE_CUT = 0.1  # of the learning rate, after a divergence


class Trainer:
    """A training under way: the model and its optimiser, and the state after the last good epoch.

    `tensors` are those of `state`; empty before the first epoch.
    """

    def __init__(
        self, folder: Path, state: TrainingState, tensors: dict[str, Tensor], model: Model, features: FeatureStore,
        group: Processes, observer: Observer, criterion: Criterion, *, cell_shares: CellShares | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.state, self.config, self.split = folder, state, state.training, state.split
        self.model, self.features = model, features
        self.layouts = layouts_of(folder, state)
        self.cell_shares = cell_shares
        self._cell_shares: dict[int, NDArray[np.float32] | None] = {}  # of held-out images
        n_rows = sum(len(layout.corners) for layout in self.layouts) or len(state.images)
        own = rows_of_images(state.split.training, self.layouts)
        rows = [*own, *range(n_rows, len(features))]  # what trains: images or tiles, views
        self.group, self.observer, self.criterion = group, observer, criterion
        progress = state.progress  # an earlier uflow may have planned other epochs
        self.n_epochs = progress.n_epochs if progress else self.config.n_epochs(len(rows))
        self.fit = FlowFit(
            model, features, rows, self.config, group, observer, n_epochs=self.n_epochs, tensors=tensors,
            layouts=self.layouts, shares=cell_shares,
        )  # fmt: skip
        self.tensors = tensors or self.fit.copies()

    def _shares(self, images: Sequence[int]) -> NDArray[np.float32] | None:
        """How much each cell of the maps of `images` counts, see `Detector.find`."""
        if not self.layouts or not images:
            return None
        tile = self.model.flow.grids[0]
        grids = [self.layouts[image].grid(tile) for image in images]
        missing = [i for i in images if i not in self._cell_shares]
        masks = roi_masks(roi_files(self.folder, self.state))
        for image in missing:
            layout = self.layouts[image]
            self._cell_shares[image] = layout.shares(layout.grid(tile), roi=masks(image))
        return stack_shares([self._cell_shares[i] for i in images], grids, largest_canvas(self.layouts).grid(tile))

    def run(self, should_stop: Callable[[], bool]) -> Run:
        """Train until all epochs are done, patience has ended or `should_stop` says so after an epoch."""
        if self.group.is_rank_zero and self.state.log:
            write_best_epoch(self.folder, self.state, "training")  # puts right what a kill left undone
        try:
            while not self.state.is_over:
                self._epoch()
                if not self.state.is_over and self.group.any(should_stop()):
                    return self.group.on_rank_zero(lambda: write_best_epoch(self.folder, self.state, "stopped"))
            if self._conclude(should_stop):
                return self.group.on_rank_zero(lambda: write_best_epoch(self.folder, self.state, "stopped"))
            return self.group.on_rank_zero(lambda: write_best_epoch(self.folder, self.state, "finished"))
        except BaseException as error:
            # an epoch that could not be written to the end may have taken the place of the weights that are known here
            has_weights = bool(self.state.weights) and (self.folder / str(self.state.weights)).is_file()
            if self.group.is_rank_zero and has_weights:
                word: RunState = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
                with contextlib.suppress(UflowError):
                    write_best_epoch(self.folder, self.state, word)
            raise

    def _epoch(self) -> None:
        start = time.monotonic()
        loss = self.fit.epoch(len(self.state.log) + 1, rate_share=self.state.rate_share)
        speed = len(self.fit.rows) / (time.monotonic() - start)
        tensors = self.fit.copies()
        state = self.group.on_rank_zero(lambda: self._judge(loss, tensors, start=start, images_per_second=speed))
        if state is None:
            self._roll_back()
            return
        self.state, self.tensors = state, tensors
        self.observer.on_epoch(state.log[-1])

    def _judge(
        self, loss: float, tensors: dict[str, Tensor], *, start: float, images_per_second: float
    ) -> TrainingState | None:
        """The state after the epoch, on disk; None if it diverged, TrainingError if that was the second time."""
        held_out_loss, norms = self.fit.loss_and_maps(self.split.selection)
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
        seconds = (self.state.log[-1].seconds if self.state.log else 0.0) + time.monotonic() - start
        record = Epoch(
            epoch,
            self.n_epochs,
            loss,
            held_out_loss,
            self.fit.rate,
            seconds,
            best,
            images_per_second,
            mean_squares,
            value,
        )
        state = replace(self.state, log=(*self.state.log, record))
        if best:
            state = self._with_best(state, held_out_loss, value, norms)
        assert state.progress is not None
        state = replace(state, progress=replace(state.progress, epochs_done=epoch))
        write_state(self.folder, state, tensors)
        write_best_epoch(self.folder, state, "training")
        if epoch == 1:
            write_suspects(self.folder, ())  # of the run that this one replaces
        return state

    def _with_best(
        self, state: TrainingState, held_out_loss: float, value: float, norms: Sequence[Tensor]
    ) -> TrainingState:
        """`state` with this epoch as the best one, its weights on disk under a name that nothing refers to yet."""
        epoch = len(state.log)
        known = held_out_loss if math.isfinite(held_out_loss) else None
        progress = Progress(epoch, epoch, known, "training", self.n_epochs, self.criterion.name, value)
        shared = self.split.shared
        calibration = self._calibration(
            norms if shared else self.fit.loss_and_maps(self.split.calibration)[1], self.split.calibration,
            selection=() if shared else norms, shared=shared,
        )  # fmt: skip
        if state.is_recalibrated:
            self.observer.on_warning(
                f"epoch {epoch} takes the place of the one that fresh images recalibrated; held-out images calibrate "
                "it: give the fresh ones to `uflow check --recalibrate` again"
            )
        weights = save_weights(self.folder, self.model, epoch=epoch)
        return replace(state, progress=progress, calibration=calibration, weights=weights, is_recalibrated=False)

    def _calibration(
        self, norms: Sequence[Tensor], images: Sequence[int], *, selection: Sequence[Tensor] = (), shared: bool = False
    ) -> Calibration:
        """The calibration by U maps of the held-out `images`, and of others that chose the epoch."""
        groups = self.state.groups
        chosen = self.split.selection if len(selection) else ()
        return calibrate(
            norms, selection=selection, shared=shared, groups=[groups[i] for i in images] if groups else (),
            shares=self._shares([*images, *chosen]), **kind_of_evidence(self.model),
        )  # fmt: skip

    def _roll_back(self) -> None:
        """Back to the last good epoch, with a lower learning rate from there on."""
        self.state = replace(self.state, rate_share=RATE_CUT)
        self.fit.restore(self.tensors)
        self.observer.on_warning(
            f"training diverged in epoch {len(self.state.log) + 1}; it goes on from the epoch before with a learning "
            f"rate of at most {RATE_CUT * self.config.learning_rate:g}"
        )

    def _conclude(self, should_stop: Callable[[], bool]) -> bool:
        """Let all folds calibrate, and name the images that look defective; whether `should_stop` broke that off."""
        images = list(dict.fromkeys((*self.split.selection, *self.split.calibration)))
        if not images:
            return False
        norms = [self.group.on_rank_zero(partial(self._best_maps, images))]
        if self.split.folds and not self.state.is_recalibrated:
            more = self._fold_maps(should_stop)
            if more is None:
                return True
            if more:
                norms += more
                images += [i for fold in self.split.folds for i in fold]
                calibration = self.group.on_rank_zero(lambda: self._calibration(_joined(norms), images))
                self.state = replace(self.state, calibration=calibration)
        self.group.on_rank_zero(lambda: write_suspects(self.folder, self._suspects(_joined(norms), images)))
        return False

    def _fold_maps(self, should_stop: Callable[[], bool]) -> list[list[Tensor]] | None:
        """U maps of each fold but the first, which the flow itself has not seen; None if `should_stop` broke that off.

        Each is held out of one more flow, which is trained as this one was up to its best epoch and then forgotten.
        There are none if one of them diverges.
        """
        assert self.state.progress is not None
        folds, norms = self.split.folds, []
        for number, fold in enumerate(folds, start=2):
            self.observer.on_flow(number, len(folds) + 1)
            apart = set(fold)
            images = [i for i in (*self.split.selection, *self.split.training) if i not in apart]
            rows = rows_of_images(images, self.layouts)
            model = self.group.rank_zero_first(
                lambda: build_model(self.model.config, device=self.model.device, seed=self.config.seed)
            )
            fit = FlowFit(
                model, self.features, rows, self.config, self.group, self.observer, n_epochs=self.n_epochs,
                layouts=self.layouts, shares=self.cell_shares,
            )  # fmt: skip
            for epoch in range(1, self.state.progress.best_epoch + 1):
                loss = fit.epoch(epoch, rate_share=self.state.rate_share)
                if self.group.any(should_stop()):
                    return None
                if not loss < EXPLODED:
                    self.observer.on_warning("a flow of the cross-fitting diverged; the first fold alone calibrates")
                    return []
            norms.append(self.group.on_rank_zero(partial(fit.loss_and_maps, fold))[1])
        return norms

    def _best_maps(self, images: Sequence[int]) -> list[Tensor]:
        """U maps of `images` by the best epoch's flow."""
        self.model.load_state_dict(load_file(self.folder / str(self.state.weights)))
        return self.fit.loss_and_maps(images)[1]

    def _suspects(self, norms: Sequence[Tensor], images: Sequence[int]) -> list[Suspect]:
        """Those of `images`, with these U maps, that look defective."""
        found = suspicious_images(norms, shares=self._shares(images), **kind_of_evidence(self.model))
        return [Suspect(Path(self.state.images[images[row]][0]), log_nfa) for row, log_nfa in found.items()]


def _joined(norms: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.cat(maps) for maps in zip(*norms, strict=True)]
