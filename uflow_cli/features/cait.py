"""CaiT tokens at one or more scales; MS-CaiT is the paper's extractor (METHOD 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm  # noqa: TID251
from torch import nn

from uflow_cli.features.blank import blank
from uflow_cli.features.intermediates import Intermediates, SideBySide
from uflow_cli.features.pyramid import hub_weights
from uflow_cli.features.spec import ExtractorSpec, choose_strides
from uflow_cli.features.talking_heads import TalkingHeads
from uflow_cli.features.weights import load_strictly, read_weights


@dataclass(frozen=True)
class CaitScale:
    """The tokens of one CaiT after block `block`, counted from 0, and its own final LayerNorm."""

    network: str  # timm's name
    block: int
    side: int  # of the image that it sees, in pixels
    stride: int  # in pixels of the extractor's input
    channels: int

    def tokens(self) -> Intermediates:
        """The network with random weights, without the blocks after `block` and without class attention."""
        network = timm.create_model(
            self.network, pretrained=False, img_size=self.side, attn_block=TalkingHeads, num_classes=0
        )
        tokens = Intermediates(network, [self.block], norm=True, side=self.side)
        network.cls_token = None  # older timm leaves it, and the digest of the weights would depend on timm
        return tokens


@dataclass(frozen=True)
class CaitBackbone:
    """One CaiT per scale, each trained apart, all seeing the same image at their own size. Finest first."""

    name: str
    scales: tuple[CaitScale, ...]

    def spec(self, strides: Sequence[int] | None) -> ExtractorSpec:
        """All scales, or those of `strides`."""
        offered = tuple(scale.stride for scale in self.scales)
        chosen = choose_strides(self.name, strides if strides is not None else offered, offered=offered)
        scales = self._scales(chosen)
        return ExtractorSpec(
            name=self.name,
            channels=tuple(scale.channels for scale in scales),
            strides=chosen,
            offered=offered,
            normalisation="none",  # the networks' own LayerNorm has done it
            sources=tuple(hub_weights(scale.network) for scale in scales),
            input_size=self.scales[0].side,
            fixed_input=True,
        )

    def skeleton(self, spec: ExtractorSpec, *, input_size: int) -> nn.Module:  # noqa: ARG002 - it is fixed
        """The networks with random weights."""
        return SideBySide(self._networks(spec.strides))

    def load(self, spec: ExtractorSpec, files: Sequence[Path], *, input_size: int) -> nn.Module:  # noqa: ARG002
        """The networks with weights; the parts that are cut away are neither made nor read."""
        with blank():
            networks = self._networks(spec.strides)
        for tokens, path, source in zip(networks, files, spec.sources, strict=True):
            load_strictly(tokens.network, read_weights(path), path=path, network=source.network)
        return SideBySide(networks)

    def _networks(self, strides: Sequence[int]) -> list[Intermediates]:
        return [scale.tokens() for scale in self._scales(strides)]

    def _scales(self, strides: Sequence[int]) -> list[CaitScale]:
        return [scale for scale in self.scales if scale.stride in strides]


CAIT_M48 = CaitScale("cait_m48_448.fb_dist_in1k", block=40, side=448, stride=16, channels=768)
CAIT_S24 = CaitScale("cait_s24_224.fb_dist_in1k", block=20, side=224, stride=32, channels=384)
