"""Anomalib's models on the extractor weights at hand, without a model hub.

Anomalib builds each model with weights that it downloads. Here it builds them without, and the weights of a file take
their place before anything runs; no model is ever left with random extractor weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
from anomalib.models import Cflow, Csflow, Fastflow, Padim, Patchcore
from anomalib.models.components import AnomalibModule, KCenterGreedy
from anomalib.models.image.cflow.anomaly_map import AnomalyMapGenerator
from anomalib.models.image.csflow import torch_model as csflow_model
from anomalib.models.image.fastflow.torch_model import create_fast_flow_block
from anomalib.pre_processing import PreProcessor
from peers_weights import Backbone
from torch import Tensor, nn
from torchvision.models import efficientnet_b5
from torchvision.transforms.v2 import Compose, Normalize, Resize

from uflow_cli.errors import WeightsError

CSFLOW_CHANNELS = 304  # anomalib's CS-Flow is built for this many
PADIM_FEATURES = {"wide_resnet50_2": 550}  # the paper's; 100 for everything smaller


def parts_for(backbone: Backbone, input_size: int) -> dict[str, Any]:
    """Arguments of every anomalib model here: the extractor's normalisation, raw scores, no metrics of anomalib's."""
    transform = Compose([Resize((input_size, input_size)), Normalize(backbone.mean, backbone.std)])
    return {
        "pre_processor": PreProcessor(transform),  # images come resized; anomalib reads the input size off this
        "post_processor": False,
        "evaluator": False,
        "visualizer": False,
    }


def build_patchcore(backbone: Backbone, input_size: int, *, coreset: float = 0.1) -> AnomalibModule:
    """PatchCore on strides 8 and 16, as published; `coreset` is the share of all patches that is kept."""
    model = Patchcore(
        backbone=backbone.name, layers=backbone.stages[1:3], pre_trained=False,
        coreset_sampling_ratio=coreset, **parts_for(backbone, input_size),
    )  # fmt: skip
    backbone.fill(model.model.feature_extractor.feature_extractor)
    return model


class KCenterByProducts(KCenterGreedy):
    """Anomalib's coreset by its own rule, with squared distances as |x|² - 2 x·c + |c|²: one pass, nothing copied.

    Anomalib subtracts the centre from all patches for each of its steps: 1.2 s of a busy core with 261,000 of them.
    """

    squared_norms: Tensor | None = None

    def update_distances(self, cluster_center: Tensor) -> None:
        """Take the patch at this index among the centres."""
        if self.squared_norms is None:
            self.squared_norms = self.features.square().sum(dim=1)
        centre = self.features[cluster_center]
        distances = torch.addmv(self.squared_norms, self.features, centre, alpha=-2).add_(centre @ centre)[:, None]
        self.min_distances = distances if self.min_distances is None else torch.minimum(self.min_distances, distances)


def build_padim(backbone: Backbone, input_size: int) -> AnomalibModule:
    """PaDiM on strides 4, 8 and 16, as published."""
    model = Padim(
        backbone=backbone.name, layers=list(backbone.stages[:3]), pre_trained=False,
        n_features=PADIM_FEATURES.get(backbone.name, 100), **parts_for(backbone, input_size),
    )  # fmt: skip
    backbone.fill(model.model.feature_extractor.feature_extractor)
    return model


def build_fastflow(backbone: Backbone, input_size: int) -> AnomalibModule:
    """FastFlow on strides 4, 8 and 16, as published.

    Anomalib knows four extractors by name. For any other, its ResNet-18 model is built, and extractor, norms and flow
    blocks are replaced by those that it would have made for the other's channels.
    """
    known = backbone.name in ("resnet18", "wide_resnet50_2")
    name = backbone.name if known else "resnet18"
    model = Fastflow(backbone=name, pre_trained=False, **parts_for(backbone, input_size))
    inner = model.model
    if not known:
        inner.feature_extractor = timm.create_model(backbone.name, features_only=True, out_indices=[1, 2, 3])
        inner.feature_extractor.requires_grad_(False)
        info = inner.feature_extractor.feature_info
        shapes = [
            [channels, input_size // stride, input_size // stride]
            for channels, stride in zip(info.channels(), info.reduction(), strict=True)
        ]
        inner.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in shapes)
        inner.fast_flow_blocks = nn.ModuleList(
            create_fast_flow_block(shape, model.conv3x3_only, model.hidden_ratio, model.flow_steps) for shape in shapes
        )
    backbone.fill(inner.feature_extractor)
    return model


class FixedReference(AnomalyMapGenerator):
    """CFlow's map with one reference per layer for all images.

    Anomalib divides the likelihoods of each layer by the highest one *of the batch*, and subtracts the sum from the
    highest one of the batch: an image's score depends on its neighbours, and no threshold can hold. Published is the
    highest over the whole test set. Here it is the highest over the training images.
    """

    def __init__(self, pool_layers: Sequence[str]) -> None:
        super().__init__(pool_layers)
        self.register_buffer("highest", torch.full((len(pool_layers),), -torch.inf))
        self.observing = False

    highest: Tensor

    def compute_anomaly_map(
        self, distribution: list[Tensor], height: list[int], width: list[int], image_size: Any
    ) -> Tensor:
        """One minus the mean over layers of likelihood / reference, (B, 1, H, W)."""
        if self.observing:
            self.highest = torch.maximum(self.highest, torch.stack([values.max() for values in distribution]))
        maps = [
            F.interpolate(
                torch.exp(values - highest).reshape(-1, 1, h, w), size=image_size, mode="bilinear", align_corners=True
            )
            for values, highest, h, w in zip(distribution, self.highest, height, width, strict=True)
        ]
        return 1.0 - torch.stack(maps).mean(dim=0)


def build_cflow(backbone: Backbone, input_size: int) -> AnomalibModule:
    """CFlow on strides 8, 16 and 32, as published."""
    model = Cflow(
        backbone=backbone.name, layers=backbone.stages[1:], pre_trained=False, **parts_for(backbone, input_size)
    )
    backbone.fill(model.model.encoder.feature_extractor)
    model.model.anomaly_map_generator = FixedReference(backbone.stages[1:])
    return model


class StridePyramid(nn.Module):
    """CS-Flow's pyramid, one stride-32 map per image size (1, 1/2, 1/4), from `backbone` instead of EfficientNet-B5.

    Of more channels than CS-Flow takes, an evenly spread choice is kept.
    """

    def __init__(self, backbone: Backbone, n_scales: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.sizes = [(input_size[0] // 2**scale, input_size[1] // 2**scale) for scale in range(n_scales)]
        network = timm.create_model(backbone.name, features_only=True, out_indices=[4])
        backbone.fill(network)
        self.network = network.eval().requires_grad_(False)
        n_channels = network.feature_info.channels()[0]
        if n_channels < CSFLOW_CHANNELS:
            raise WeightsError(
                f"{backbone.name} has {n_channels} channels at stride 32, CS-Flow needs {CSFLOW_CHANNELS}"
            )
        self.register_buffer("kept", torch.linspace(0, n_channels - 1, CSFLOW_CHANNELS).round().long())

    kept: Tensor

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 304, H_s, W_s) per image size."""
        self.network.eval()
        return [self.network(F.interpolate(images, size))[0][:, self.kept] for size in self.sizes]


def build_csflow(backbone: Backbone, input_size: int) -> AnomalibModule:
    """CS-Flow on the stride-32 map of `backbone`, or of EfficientNet-B5 where `backbone` is that."""
    if backbone.name == "efficientnet_b5":
        network = efficientnet_b5(weights=None)
        backbone.fill(network)
        replaced = mock.patch.object(csflow_model, "efficientnet_b5", return_value=network)
    else:
        replaced = mock.patch.object(
            csflow_model,
            "CsFlowMultiScaleFeatureExtractor",
            lambda n_scales, input_size: StridePyramid(backbone, n_scales, input_size),
        )
    with replaced:  # or anomalib would ask a hub for weights
        return Csflow(**parts_for(backbone, input_size))


BUILDERS: dict[str, Callable[[Backbone, int], AnomalibModule]] = {
    "patchcore": build_patchcore,
    "padim": build_padim,
    "fastflow": build_fastflow,
    "cflow": build_cflow,
    "csflow": build_csflow,
}
