"""One network that sees each image at several sizes, its maps of equal grid joined into one scale.

Written as `448:16 | 448:32+224:16 | 224:32`: SIZE:STRIDE names the map of that stride when the image is SIZE pixels
high and has the proportions of the input, `+` joins the channels of maps that have the same grid, `|` separates scales,
the finest first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uflow_cli.config import Size
from uflow_cli.errors import UflowError
from uflow_cli.features.extractor import Backbone, ExtractorSpec
from uflow_cli.features.weights import WeightsSource

SizedMap = tuple[int, int]  # side of the image and stride of the map, in pixels
EXAMPLE = "448:16 | 448:32+224:16 | 224:32"


def parse_scales(text: str) -> tuple[tuple[SizedMap, ...], ...]:
    """Size and stride of the maps of every scale; UflowError unless grids are equal in a scale and halve from it on."""
    scales: list[tuple[SizedMap, ...]] = []
    for part in text.split("|"):
        found = [re.fullmatch(r"\s*([1-9]\d{0,4}):([1-9]\d{0,3})\s*", term) for term in part.split("+")]
        if not all(found):
            raise UflowError(
                f"scales {text!r}: {part.strip()!r} is not SIZE:STRIDE or several joined by +; as {EXAMPLE}"
            )
        scales.append(tuple((int(match[1]), int(match[2])) for match in found if match))
    for size, stride in {pair for scale in scales for pair in scale}:
        if size % stride:
            raise UflowError(f"scales {text!r}: size {size} is no multiple of stride {stride}")
    grids = [{size // stride for size, stride in scale} for scale in scales]
    for scale, grid in zip(scales, grids, strict=True):
        if len(grid) > 1 or len(set(scale)) < len(scale):
            raise UflowError(f"scales {text!r}: {_written(scale)} joins maps of different grids, or one map twice")
    if any(min(fine) != 2 * min(coarse) for fine, coarse in pairwise(grids)):
        sides = ", ".join(str(min(grid)) for grid in grids)
        raise UflowError(f"scales {text!r}: grids have sides {sides}; each must be half the one before")
    return tuple(scales)


def _written(scale: Sequence[SizedMap]) -> str:
    return "+".join(f"{size}:{stride}" for size, stride in scale)


@dataclass(frozen=True)
class MultiSizeBackbone:
    """The network of `base` at the sizes that `scales` name, which are heights; images come at the largest."""

    base: Backbone
    scales: tuple[tuple[SizedMap, ...], ...]

    @property
    def name(self) -> str:
        """The name of its network."""
        return self.base.name

    @property
    def sources(self) -> tuple[WeightsSource, ...]:
        """The weights of its network."""
        return self.base.sources

    @property
    def input_size(self) -> int:
        """The largest size."""
        return max(size for scale in self.scales for size, _ in scale)

    def spec(self, strides: Sequence[int] | None) -> ExtractorSpec:
        """Joined channels; strides are in pixels of the largest size. UflowError for strides: `scales` name them."""
        if strides is not None:
            raise UflowError(f"strides {','.join(map(str, strides))} and scales were both given; drop one of them")
        base = self._base_spec()
        if base.fixed_input:
            raise UflowError(
                f"{self.name} takes images of {base.input_size} pixels alone; scales need another extractor"
            )
        channels = dict(zip(base.strides, base.channels, strict=True))
        return replace(
            base,
            channels=tuple(sum(channels[stride] for _, stride in scale) for scale in self.scales),
            strides=tuple(self.input_size * scale[0][1] // scale[0][0] for scale in self.scales),
            input_size=self.input_size,
            fixed_input=True,
            scales=" | ".join(_written(scale) for scale in self.scales),
        )

    def skeleton(self, spec: ExtractorSpec, *, input_size: Size) -> nn.Module:  # noqa: ARG002 - `scales` say all
        """The network with random weights."""
        base = self._base_spec()
        return SeveralSizes(self.base.skeleton(base, input_size=input_size), base.strides, self.scales)

    def load(self, spec: ExtractorSpec, files: Sequence[Path], *, input_size: Size) -> nn.Module:  # noqa: ARG002
        """The network with weights."""
        base = self._base_spec()
        return SeveralSizes(self.base.load(base, files, input_size=input_size), base.strides, self.scales)

    def _base_spec(self) -> ExtractorSpec:
        """The network's own specification with all strides that are used, and those between them."""
        used = {stride for scale in self.scales for _, stride in scale}
        chain = [min(used)]
        while chain[-1] < max(used):
            chain.append(2 * chain[-1])
        if not used <= set(chain):
            raise UflowError(f"scales use strides {', '.join(map(str, sorted(used)))}; each must be twice another")
        return self.base.spec(chain)


class SeveralSizes(nn.Module):
    """`network`, which gives maps of `strides`, run once on the image at each size that `scales` name."""

    def __init__(self, network: nn.Module, strides: Sequence[int], scales: Sequence[Sequence[SizedMap]]) -> None:
        super().__init__()
        self.network, self.strides, self.scales = network, tuple(strides), tuple(map(tuple, scales))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Joined maps of images `x` (B, 3, H, W), H the largest size: per scale (B, C_s, H_s, W_s)."""
        maps: dict[SizedMap, Tensor] = {}
        for size in dict.fromkeys(size for scale in self.scales for size, _ in scale):
            height, width = map(int, x.shape[-2:])  # int: fixed sizes, in a traced graph too
            image = x if size == height else F.interpolate(x, (size, size * width // height), mode="area")
            maps |= zip(((size, stride) for stride in self.strides), self.network(image), strict=True)
        return [torch.cat([maps[pair] for pair in scale], dim=1) for scale in self.scales]
