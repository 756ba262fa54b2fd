"""Observers of a training: the interface, and those that say nothing, write for TensorBoard, or pass on to several."""

from __future__ import annotations

import importlib
import importlib.util
import math
import shutil
from pathlib import Path
from typing import Any, Protocol

from uflow_cli.errors import UflowError
from uflow_cli.run.log import Epoch

FOLDER_NAME = "tensorboard"


class Observer(Protocol):
    """Hears how training goes; every method may be called many times."""

    def on_images(self, done: int, total: int) -> None:
        """`done` of `total` images were checked."""

    def on_features(self, done: int, total: int) -> None:
        """Features of `done` of `total` images are at hand; the first call says how many the cache held."""

    def on_batch(self, done: int, total: int) -> None:
        """`done` of `total` training images were seen, an image counting once per epoch."""

    def on_epoch(self, record: Epoch) -> None:
        """An epoch ended and its log line is written."""

    def on_flow(self, number: int, total: int) -> None:
        """Of `total` flows that hold out one part of the images each, training of `number`, from 2, begins."""

    def on_warning(self, message: str) -> None:
        """Something went otherwise than planned, and training goes on."""


class Together:
    """An observer that passes what it hears on to several."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def on_images(self, done: int, total: int) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.on_images(done, total)

    def on_features(self, done: int, total: int) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.on_features(done, total)

    def on_batch(self, done: int, total: int) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.on_batch(done, total)

    def on_epoch(self, record: Epoch) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.on_epoch(record)

    def on_flow(self, number: int, total: int) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.on_flow(number, total)

    def on_warning(self, message: str) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.on_warning(message)


class Silent(Together):
    """An observer that says nothing."""

    def __init__(self) -> None:
        super().__init__()


class TensorBoardLog(Silent):
    """An observer that writes scalars per epoch for TensorBoard into `<run folder>/tensorboard`."""

    def __init__(self, run_folder: Path) -> None:
        super().__init__()
        require_tensorboard()
        self.folder = run_folder / FOLDER_NAME
        self.writer: Any = None

    def on_epoch(self, record: Epoch) -> None:
        """Write the record.

        The first epoch of a training removes what an earlier training wrote there; the first of a resumed one removes
        what was written after it.
        """
        if self.writer is None:
            if record.epoch == 1:
                shutil.rmtree(self.folder, ignore_errors=True)
            writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
            self.writer = writer(str(self.folder), purge_step=None if record.epoch == 1 else record.epoch)
        for name, value in scalars(record).items():
            if math.isfinite(value):
                self.writer.add_scalar(name, value, record.epoch)
        self.writer.flush()

    def close(self) -> None:
        """Close the file; nothing happens where no epoch ended."""
        if self.writer is not None:
            self.writer.close()


def require_tensorboard() -> None:
    """UflowError unless TensorBoard is installed; asked before training, so that nobody waits for nothing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UflowError(
            '--tensorboard: TensorBoard is not installed; install it with `pip install "uflow-cli[tensorboard]"`, '
            "or leave the option out"
        )


def scalars(record: Epoch) -> dict[str, float]:
    """The figures of an epoch by the name under which TensorBoard shows them; losses are in bits per dimension."""
    return {
        "loss/training": record.loss,
        "loss/held-out": record.held_out_loss,
        **{f"mean square/scale {scale}": value for scale, value in enumerate(record.mean_squares, start=1)},
        "criterion": record.criterion,
        "learning rate": record.learning_rate,
        "images per second": record.images_per_second,
    }
