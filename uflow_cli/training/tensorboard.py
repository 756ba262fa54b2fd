"""The training log for TensorBoard, where it is installed: scalars per epoch below the run folder."""

from __future__ import annotations

import importlib
import importlib.util
import math
import shutil
from pathlib import Path
from typing import Any

from uflow_cli.errors import UflowError
from uflow_cli.training.log import Epoch, Observer, Silent

FOLDER_NAME = "tensorboard"


def require_tensorboard() -> None:
    """UflowError unless TensorBoard is installed; before training, so that nobody waits for nothing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UflowError(
            '--tensorboard: TensorBoard is not installed; install it with `pip install "uflow-cli[tensorboard]"`, '
            "or leave the option out"
        )


class TensorBoardLog(Silent):
    """An observer that writes what every epoch tells into `<run folder>/tensorboard`."""

    def __init__(self, run_folder: Path) -> None:
        require_tensorboard()
        self.folder = run_folder / FOLDER_NAME
        self.writer: Any = None

    def on_epoch(self, record: Epoch) -> None:
        """Write the record; the first of a training replaces what another left, of a resumed one what came after."""
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


class Together:
    """Observers that hear the same."""

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

    def on_warning(self, message: str) -> None:
        """Pass it on."""
        for observer in self.observers:
            observer.on_warning(message)


def scalars(record: Epoch) -> dict[str, float]:
    """What TensorBoard shows of an epoch, by the name it stands under; losses are in bits per dimension."""
    return {
        "loss/training": record.loss,
        "loss/held-out": record.held_out_loss,
        **{f"mean square/scale {scale}": value for scale, value in enumerate(record.mean_squares, start=1)},
        "criterion": record.criterion,
        "learning rate": record.learning_rate,
        "images per second": record.images_per_second,
    }
