"""Extractor weights from files, and the networks they belong to. No hub is ever asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from uflow_cli.config import ModelConfig
from uflow_cli.errors import WeightsError
from uflow_cli.features import build_extractor
from uflow_cli.features.weights import read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A timm network, its weights, and the names that timm gives its stages of stride 4, 8, 16 and 32."""

    name: str
    weights: Mapping[str, Tensor]
    stages: tuple[str, str, str, str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def fill(self, network: nn.Module) -> None:
        """Put the weights into `network`, all of them or a WeightsError."""
        wanted = network.state_dict()
        missing = [key for key in wanted if key not in self.weights and not key.endswith("num_batches_tracked")]
        if missing:
            raise WeightsError(
                f"the weights given for {self.name} lack {len(missing)} of {len(wanted)}, such as {missing[0]}"
            )
        network.load_state_dict({key: self.weights.get(key, value) for key, value in wanted.items()})


def lite0_backbone() -> Backbone:
    """EfficientNet-Lite0 with the very weights that uflow's default extractor has."""
    extractor = build_extractor(ModelConfig(precision="fp32"), device=torch.device("cpu"))
    return Backbone(
        "tf_efficientnet_lite0",
        extractor.backbone.state_dict(),
        ("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
        extractor.spec.mean,
        extractor.spec.std,
    )


def resnet_backbone(path: Path) -> Backbone:
    """ResNet-18 or Wide-ResNet-50-2, whichever `path` holds (timm and torchvision use the same names)."""
    weights = read_weights(path)
    sizes = {"resnet18": (64, 3), "wide_resnet50_2": (128, 1)}
    first = weights.get("layer1.0.conv1.weight")
    found = None if first is None else (first.shape[0], first.shape[2])
    name = next((name for name, size in sizes.items() if size == found), None)
    if name is None:
        raise WeightsError(
            f"{path}: not the weights of one of {', '.join(sizes)}; expected a state dict of timm's names"
        )
    return Backbone(name, weights, ("layer1", "layer2", "layer3", "layer4"), IMAGENET_MEAN, IMAGENET_STD)


def b5_backbone(path: Path) -> Backbone:
    """EfficientNet-B5 by torchvision's names, CS-Flow's published extractor."""
    return Backbone("efficientnet_b5", read_weights(path), ("", "", "", ""), IMAGENET_MEAN, IMAGENET_STD)
