"""Settings of a run: plain frozen dataclasses that go to JSON and back."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from uflow_cli.errors import UflowError

MIN_HELD_OUT = 8  # METHOD 7.1
FEW_IMAGES = 10  # below this many good images, training warns of what cannot be promised

Tests = Literal["paper", "by-size"]
Coupling = Literal["affine", "uniform"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
Schedule = Literal["one-cycle", "constant", "published"]


@dataclass(frozen=True)
class ModelConfig:
    """What fixes the map from an image to log-NFA values, beside the weights."""

    extractor: str = "efficientnet-lite0"
    input_size: int = 448  # side of the square input, in pixels
    tests: Tests = "by-size"  # METHOD 7.4; "paper" is eq. 9
    architecture: str = "u"  # or "average", scales side by side, or "single:N", scale N alone, 1 the finest (Table 6)
    coupling: Coupling = "affine"  # "uniform": a log-determinant that does not depend on the input (METHOD 7.5)

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"u|average|single:[1-9][0-9]?", str(self.architecture)) is not None,
            f"architecture {self.architecture!r}: u, average or single:N is needed, N the scale, 1 the finest",
        )
        _require(self.coupling in get_args(Coupling), f"coupling {self.coupling!r}: affine or uniform is needed")

    def scales(self, n_scales: int) -> tuple[int, ...]:
        """Which of an extractor's `n_scales` scales the flow sees, counted from 0; UflowError if there is no such."""
        kind, _, number = self.architecture.partition(":")
        if kind != "single":
            return tuple(range(n_scales))
        _require(
            int(number) <= n_scales,
            f"architecture {self.architecture}: {self.extractor} has {n_scales} scale{'s' if n_scales > 1 else ''}; "
            f"use single:1{f' to single:{n_scales}' if n_scales > 1 else ''}",
        )
        return (int(number) - 1,)


@dataclass(frozen=True)
class TrainingConfig:
    """How the flow is trained. The defaults are the lite preset's."""

    epochs: int | None = None  # None: see `n_epochs`
    batch_size: int = 8  # METHOD 5
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5  # METHOD 5
    schedule: Schedule = "one-cycle"  # see `training.schedule`
    warm_up: float = 0.1  # share of all steps over which the rate rises; "published" has none
    gradient_clip: float = 0.0  # largest norm of the gradient; 0: as it comes
    patience: int = 0  # epochs without a better one until training ends early; 0: never
    held_out_fraction: float = 0.15  # METHOD 7.1; 0: none, where something else chooses the epoch
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.epochs is None or self.epochs >= 1, f"epochs {self.epochs}: at least 1 is needed")
        _require(self.batch_size >= 1, f"batch size {self.batch_size}: at least 1 is needed")
        _require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            f"learning rate {self.learning_rate}: a positive number is needed",
        )
        _require(
            self.schedule in get_args(Schedule),
            f"schedule {self.schedule!r}: one of {', '.join(get_args(Schedule))} is needed",
        )
        _require(0 <= self.warm_up <= 1, f"warm-up {self.warm_up}: a share of all steps, from 0 to 1, is needed")
        _require(
            math.isfinite(self.gradient_clip) and self.gradient_clip >= 0,
            f"gradient clip {self.gradient_clip}: a positive number is needed, or 0 for none",
        )
        _require(self.patience >= 0, f"patience {self.patience}: a number of epochs is needed, or 0 for no early stop")
        _require(
            0 <= self.held_out_fraction < 1,
            f"held-out fraction {self.held_out_fraction}: a number from 0 to below 1 is needed",
        )
        _require(0 <= self.seed < 2**31, f"seed {self.seed}: a number from 0 to {2**31 - 1} is needed")

    def n_epochs(self, n_images: int) -> int:
        """Epochs for `n_images` training images: as given, or enough for 1600 steps, from 20 to 200."""
        if self.epochs is not None:
            return self.epochs
        steps_per_epoch = math.ceil(n_images / self.batch_size)
        return min(max(round(1600 / steps_per_epoch), 20), 200)


Config = TypeVar("Config", ModelConfig, TrainingConfig)


def config_from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """`kind` from a mapping as `dataclasses.asdict` gives it; UflowError names a key that does not belong."""
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UflowError(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return kind(**values)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UflowError(message)
