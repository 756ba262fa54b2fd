"""What can be known of an extractor before it is built: scales, input, normalisation and the weights that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from uflow_cli.errors import UflowError
from uflow_cli.features.sources import WeightsSource

Normalisation = Literal["layer", "channel", "none"]  # see `FeatureNormalisation`

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ExtractorSpec:
    """A set of feature maps (C_s, H_s, W_s), finest first, each stride twice the one before."""

    name: str
    channels: tuple[int, ...]  # per scale, finest first
    strides: tuple[int, ...]  # input pixels per cell, each twice the one before
    offered: tuple[int, ...]  # all strides that can be chosen from
    normalisation: Normalisation
    sources: tuple[WeightsSource, ...]  # one per network
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_size: int = 448  # default side of the square input, in pixels
    fixed_input: bool = False  # whether no other side will do
    embedded: bool = False  # whether it is meant for any machine, see `choose_precision`

    def grids(self, input_size: int) -> tuple[tuple[int, int], ...]:
        """Feature grids (H_s, W_s) for a square input of `input_size` pixels, finest first."""
        return tuple((input_size // stride, input_size // stride) for stride in self.strides)


def choose_strides(name: str, asked: Sequence[int], *, offered: Sequence[int]) -> tuple[int, ...]:
    """`asked` strides, finest first; UflowError with the `offered` ones unless they are there and double."""
    has = f"{name} has {', '.join(map(str, offered))}"
    missing = [stride for stride in asked if stride not in offered]
    if missing or not asked:
        raise UflowError(f"stride {missing[0] if missing else 'list is empty'}: not to be had; {has}")
    if any(coarse != 2 * fine for fine, coarse in pairwise(asked)):
        raise UflowError(f"strides {','.join(map(str, asked))}: each must be twice the one before; {has}")
    return tuple(asked)


def coarsest_strides(offered: Sequence[int], *, n_scales: int = 3, coarsest: int = 32) -> tuple[int, ...]:
    """The last `n_scales` of the `offered` strides up to `coarsest` that double: what a backbone gives unasked."""
    chain: list[int] = []
    for stride in sorted(set(offered), reverse=True):
        if (not chain and stride <= coarsest) or (chain and 2 * stride == chain[0] and len(chain) < n_scales):
            chain.insert(0, stride)
    return tuple(chain or [min(offered)])


def check_input_size(spec: ExtractorSpec, input_size: int) -> None:
    """Raise UflowError unless `input_size` is the extractor's own, or a positive multiple of the coarsest stride."""
    if spec.fixed_input:
        if input_size != spec.input_size:
            raise UflowError(
                f"input size {input_size} does not fit {spec.name}: "
                f"its position embeddings are made for {spec.input_size} alone"
            )
        return
    coarsest = max(spec.strides)
    if input_size < 2 * coarsest or input_size % coarsest:
        raise UflowError(
            f"input size {input_size} does not fit {spec.name}: use a multiple of {coarsest}, at least {2 * coarsest}"
        )
