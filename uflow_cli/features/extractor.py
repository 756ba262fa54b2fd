"""The frozen extractor: from 8-bit images to feature maps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from uflow_cli.features.spec import ExtractorSpec


class FeatureExtractor(nn.Module):
    """A frozen network in eval mode that maps images to feature maps.

    With precision "bf16" matrix products and convolutions run in bfloat16, all else and the result in float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, spec: ExtractorSpec, backbone: nn.Module, *, precision: Literal["fp32", "bf16"] = "fp32"
    ) -> None:
        super().__init__()
        self.spec, self.precision = spec, precision
        self.backbone = backbone.eval().requires_grad_(False)
        self.digest = weights_digest(backbone)  # of the weights as they came, not as rounded below
        if precision == "bf16":
            round_matrices(self.backbone)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> FeatureExtractor:  # noqa: ARG002 - frozen: batch statistics never move
        """Stay in eval mode: a frozen extractor has no training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of uint8 RGB `images` (B, 3, S, S): a list of (B, C_s, H_s, W_s) float32, finest first."""
        x = (images.to(self.mean.dtype) / 255.0 - self.mean) / self.std  # (B, 3, S, S)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            maps: list[Tensor] = self.backbone(x)
        return [feature_map.float() for feature_map in maps]


def round_matrices(network: nn.Module) -> None:
    """Keep the weights of plain linear and convolution layers in bfloat16.

    Autocast would round them to the very same values at every call: this halves their memory and saves that time.
    """
    for module in network.modules():
        if type(module) in (nn.Linear, nn.Conv2d):  # sub-classes may treat their weights before they use them
            module.to(torch.bfloat16)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over the weights of `network`: a model trained on other weights must not be used with these."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """(H, W, 3) uint8 tensors of one size as one (B, 3, H, W) batch."""
    return torch.stack(list(images)).permute(0, 3, 1, 2).contiguous()
