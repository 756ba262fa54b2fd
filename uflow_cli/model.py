"""From images to embeddings: the frozen extractor and the flow in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from uflow_cli.config import DeviceChoice, ModelConfig
from uflow_cli.errors import CheckpointError, UflowError
from uflow_cli.features import (
    Extractor,
    FeatureNormalisation,
    build_extractor,
    check_input_size,
    extractor_spec,
    stack_images,
)
from uflow_cli.features.gaussian import FeatureGaussians
from uflow_cli.features.neighbours import FeatureNeighbours
from uflow_cli.flow import UFlow
from uflow_cli.flow.likelihood import squared_norms
from uflow_cli.images import resize_image

PREPROCESSING_VERSION = 1  # raise it when images are read, resized or normalised in another way: kept features go stale
GPU_BATCH = 8  # images, in detection


@dataclass(frozen=True)
class Model:
    """A frozen extractor, a flow and the configuration that joins them, on one device."""

    config: ModelConfig
    extractor: Extractor
    normalisation: FeatureNormalisation
    flow: UFlow
    device: torch.device
    gaussians: FeatureGaussians | None = None
    neighbours: FeatureNeighbours | None = None

    @property
    def witnesses(self) -> dict[str, FeatureGaussians | FeatureNeighbours]:
        """The sources of evidence beside the flow, by name, in their order."""
        all_there_are = {"gaussians": self.gaussians, "neighbours": self.neighbours}
        return {name: module for name, module in all_there_are.items() if module is not None}

    @property
    def scales(self) -> tuple[int, ...]:
        """The extractor's scales that the flow sees, counted from 0, the finest."""
        return self.config.flow_scales(len(self.extractor.spec.channels))

    def features(self, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        """Features of RGB `images`, each (H, W, 3) of any size: (B, C_s, H_s, W_s) per scale, not yet normalised."""
        size = self.config.input_size
        batch = stack_images([torch.from_numpy(resize_image(image, size)) for image in images])  # (B, 3, H, W)
        batch = batch.to(self.device).contiguous(memory_format=torch.channels_last)
        return self.extractor(batch)

    def embed(self, features: Sequence[Tensor], noise: Sequence[Tensor] = ()) -> tuple[list[Tensor], Tensor]:
        """Embeddings of `features`, per scale (B, C_s, H_s, W_s), and the flow's log_det_jacobian (B,).

        `noise`, of the same shapes for each scale that the flow sees, is added to the normalised features.
        """
        normalised = self.normalisation(features)
        seen = [normalised[scale] for scale in self.scales]
        if noise:
            seen = [of_scale + added for of_scale, added in zip(seen, noise, strict=True)]
        embeddings, log_det_jacobian = self.flow(seen)
        return list(embeddings), log_det_jacobian

    @torch.inference_mode()
    def embeddings(self, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        """Embeddings of RGB `images`: (B, C_s, H_s, W_s) per scale, finest first; N(0, 1) on good images."""
        return self.embed(self.features(images))[0]

    def evidence(self, features: Sequence[Tensor], embeddings: Sequence[Tensor]) -> list[Tensor]:
        """U maps (B, H_s, W_s) of all sources: of the flow's scales, finest first, then of the witnesses."""
        own = [features[scale] for scale in self.scales]
        return [*squared_norms(embeddings), *(u for witness in self.witnesses.values() for u in witness(own))]

    @torch.inference_mode()
    def evidence_maps(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """U maps (B, H_s, W_s) of RGB `images`, each (H, W, 3) of any size, of every source, as `evidence` has them."""
        features = self.features(images)
        maps = [u.cpu().numpy() for u in self.evidence(features, self.embed(features)[0])]
        if not all(np.isfinite(u).all() for u in maps):
            raise CheckpointError("the weights of this model give no finite evidence: they are damaged; train it again")
        return maps

    @property
    def reach(self) -> tuple[int, ...]:
        """How far, in cells, a strange cell spreads in each scale of the flow."""
        return self.flow.reach

    @property
    def batch_size(self) -> int:
        """Images to take at a time: on a CPU one, so that no verdict depends on its neighbours to the last bit."""
        return 1 if self.device.type == "cpu" else GPU_BATCH

    @property
    def source_channels(self) -> tuple[int, ...]:
        """Channels that U of each source sums over: those of the flow's embeddings, then of the witnesses."""
        return (*self.flow.embedding_channels, *(n for one in self.witnesses.values() for n in one.n_channels))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training sets, on the CPU: flow, normalisation and witnesses."""
        return {
            f"{name}.{key}": value.detach().cpu().contiguous()
            for name, module in self._modules.items()
            for key, value in module.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`; RuntimeError if it does not fit."""
        for name, module in self._modules.items():
            prefix = f"{name}."
            module.load_state_dict(
                {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            )
            module.to(self.device)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"flow": self.flow, "normalisation": self.normalisation, **self.witnesses}


def check_model_config(config: ModelConfig) -> None:
    """UflowError unless the extractor is known, has the scales of the architecture, and takes the input size."""
    spec = extractor_spec(config)
    config.flow_scales(len(spec.channels))
    check_input_size(spec, config.input_size)


def build_model(config: ModelConfig, *, device: torch.device, seed: int = 0, pretrained: bool = True) -> Model:
    """An extractor with its weights and an untrained flow whose initial state `seed` fixes.

    The model's own configuration says which precision "auto" became, and where its weights files lie.
    `pretrained=False` leaves the extractor with random weights, for benchmarks.
    """
    check_model_config(config)
    extractor = build_extractor(config, device=device, pretrained=pretrained)
    spec = extractor.spec
    config = replace(config.located(), precision=extractor.precision)
    scales, grids = config.flow_scales(len(spec.channels)), spec.grids(config.input_size)
    flow = UFlow(
        [spec.channels[scale] for scale in scales], [grids[scale] for scale in scales],
        joined=config.architecture == "u", coupling=config.coupling, flow_steps=config.flow_steps,
        kernel_sizes=config.kernel_sizes, seed=seed,
    ).to(device)  # fmt: skip
    normalisation = FeatureNormalisation(spec.normalisation, spec.channels).to(device)
    channels = [spec.channels[scale] for scale in scales]
    gaussians = FeatureGaussians(channels).to(device) if config.has_gaussians else None
    n_patches = config.n_patches
    neighbours = FeatureNeighbours(channels, n_patches).to(device) if n_patches else None
    return Model(config, extractor, normalisation, flow, device, gaussians, neighbours)


def choose_device(choice: DeviceChoice) -> torch.device:
    """The device for `choice`; "auto" takes CUDA if a GPU is at hand. UflowError if "cuda" is asked for in vain."""
    if choice == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if choice == "cuda" and not torch.cuda.is_available():
        raise UflowError(
            "device cuda: no CUDA GPU is usable here; use --device cpu, or --device auto to take what there is"
        )
    return torch.device(choice)
