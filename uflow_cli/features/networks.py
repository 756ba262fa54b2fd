"""Networks of timm and the maps from their inside: ResNets, EfficientNets, MViTv2 and any `timm:NAME`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm  # noqa: TID251
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from uflow_cli.config import Size, plain_size, shown_size
from uflow_cli.errors import UflowError, WeightsError
from uflow_cli.features.extractor import ExtractorSpec, Normalisation, choose_strides, coarsest_strides
from uflow_cli.features.weights import HUB_FILES, HubWeights, load_strictly, read_weights
from uflow_cli.text import in_one_line

INITIALISERS = frozenset(  # methods of tensors, and functions of torch.nn.init, whose tensor may come by name
    {"uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "constant_", "kaiming_uniform_"}
)


@dataclass(frozen=True)
class PyramidBackbone:
    """The maps of one timm network at chosen strides; where several have one stride, the deepest.

    Unless told otherwise the features are normalised per channel: a residual stream or a linear bottleneck has a few
    channels of far larger variance than all others, and normalising over all of a map would squash those others.
    """

    name: str
    network: str  # timm's name, with the tag of the weights where it matters
    strides: tuple[int, ...] | None = None  # used unasked; None: `coarsest_strides`
    normalisation: Normalisation = "channel"

    @property
    def sources(self) -> tuple[HubWeights, ...]:
        """The weights of the one network."""
        return (hub_weights(self.network),)

    def spec(self, strides: Sequence[int] | None) -> ExtractorSpec:
        """Channels and strides as the network itself tells."""
        channels = dict(self._offered())
        offered = tuple(channels)
        own = self.strides or coarsest_strides(offered)
        chosen = choose_strides(self.name, own if strides is None else strides, offered=offered)
        settings = timm.models.get_pretrained_cfg(self.network)
        return ExtractorSpec(
            name=self.name,
            channels=tuple(channels[stride] for stride in chosen),
            strides=chosen,
            offered=offered,
            normalisation=self.normalisation,
            sources=self.sources,
            mean=_three(settings.mean),
            std=_three(settings.std),
        )

    def skeleton(self, spec: ExtractorSpec, *, input_size: Size) -> nn.Module:
        """The network with random weights, up to the coarsest stride."""
        return self._cut(self._create(input_size), spec)

    def load(self, spec: ExtractorSpec, files: Sequence[Path], *, input_size: Size) -> nn.Module:
        """The network with the weights in the one file, adapted to `input_size` where timm can do so."""
        [path] = files
        state = read_weights(path)
        error: Exception | None = None
        for n_classes in self._possible_classes(state):
            overlay = {"file": str(path), "num_classes": n_classes, "label_offset": 0, "custom_load": False}
            try:
                # With as many classes as the file, timm is strict: nothing may be missing.
                network = self._create(input_size, pretrained=True, pretrained_cfg_overlay=overlay)
            except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as raised:
                error = error or raised
            else:
                return self._cut(network, spec)
        network = self._cut(self._create(input_size), spec)
        if all(
            name in state and state[name].shape == value.shape for name, value in network.network.state_dict().items()
        ):
            load_strictly(network.network, state, path=path, network=self.network)  # only what is used is there
            return network
        raise WeightsError(
            f"{path} does not fit {self.network} at input size {shown_size(input_size)} ({in_one_line(error)})"
        ) from error

    def _possible_classes(self, state: Mapping[str, Tensor]) -> tuple[int, ...]:
        """How many classes the head in a file may have: it is not used, but all else is checked with it."""
        settings = timm.models.get_pretrained_cfg(self.network)
        names = (settings.classifier,) if isinstance(settings.classifier, str) else settings.classifier or ()
        for name in names:
            if f"{name}.weight" in state:
                return (int(state[f"{name}.weight"].shape[0]),)
        return settings.num_classes, 0

    def _create(self, input_size: Size, **options: Any) -> nn.Module:
        settings = timm.models.get_pretrained_cfg(self.network)
        size = {"img_size": plain_size(input_size)} if settings is not None and settings.fixed_input_size else {}
        network: nn.Module = timm.create_model(self.network, **{"pretrained": False, **size, **options})
        return network

    def _cut(self, network: nn.Module, spec: ExtractorSpec) -> Intermediates:
        maps = _maps(network, self.name)
        deepest = {stride: index for index, (stride, _) in enumerate(maps)}
        return Intermediates(network, [deepest[stride] for stride in spec.strides])

    def _offered(self) -> list[tuple[int, int]]:
        """Stride and channels of all maps, finest first."""
        return _maps(blank_network(self.network), self.name)


def _maps(network: nn.Module, name: str) -> list[tuple[int, int]]:
    """Stride and channels of all maps that `network` gives, finest first; UflowError if it gives none."""
    information = getattr(network, "feature_info", None)
    if not information or not hasattr(network, "prune_intermediate_layers"):
        raise UflowError(f"{name}: timm {timm.__version__} gives no feature maps of this network; choose another")
    return [(int(entry["reduction"]), int(entry["num_chs"])) for entry in information]


def hub_weights(network: str) -> HubWeights:
    """Where the weights of timm's `network` are kept."""
    settings = timm.models.get_pretrained_cfg(network)
    if settings is None:
        return HubWeights(network, None)
    name = f"{settings.architecture}.{settings.tag}" if settings.tag else settings.architecture
    files = (settings.hf_hub_filename,) if settings.hf_hub_filename else HUB_FILES
    url = settings.url if isinstance(settings.url, str) else None
    return HubWeights(name, settings.hf_hub_id, files, url)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    r, g, b = values
    return float(r), float(g), float(b)


class Intermediates(nn.Module):
    """The maps of `network` after the blocks or stages `indices`; what comes after the last of them is dropped.

    With `norm` each map goes through the network's own final LayerNorm. With `side` the input is first resized to that
    many pixels (bicubic, corners aligned, no antialiasing: docs/method.md, section 1).
    """

    def __init__(
        self, network: nn.Module, indices: Sequence[int], *, norm: bool = False, side: int | None = None
    ) -> None:
        super().__init__()
        self.indices: list[int] = list(network.prune_intermediate_layers(list(indices), prune_norm=not norm))  # type: ignore[operator]  # timm's
        self.network, self.norm, self.side = network, norm, side

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of normalised images `x` (B, 3, H, W), in the order of `indices`, each (B, C, H, W)."""
        if self.side is not None and x.shape[-1] != self.side:
            x = F.interpolate(x, (self.side, self.side), mode="bicubic", align_corners=True)
        maps: list[Tensor] = self.network.forward_intermediates(  # type: ignore[operator]  # timm's
            x, indices=self.indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )
        return maps


class SideBySide(nn.Module):
    """Networks that see the same images; their maps one after the other."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """All maps of images `x` (B, 3, H, W)."""
        return [feature_map for network in self.networks for feature_map in network(x)]


class _SkipInitialisers(TorchFunctionMode):
    """Leaves out the in-place operations that draw initial weights; on the meta device they are slow and do nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in INITIALISERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def blank() -> Iterator[None]:
    """Networks made inside stand on the meta device: they have shapes but no numbers."""
    with torch.device("meta"), _SkipInitialisers():
        yield


@functools.lru_cache(maxsize=1)
def blank_network(network: str) -> nn.Module:
    """timm's whole `network` on the meta device, to be asked what maps it has; it is shared, and not to be changed."""
    with blank():
        made: nn.Module = timm.create_model(network, pretrained=False)
    return made
