"""What chooses the epoch whose weights are kept."""

from __future__ import annotations

from typing import Protocol

from uflow_cli.model import Model


class Criterion(Protocol):
    """A number per epoch; the epoch with the best one is kept."""

    @property
    def name(self) -> str:
        """What is measured, and in what unit, for people."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value is the better one."""

    def value(self, model: Model, held_out_loss: float) -> float:
        """The epoch's value; `model` is in eval mode, `held_out_loss` nan where no images are held out."""


class HeldOutLoss:
    """Negative log-likelihood of good images that never trained the flow (METHOD 7.1)."""

    name = "held-out loss in bits per dimension"
    higher_is_better = False

    def value(self, model: Model, held_out_loss: float) -> float:  # noqa: ARG002 - other criteria look at the model
        """The held-out loss itself."""
        return held_out_loss
