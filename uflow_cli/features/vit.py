"""Plain vision transformers, whose blocks all have one grid: DINOv2 and v3, CLIP, SigLIP, DeiT, and others of timm.

Their one scale is the mean of several middle blocks: early ones know too little, late ones forget where. Several scales
come from one network that sees the image at several sizes (`--scales "448:14 | 224:14"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import timm  # noqa: TID251
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uflow_cli.config import Size
from uflow_cli.errors import UflowError
from uflow_cli.features.extractor import ExtractorSpec
from uflow_cli.features.networks import Intermediates, PyramidBackbone


@dataclass(frozen=True)
class VitBackbone(PyramidBackbone):
    """The mean of the tokens after `blocks`, counted from 1, of one transformer, at any size that its patches fit.

    Position embeddings are interpolated to the size at hand. The tokens of a block are normalised one by one, so that
    no block outweighs the others; of the mean, channels are normalised, for a few of them are far larger than all
    others.
    """

    blocks: tuple[int, ...] | None = None  # None: the middle half

    def spec(self, strides: Sequence[int] | None) -> ExtractorSpec:
        """One scale, of the patches' size; UflowError for blocks that it does not have."""
        return replace(super().spec(strides), blocks=self._chosen(len(self._offered())))

    def _chosen(self, depth: int) -> tuple[int, ...]:
        blocks = self.blocks or tuple(range(depth // 4 + 1, depth - depth // 4 + 1))
        if missing := [block for block in blocks if not 1 <= block <= depth]:
            raise UflowError(f"blocks: {self.name} has 1 to {depth}, not {missing[0]}")
        return tuple(sorted(set(blocks)))

    def _create(self, input_size: Size, **options: Any) -> nn.Module:  # noqa: ARG002 - any that the patches fit
        network: nn.Module = timm.create_model(
            self.network, **{"pretrained": False, "dynamic_img_size": True, **options}
        )
        return network

    def _cut(self, network: nn.Module, spec: ExtractorSpec) -> MeanOfBlocks:
        return MeanOfBlocks(network, [block - 1 for block in spec.blocks or ()])


class MeanOfBlocks(Intermediates):
    """One map: the mean over blocks of tokens that are normalised over their channels."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """One map (B, C, H, W) of normalised images `x` (B, 3, S, S)."""
        maps = [F.layer_norm(m.permute(0, 2, 3, 1), (m.shape[1],)).permute(0, 3, 1, 2) for m in super().forward(x)]
        return [torch.stack(maps).mean(dim=0)]


def is_plain(network: nn.Module) -> bool:
    """Whether all maps of a timm `network` have one grid, and it takes images of other sizes than it was made for."""
    reductions = {entry["reduction"] for entry in getattr(network, "feature_info", None) or ()}
    return len(reductions) == 1 and hasattr(network, "dynamic_img_size")
