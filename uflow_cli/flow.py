"""The U-shaped normalizing flow (paper section 3.2). The only importer of FrEIA. Logarithms here are natural."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode  # noqa: TID251
from FrEIA.modules import AllInOneBlock, Concat, IRevNetUpsampling, Split  # noqa: TID251
from torch import Tensor, nn

FLOW_STEPS_PER_STAGE = 4  # paper 4.3
KERNEL_SIZES = (3, 1)  # alternate over the flow steps of a stage
AFFINE_CLAMPING = 2.0


class FlowStep(AllInOneBlock):  # type: ignore[misc]  # FrEIA has no types
    """Affine coupling, global affine map and a fixed permutation of the channels (METHOD 2).

    The map is that of FrEIA's block; the permutation is a gather by index instead of a dense C x C convolution, and it
    comes from `generator` instead of NumPy's global state.
    """

    permutation: Tensor
    inverse_permutation: Tensor

    def __init__(
        self, dims_in: list[tuple[int, int, int]], dims_c: list[tuple[int, ...]] | None = None, *,
        kernel_size: int, generator: torch.Generator,
    ) -> None:  # fmt: skip
        def coupling_subnet(channels_in: int, channels_out: int) -> nn.Module:
            padding = kernel_size // 2
            return nn.Sequential(
                nn.Conv2d(channels_in, channels_in, kernel_size, padding=padding),
                nn.ReLU(),
                nn.Conv2d(channels_in, channels_out, kernel_size, padding=padding),
            )

        super().__init__(dims_in, dims_c or [], subnet_constructor=coupling_subnet, affine_clamping=AFFINE_CLAMPING)
        del self.w_perm, self.w_perm_inv
        permutation = torch.randperm(self.in_channels, generator=generator)
        self.register_buffer("permutation", permutation)
        self.register_buffer("inverse_permutation", torch.argsort(permutation))

    def _permute(self, x: Tensor, rev: bool = False) -> tuple[Tensor, Tensor]:
        scale = self.global_scale_activation(self.global_scale)  # (1, C, 1, 1)
        log_det = torch.log(scale).sum()
        if rev:
            return (x[:, self.inverse_permutation] - self.global_offset) / scale, log_det
        return (x * scale + self.global_offset)[:, self.permutation], log_det


class UFlow(nn.Module):
    """Invertible map from features to embeddings, one flow stage per scale, joined from coarse to fine.

    `channels` and `grids` (H_s, W_s) are finest first. `seed` fixes the permutations and the initial weights.
    """

    def __init__(self, channels: Sequence[int], grids: Sequence[tuple[int, int]], *, seed: int = 0) -> None:
        super().__init__()
        _check_scales(channels, grids)
        self.channels = tuple(channels)
        self.grids = tuple(grids)
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.graph = _build_graph(self.channels, self.grids, generator)
        self.embedding_channels = embedding_channels(self.channels)

    @property
    def n_dimensions(self) -> int:
        """Numbers in the features of one image, and in its embeddings."""
        return sum(c * h * w for c, (h, w) in zip(self.channels, self.grids, strict=True))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Embeddings, a list of (B, C_s, H_s, W_s), finest first, and log_det_jacobian (B,)."""
        outputs, log_det_jacobian = self.graph(list(features))
        return list(outputs) if isinstance(outputs, tuple | list) else [outputs], log_det_jacobian

    def inverse(self, embeddings: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Features that map to `embeddings`, finest first, and the log-determinant (B,) of this inverse."""
        outputs, log_det_jacobian = self.graph(list(embeddings), rev=True)
        return list(outputs) if isinstance(outputs, tuple | list) else [outputs], log_det_jacobian


def embedding_channels(channels: Sequence[int]) -> tuple[int, ...]:
    """Channels of the embeddings per scale, finest first: of C channels, 4·floor(C/8) go up, the rest go out."""
    out: list[int] = []
    from_below = 0
    for scale in reversed(range(len(channels))):
        total = channels[scale] + from_below
        up = 4 * (total // 8) if scale else 0
        out.append(total - up)
        from_below = up // 4
    return tuple(reversed(out))


def negative_log_likelihood(embeddings: Sequence[Tensor], log_det_jacobian: Tensor) -> Tensor:
    """½ Σ z² - ln|det J| per image, (B,), in nats; the constant ½ D ln 2π is left out (METHOD 5)."""
    squares = torch.stack([z.square().flatten(1).sum(dim=1) for z in embeddings]).sum(dim=0)  # (B,)
    return 0.5 * squares - log_det_jacobian


def bits_per_dimension(nll: float, n_dimensions: int) -> float:
    """Negative log-likelihood of an image in bits per dimension, the constant ½ ln 2π included."""
    return (nll / n_dimensions + 0.5 * math.log(2 * math.pi)) / math.log(2)


def _check_scales(channels: Sequence[int], grids: Sequence[tuple[int, int]]) -> None:
    if not channels or len(channels) != len(grids):
        raise ValueError(f"need one grid per scale, got {len(channels)} channel counts and {len(grids)} grids")
    for fine, coarse in pairwise(grids):
        if fine != (2 * coarse[0], 2 * coarse[1]):
            raise ValueError(f"each grid must be twice the next coarser one, got {fine} above {coarse}")


def _build_graph(channels: tuple[int, ...], grids: tuple[tuple[int, int], ...], generator: torch.Generator) -> GraphINN:
    """One graph over all scales, optimised as a whole."""
    inputs = [
        InputNode(c, h, w, name=f"features_{s}") for s, (c, (h, w)) in enumerate(zip(channels, grids, strict=True))
    ]
    nodes: list[Node] = []
    outputs: list[Node] = []
    from_below: Node | None = None
    for scale in reversed(range(len(channels))):
        x = inputs[scale]
        if from_below is not None:
            x = Node([inputs[scale].out0, from_below.out0], Concat, {"dim": 0}, name=f"concat_{scale}")
            nodes.append(x)
        for step in range(FLOW_STEPS_PER_STAGE):
            settings = {"kernel_size": KERNEL_SIZES[step % len(KERNEL_SIZES)], "generator": generator}
            x = Node(x.out0, FlowStep, settings, name=f"stage_{scale}_step_{step}")
            nodes.append(x)
        if scale == 0:
            outputs.append(OutputNode(x.out0, name="embeddings_0"))
            break
        total = x.output_dims[0][0]
        up = 4 * (total // 8)
        split = Node(x.out0, Split, {"section_sizes": [up, total - up], "dim": 0}, name=f"split_{scale}")
        from_below = Node(split.out0, IRevNetUpsampling, {}, name=f"up_{scale}")
        outputs.append(OutputNode(split.out1, name=f"embeddings_{scale}"))
        nodes += [split, from_below]
    return GraphINN([*inputs, *nodes, *reversed(outputs)])
