"""Normalisation of features between the extractor and the flow. Nothing here is trained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uflow_cli.features.extractor import Normalisation

AFFINE = re.compile(r"(weight|bias)_\d+")  # of a published model


class FeatureNormalisation(nn.Module):
    """Brings features to a common scale: "layer", "channel" or "none".

    "layer" normalises each map over (C, H, W), as the paper does for ResNets; "channel" brings each channel to mean 0
    and variance 1 on the training images; "none" is for features that the extractor's own final LayerNorm has
    normalised. No trained weights: in front of the flow and without a log-determinant they would let the loss fall by
    shrinking the features, and the chi-square law of the embeddings would be void (docs/method.md, section 1).

    The authors' published models have such weights after "layer": `weight_s` and `bias_s` of (C_s, H_s, W_s) in a state
    are applied, and stay what they are.
    """

    def __init__(self, kind: Normalisation, channels: Sequence[int]) -> None:
        super().__init__()
        self.kind = kind
        if kind == "channel":
            for scale, n_channels in enumerate(channels):
                self.register_buffer(f"mean_{scale}", torch.zeros(n_channels, 1, 1))
                self.register_buffer(f"std_{scale}", torch.ones(n_channels, 1, 1))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Normalised `features`, per scale (B, C_s, H_s, W_s)."""
        if self.kind == "none":
            return list(features)
        if self.kind == "layer":
            return [
                F.layer_norm(
                    f, [int(n) for n in f.shape[1:]],  # int: a traced graph has them fixed
                    self._buffers.get(f"weight_{s}"), self._buffers.get(f"bias_{s}"),
                )
                for s, f in enumerate(features)
            ]  # fmt: skip
        return [(f - self.get_buffer(f"mean_{s}")) / self.get_buffer(f"std_{s}") for s, f in enumerate(features)]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of every module; affine weights of a published model find their place."""
        for name, value in state_dict.items():
            if self.kind == "layer" and AFFINE.fullmatch(name):
                self.register_buffer(name, torch.empty_like(value))
        return super().load_state_dict(state_dict, strict, assign)

    @torch.no_grad()
    def fit(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Set the channel statistics from `batches` of training features; one pass, sums in float64."""
        if self.kind != "channel":
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
