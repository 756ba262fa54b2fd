"""CaiT tokens at one or more scales; MS-CaiT is the paper's extractor (docs/method.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm  # noqa: TID251
import torch
from timm.models.cait import TalkingHeadAttn  # noqa: TID251
from torch import Tensor, nn

from uflow_cli.config import Size
from uflow_cli.features.extractor import ExtractorSpec, choose_strides
from uflow_cli.features.networks import Intermediates, SideBySide, blank, hub_weights
from uflow_cli.features.weights import HubWeights, load_strictly, read_weights

QUERIES = 98  # per piece on a CPU: of 49, 98, 196, 392 and 784 the fastest or level with it, in both precisions


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

    @property
    def sources(self) -> tuple[HubWeights, ...]:
        """The weights of all networks."""
        return tuple(hub_weights(scale.network) for scale in self.scales)

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

    def skeleton(self, spec: ExtractorSpec, *, input_size: Size) -> nn.Module:  # noqa: ARG002 - it is fixed
        """The networks with random weights."""
        return SideBySide(self._networks(spec.strides))

    def load(self, spec: ExtractorSpec, files: Sequence[Path], *, input_size: Size) -> nn.Module:  # noqa: ARG002
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


class TalkingHeads(TalkingHeadAttn):  # type: ignore[misc]  # timm has no types
    """The same map as timm's, two to three times as fast on a CPU.

    CaiT mixes the heads before and after the softmax (arXiv 2003.02436), so that `scaled_dot_product_attention`, which
    treats heads apart, cannot compute it, and timm does not offer it. timm lays out the whole (H, N, N) attention anew
    before and after each mixing; here a mixing is one small matrix product on the layout that is there, on a CPU for
    some queries at a time. A GPU takes them all at once: it would wait for the launches of many small steps.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `x` (B, N, C) to (B, N, C)."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)  # (B, H, N, c)
        keys = k.transpose(-2, -1)  # (B, H, c, N)
        pieces = []
        step = QUERIES if x.device.type == "cpu" else int(n)
        sizes = [min(step, int(n) - start) for start in range(0, int(n), step)]  # spelled out: a graph is to have them
        for queries in (q * self.scale).split_with_sizes(sizes, dim=2):
            weights = mix_heads(self.proj_l, queries @ keys).softmax(dim=-1)  # (B, H, n, N)
            pieces.append(mix_heads(self.proj_w, weights) @ v)  # (B, H, n, c)
        out: Tensor = self.proj(torch.cat(pieces, dim=2).transpose(1, 2).reshape(b, n, c))
        return out


def mix_heads(mixing: nn.Linear, attention: Tensor) -> Tensor:
    """`mixing` applied over the heads of `attention` (B, H, n, N)."""
    b, heads = attention.shape[:2]
    weight = mixing.weight.to(attention.dtype).expand(b, heads, heads)
    bias = mixing.bias.to(attention.dtype).view(1, heads, 1)
    return torch.baddbmm(bias, weight, attention.flatten(2)).view_as(attention)
