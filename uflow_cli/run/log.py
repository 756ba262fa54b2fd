"""The training log of a run: `log.csv`, a line per epoch, and `loss.svg`, a picture of it.

Losses are in bits per dimension.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from uflow_cli.charts import LossPoint, loss_picture
from uflow_cli.files import write_text
from uflow_cli.schema import NumberOrNan, record

LOG_NAME = "log.csv"
CURVE_NAME = "loss.svg"


@record
class Epoch:
    """One line of the training log."""

    epoch: int  # from 1
    n_epochs: int
    loss: float
    held_out_loss: NumberOrNan  # nan where no images are held out
    learning_rate: float
    seconds: float  # spent on training the flow so far, over all resumptions
    best: bool
    images_per_second: float  # while the flow was trained
    mean_squares: tuple[
        NumberOrNan, ...
    ]  # mean of z² over the held-out images per scale, finest first; 1 where they fit
    criterion: NumberOrNan  # the value that chooses the epoch


def write_log(folder: Path, log: Sequence[Epoch], *, title: str) -> None:
    """Write the log of the run in `folder` as CSV with a header, and its losses as an SVG picture."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(log[0]) if log else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_columns(epoch) for epoch in log)
    write_text(folder / LOG_NAME, text.getvalue())
    points = [LossPoint(epoch.epoch, epoch.loss, epoch.held_out_loss) for epoch in log]
    best_epoch = max((epoch.epoch for epoch in log if epoch.best), default=None)
    write_text(folder / CURVE_NAME, loss_picture(points, best_epoch=best_epoch, title=title))


def _columns(epoch: Epoch) -> dict[str, str]:
    """Cells by column; a field with a value per scale has a column per scale, numbered from 1, the finest."""
    cells: dict[str, str] = {}
    for name in (field.name for field in fields(Epoch)):
        value = getattr(epoch, name)
        if isinstance(value, tuple):
            cells |= {f"{name.removesuffix('s')}_{scale}": _cell(v) for scale, v in enumerate(value, start=1)}
        else:
            cells[name] = _cell(value)
    return cells


def _cell(value: float | bool) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(int(value))
