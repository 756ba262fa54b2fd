"""From timm's whole network in single precision to what uflow runs, one saving at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import timm
import torch
import torch.nn.functional as F
from timm.models.cait import TalkingHeadAttn
from torch import Tensor, nn

from uflow_cli.features import find_backbone
from uflow_cli.features.cait import CaitBackbone, TalkingHeads
from uflow_cli.features.extractor import round_matrices
from uflow_cli.features.networks import Intermediates, SideBySide

SIDE = 448
Maps = Callable[[Tensor], list[Tensor]]


def steps(name: str, strides: Sequence[int] | None, *, device: torch.device) -> dict[str, Maps]:
    """The same maps by ever cheaper roads; all but the first give the maps of the extractor's scales."""
    backbone = find_backbone(name)
    spec = backbone.spec(strides)
    if isinstance(backbone, CaitBackbone):
        scales = [scale for scale in backbone.scales if scale.stride in spec.strides]
        wholes = [timm.create_model(s.network, img_size=s.side).eval().to(device) for s in scales]
        randomise(wholes)
        sides = [scale.side for scale in scales]
        pruned: nn.Module = SideBySide(
            [
                Intermediates(copy.deepcopy(whole), [scale.block], norm=True, side=scale.side)
                for whole, scale in zip(wholes, scales, strict=True)
            ]
        )
    else:
        pruned = backbone.skeleton(spec, input_size=(SIDE, SIDE)).eval().to(device)
        network = spec.sources[0].network
        sides = [SIDE]
        size = {"img_size": SIDE} if timm.models.get_pretrained_cfg(network).fixed_input_size else {}
        wholes = [timm.create_model(network, **size).eval().to(device)]
    channels_last = with_pieces(copy.deepcopy(pruned)).to(memory_format=torch.channels_last)
    rounded = copy.deepcopy(channels_last)
    round_matrices(rounded)

    def whole(x: Tensor) -> list[Tensor]:
        return [w.forward_features(resized(x, side)) for w, side in zip(wholes, sides, strict=True)]

    roads: dict[str, Maps] = {"whole network, fp32": whole, "no more than needed": pruned}
    if any(isinstance(module, TalkingHeadAttn) for module in pruned.modules()):
        roads["attention in pieces"] = with_pieces(copy.deepcopy(pruned))
    roads["channels-last"] = lambda x: channels_last(laid_out(x))
    roads["bf16 autocast"] = in_bf16(channels_last, device)
    roads["bf16, weights rounded once"] = in_bf16(rounded, device)
    return roads


def with_pieces(network: nn.Module) -> nn.Module:
    """`network` with uflow's attention in place of timm's; the weights are the same."""
    for module in network.modules():
        if type(module) is TalkingHeadAttn:
            module.__class__ = TalkingHeads
    return network


def randomise(networks: Sequence[nn.Module]) -> None:
    """Blocks that do something: CaiT starts with branches that are all but switched off."""
    for network in networks:
        for key, parameter in network.named_parameters():
            if "gamma" in key:
                parameter.fill_(0.1)


def in_bf16(network: nn.Module, device: torch.device) -> Maps:
    """`network` under autocast."""

    def maps(x: Tensor) -> list[Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            return network(laid_out(x))  # type: ignore[no-any-return]

    return maps


def laid_out(x: Tensor) -> Tensor:
    """`x` with channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def resized(x: Tensor, side: int) -> Tensor:
    """`x` as MS-CaiT's second network sees it."""
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="bicubic", align_corners=True)
