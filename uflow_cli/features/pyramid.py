"""Any timm network that gives maps from its inside: ResNets, EfficientNets, MViTv2 and `timm:NAME`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm  # noqa: TID251
from torch import Tensor, nn

from uflow_cli.errors import UflowError, WeightsError
from uflow_cli.features.blank import blank
from uflow_cli.features.intermediates import Intermediates
from uflow_cli.features.sources import HUB_FILES, HubWeights
from uflow_cli.features.spec import ExtractorSpec, Normalisation, choose_strides, coarsest_strides
from uflow_cli.features.weights import read_weights


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

    def spec(self, strides: Sequence[int] | None) -> ExtractorSpec:
        """Channels and strides as the network itself tells."""
        channels = self._channels_by_stride()
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
            sources=(hub_weights(self.network),),
            mean=_three(settings.mean),
            std=_three(settings.std),
        )

    def skeleton(self, spec: ExtractorSpec, *, input_size: int) -> nn.Module:
        """The network with random weights, up to the coarsest stride."""
        return self._cut(self._create(input_size), spec)

    def load(self, spec: ExtractorSpec, files: Sequence[Path], *, input_size: int) -> nn.Module:
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
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} does not fit {self.network} at input size {input_size} ({reason[:200]})") from error

    def _possible_classes(self, state: Mapping[str, Tensor]) -> tuple[int, ...]:
        """How many classes the head in a file may have: it is not used, but all else is checked with it."""
        settings = timm.models.get_pretrained_cfg(self.network)
        names = (settings.classifier,) if isinstance(settings.classifier, str) else settings.classifier or ()
        for name in names:
            if f"{name}.weight" in state:
                return (int(state[f"{name}.weight"].shape[0]),)
        return settings.num_classes, 0

    def _create(self, input_size: int, **options: Any) -> nn.Module:
        settings = timm.models.get_pretrained_cfg(self.network)
        size = {"img_size": input_size} if settings is not None and settings.fixed_input_size else {}
        network: nn.Module = timm.create_model(self.network, **{"pretrained": False, **size, **options})
        return network

    def _cut(self, network: nn.Module, spec: ExtractorSpec) -> Intermediates:
        maps = _maps(network, self.name)
        deepest = {stride: index for index, (stride, _) in enumerate(maps)}
        return Intermediates(network, [deepest[stride] for stride in spec.strides])

    def _channels_by_stride(self) -> dict[int, int]:
        with blank():
            network = timm.create_model(self.network, pretrained=False)
        return dict(_maps(network, self.name))


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
