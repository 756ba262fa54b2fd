"""What a training tells: the log on disk and the observer beside it. Losses are in bits per dimension."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from uflow_cli.files import write_text


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
