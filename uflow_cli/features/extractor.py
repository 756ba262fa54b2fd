"""An extractor: what is known of it before it is built, and the frozen network that turns images into feature maps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from uflow_cli.config import Precision, Size, shown_size
from uflow_cli.errors import UflowError
from uflow_cli.features.weights import WeightsSource

Normalisation = Literal["layer", "channel", "none"]  # see `FeatureNormalisation`

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CPU_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})  # instructions that multiply bfloat16 matrices
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class ExtractorSpec:
    """A set of feature maps (C_s, H_s, W_s), finest first, each stride twice the one before."""

    name: str
    channels: tuple[int, ...]  # per scale, finest first
    strides: tuple[int, ...]  # input pixels per cell, each twice the one before
    offered: tuple[int, ...]  # all strides that can be chosen from
    normalisation: Normalisation
    sources: tuple[WeightsSource, ...]  # one per network
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_size: int = 448  # default side of the square input, in pixels; with `scales` the height of the largest
    fixed_input: bool = False  # whether no other side will do; with `scales` no other height
    embedded: bool = False  # whether it is meant for any machine, see `choose_precision`
    scales: str | None = None  # maps of several input sizes, see `multi_size`
    blocks: tuple[int, ...] | None = None  # of a plain transformer whose mean is a map, counted from 1, see `vit`

    def grids(self, input_size: Size) -> tuple[Size, ...]:
        """Feature grids (H_s, W_s) for an input of `input_size` pixels, finest first."""
        height, width = input_size
        return tuple((height // stride, width // stride) for stride in self.strides)


def choose_strides(name: str, asked: Sequence[int], *, offered: Sequence[int]) -> tuple[int, ...]:
    """`asked` strides, finest first; UflowError with the `offered` ones unless they are there and double."""
    has = f"{name} has {', '.join(map(str, offered))}"
    missing = [stride for stride in asked if stride not in offered]
    if missing or not asked:
        raise UflowError(f"stride {missing[0] if missing else 'list is empty'}: not to be had; {has}")
    if any(coarse != 2 * fine for fine, coarse in pairwise(asked)):
        raise UflowError(f"strides {','.join(map(str, asked))}: each must be twice the one before; {has}")
    return tuple(asked)


def coarsest_strides(offered: Sequence[int], *, n_scales: int = 3, coarsest: int = 32) -> tuple[int, ...]:
    """The last `n_scales` of the `offered` strides up to `coarsest` that double: what a backbone gives unasked."""
    chain: list[int] = []
    for stride in sorted(set(offered), reverse=True):
        if (not chain and stride <= coarsest) or (chain and 2 * stride == chain[0] and len(chain) < n_scales):
            chain.insert(0, stride)
    return tuple(chain or [min(offered)])


def check_input_size(spec: ExtractorSpec, input_size: Size) -> None:
    """Raise UflowError unless `input_size` is the extractor's own, or positive multiples of the coarsest stride."""
    own, misfit = spec.input_size, f"input size {shown_size(input_size)} does not fit {spec.name}"
    if spec.scales and input_size[0] != own:
        raise UflowError(f"{misfit}: the largest of its scales is {own}, which is the height of the input")
    if spec.fixed_input and not spec.scales:
        if input_size != (own, own):
            raise UflowError(f"{misfit}: its position embeddings are made for {own} x {own} alone")
        return
    coarsest = max(spec.strides)
    if any(side < 2 * coarsest or side % coarsest for side in input_size):
        raise UflowError(f"{misfit}: use a multiple of {coarsest}, at least {2 * coarsest}")


class Backbone(Protocol):
    """One or more pretrained networks whose inner maps are an extractor's scales."""

    @property
    def name(self) -> str:
        """The name that users give."""

    @property
    def sources(self) -> tuple[WeightsSource, ...]:
        """The weights of its networks, of all its scales."""

    def spec(self, strides: Sequence[int] | None) -> ExtractorSpec:
        """Its specification with the chosen `strides`, or its own; UflowError for strides that it cannot give."""

    def skeleton(self, spec: ExtractorSpec, *, input_size: Size) -> nn.Module:
        """The networks with random weights, cut down to what `spec` needs: images (B, 3, H, W) to a list of maps."""

    def load(self, spec: ExtractorSpec, files: Sequence[Path], *, input_size: Size) -> nn.Module:
        """The same with the weights in `files`, one per source of `spec`; WeightsError if they do not fit."""


class Extractor(Protocol):
    """A frozen network that maps images to feature maps, on whichever engine."""

    @property
    def spec(self) -> ExtractorSpec:
        """What is known of it."""

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """Of matrix products and convolutions."""

    @property
    def digest(self) -> str:
        """Of its weights, as they came."""

    @property
    def engine(self) -> dict[str, str]:
        """Names and versions of what computes beside PyTorch, which every extractor comes from."""

    @property
    def is_batched(self) -> bool:
        """Whether the last bits of an image's features may follow how many images are computed together."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Features of uint8 RGB `images` (B, 3, H, W): a list of (B, C_s, H_s, W_s) float32, finest first."""


class FeatureExtractor(nn.Module):
    """A frozen network in eval mode that maps images to feature maps.

    With precision "bf16" matrix products and convolutions run in bfloat16, all else and the result in float32.
    """

    mean: Tensor
    std: Tensor
    is_batched = True

    def __init__(
        self, spec: ExtractorSpec, backbone: nn.Module, *, precision: Literal["fp32", "bf16"] = "fp32"
    ) -> None:
        super().__init__()
        self.spec, self.precision = spec, precision
        self.backbone = backbone.eval().requires_grad_(False)
        self.digest = weights_digest(backbone.state_dict())  # of the weights as they came, not as rounded below
        if precision == "bf16":
            round_matrices(self.backbone)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    @property
    def engine(self) -> dict[str, str]:
        """PyTorch computes."""
        return {}

    def train(self, mode: bool = True) -> FeatureExtractor:  # noqa: ARG002 - frozen: batch statistics never move
        """Stay in eval mode: a frozen extractor has no training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of uint8 RGB `images` (B, 3, H, W): a list of (B, C_s, H_s, W_s) float32, finest first."""
        x = (images.to(self.mean.dtype) / 255.0 - self.mean) / self.std  # (B, 3, H, W)
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


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the weights of a network: a model trained on other weights must not be used with these."""
    digest = hashlib.sha256()
    for key, value in sorted(weights.items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """(H, W, 3) uint8 tensors of one size as one (B, 3, H, W) batch."""
    return torch.stack(list(images)).permute(0, 3, 1, 2).contiguous()


def choose_precision(precision: Precision, *, device: torch.device, embedded: bool = False) -> Literal["fp32", "bf16"]:
    """`precision`; for "auto" bf16 where `device` has instructions for it and so gains, else fp32.

    An `embedded` extractor stays in fp32: a run keeps its precision, its machine may be any, and bf16 is slow on most.
    """
    if precision != "auto":
        return precision
    if embedded:
        return "fp32"
    gains = torch.cuda.get_device_capability(device) >= (8, 0) if device.type == "cuda" else cpu_has_bf16()
    return "bf16" if gains else "fp32"


def cpu_has_bf16(info: Path = CPU_INFO) -> bool:
    """Whether this machine's processor multiplies bfloat16 matrices; False where that cannot be told."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and not CPU_FLAGS.isdisjoint(line.split()) for line in lines)
