"""What an extractor has to say for itself to be on the list (`catalogue`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from uflow_cli.features.spec import ExtractorSpec


class Backbone(Protocol):
    """One or more pretrained networks whose inner maps are an extractor's scales."""

    @property
    def name(self) -> str:
        """What users call it."""

    def spec(self, strides: Sequence[int] | None) -> ExtractorSpec:
        """Its specification with the chosen `strides`, or its own; UflowError for strides that it cannot give."""

    def skeleton(self, spec: ExtractorSpec, *, input_size: int) -> nn.Module:
        """The networks with random weights, cut down to what `spec` needs: images (B, 3, S, S) to a list of maps."""

    def load(self, spec: ExtractorSpec, files: Sequence[Path], *, input_size: int) -> nn.Module:
        """The same with the weights in `files`, one per source of `spec`; WeightsError if they do not fit."""
