"""All extractors: find one by name, describe it, build it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import timm  # noqa: TID251
import torch

from uflow_cli.config import ModelConfig, Size, shown_size, sized_scales
from uflow_cli.errors import UflowError
from uflow_cli.features.cait import CAIT_M48, CAIT_S24, CaitBackbone
from uflow_cli.features.extractor import Backbone, ExtractorSpec, FeatureExtractor, choose_precision
from uflow_cli.features.lite import LiteBackbone
from uflow_cli.features.multi_size import MultiSizeBackbone, parse_scales
from uflow_cli.features.networks import PyramidBackbone, blank, blank_network
from uflow_cli.features.vit import VitBackbone, is_plain
from uflow_cli.features.weights import find_weights
from uflow_cli.text import in_one_line

TIMM_PREFIX = "timm:"

BACKBONES: tuple[Backbone, ...] = (
    *(LiteBackbone(number) for number in (0, 1, 2)),
    CaitBackbone("ms-cait", (CAIT_M48, CAIT_S24)),
    CaitBackbone("cait-m48", (CAIT_M48,)),
    # Weights by tag, lest another timm load others: torchvision's, the first and until 2022 timm's own.
    PyramidBackbone("resnet18", "resnet18.tv_in1k", strides=(4, 8, 16), normalisation="layer"),
    PyramidBackbone("wide_resnet50_2", "wide_resnet50_2.racm_in1k", strides=(4, 8, 16), normalisation="layer"),
    *(PyramidBackbone(f"efficientnet-b{n}", f"tf_efficientnet_b{n}.ns_jft_in1k") for n in range(8)),
    *(PyramidBackbone(f"mvitv2-{size}", f"mvitv2_{size}.fb_in1k") for size in ("tiny", "small", "base", "large")),
    VitBackbone("dinov2-small", "vit_small_patch14_reg4_dinov2.lvd142m"),
    VitBackbone("dinov2-base", "vit_base_patch14_reg4_dinov2.lvd142m"),
    VitBackbone("dinov3-small", "vit_small_patch16_dinov3.lvd1689m"),
    VitBackbone("dinov3-base", "vit_base_patch16_dinov3.lvd1689m"),
    VitBackbone("clip-base", "vit_base_patch16_clip_224.openai"),
    VitBackbone("siglip-base", "vit_base_patch16_siglip_224.webli"),
    VitBackbone("deit-small", "deit_small_patch16_224.fb_in1k"),
)
EXTRACTORS: dict[str, Backbone] = {backbone.name: backbone for backbone in BACKBONES}


def find_backbone(name: str) -> Backbone:
    """The backbone called `name`, also `timm:NAME`; UflowError with the closest known names if there is none."""
    if name in EXTRACTORS:
        return EXTRACTORS[name]
    if not name.startswith(TIMM_PREFIX):
        close = difflib.get_close_matches(name, [*EXTRACTORS, "timm:"], n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(close)}? " if close else ""
        raise UflowError(
            f"unknown extractor {name!r}; {meant}`uflow backbones` lists them, timm:NAME takes any of timm"
        )
    network = name.removeprefix(TIMM_PREFIX)
    architecture, _, tag = network.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        meant = f"; did you mean {' or '.join(TIMM_PREFIX + match for match in close)}?" if close else ""
        raise UflowError(f"timm {timm.__version__} knows no network {architecture!r}{meant}")
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and network not in tags:
        raise UflowError(f"timm knows no weights {tag!r} of {architecture}; known: {', '.join(tags) or 'none'}")
    return (VitBackbone if is_plain(blank_network(network)) else PyramidBackbone)(name, network)


def chosen_backbone(name: str, *, scales: str | None = None, blocks: tuple[int, ...] | None = None) -> Backbone:
    """The backbone called `name`, at several input sizes if `scales` name them, of these `blocks`.

    UflowError if there is no such, or it has no blocks to choose from.
    """
    backbone = find_backbone(name)
    if blocks is not None:
        if not isinstance(backbone, VitBackbone):
            raise UflowError(f"blocks can be chosen of plain transformers such as dinov2-small; {name} is none")
        backbone = replace(backbone, blocks=blocks)
    return backbone if scales is None else MultiSizeBackbone(backbone, parse_scales(scales))


def extractor_spec(config: ModelConfig) -> ExtractorSpec:
    """The specification of the extractor that `config` names; UflowError if there is no such or not these strides."""
    return chosen_backbone(config.extractor, scales=config.scales, blocks=config.blocks).spec(config.strides)


def needed_weights(config: ModelConfig) -> frozenset[str]:
    """The names, as timm's networks have them, of the weights that the extractor of `config` uses."""
    backbone = chosen_backbone(config.extractor, scales=config.scales, blocks=config.blocks)
    with blank():
        network = backbone.skeleton(backbone.spec(config.strides), input_size=config.input_size)
    return frozenset(re.sub(r"^(networks\.\d+\.)?network\.", "", name) for name in network.state_dict())


def build_extractor(config: ModelConfig, *, device: torch.device, pretrained: bool = True) -> FeatureExtractor:
    """The frozen extractor of `config` on `device`; WeightsError if its weights cannot be had.

    `pretrained=False` leaves random weights, for benchmarks.
    """
    backbone = chosen_backbone(config.extractor, scales=config.scales, blocks=config.blocks)
    spec = backbone.spec(config.strides)
    if config.extractor.startswith(TIMM_PREFIX) or config.scales is not None:
        check_maps(backbone, spec, input_size=config.input_size)
    if pretrained:
        files = find_weights(spec.name, spec.sources, config.weights or ())
        network = backbone.load(spec, files, input_size=config.input_size)
    else:
        network = backbone.skeleton(spec, input_size=config.input_size)
    precision = choose_precision(config.precision, device=device, embedded=spec.embedded)
    extractor = FeatureExtractor(spec, network, precision=precision)
    return extractor.to(device).to(memory_format=torch.channels_last)


def check_maps(backbone: Backbone, spec: ExtractorSpec, *, input_size: Size) -> None:
    """UflowError unless maps have the channels and grids that the network's own description promises."""
    try:
        with blank():
            network = backbone.skeleton(spec, input_size=input_size).eval()
        with torch.no_grad():
            maps = network(torch.empty(1, 3, *input_size, device="meta"))
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:  # how networks refuse a size
        reason = in_one_line(error)
        if "meta tensor" in reason:  # a network that looks at numbers cannot be asked without any
            return
        raise UflowError(
            f"{spec.name} cannot be built for input size {shown_size(input_size)}{f' ({reason})' if reason else ''}; "
            "choose another --input-size or another extractor"
        ) from error
    expected = [(c, h, w) for c, (h, w) in zip(spec.channels, spec.grids(input_size), strict=True)]
    found = [tuple(feature_map.shape[1:]) for feature_map in maps]
    if found != expected:
        raise UflowError(
            f"{spec.name} gives maps {found} at input size {shown_size(input_size)} where its strides call for "
            f"{expected}; choose another input size, other --strides or another extractor"
        )


@dataclass(frozen=True)
class ExtractorFacts:
    """Specification, size and files of an extractor, as `uflow backbones` shows them."""

    spec: ExtractorSpec
    n_parameters: int  # of what is used, not of the whole networks
    files: tuple[Path | None, ...]  # per source of the specification, None: not on this machine
    licences: tuple[str | None, ...]  # of the weights, per source, as timm states them


def describe_extractor(name: str, *, scales: str | None = None) -> ExtractorFacts:
    """Facts of extractor `name` with its own strides, or `scales`; nothing is asked of the network."""
    if scales is not None:
        scales = sized_scales(scales, find_backbone(name).spec(None).input_size)
    backbone = chosen_backbone(name, scales=scales)
    spec = backbone.spec(None)
    with blank():
        network = backbone.skeleton(spec, input_size=(spec.input_size, spec.input_size))
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    settings = [timm.models.get_pretrained_cfg(source.network) for source in spec.sources]
    licences = tuple(None if of is None else of.license for of in settings)
    return ExtractorFacts(spec, n_parameters, tuple(source.cached() for source in spec.sources), licences)
