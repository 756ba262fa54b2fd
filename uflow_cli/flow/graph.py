"""The U-shaped normalizing flow over all scales, a FrEIA graph (paper section 3.2). Logarithms here are natural."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import cycle, islice, pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode
from FrEIA.modules import Concat, IRevNetUpsampling, Split
from torch import Tensor

from uflow_cli.config import Coupling
from uflow_cli.flow.step import FlowStep

FLOW_STEPS = 4  # of a stage (paper 4.3)
KERNEL_SIZES = (3, 1)  # of these steps, repeated (paper 4.3)
OLD_NAME = re.compile(r"^stages\.\d+\.steps\.\d+\.")  # of a flow step, before the flow was a FrEIA graph


class UFlow(GraphINN):
    """Invertible map from features to embeddings, one flow stage per scale, joined from coarse to fine.

    Of what a stage gives, some channels go up: each four of them become one of the next finer grid and follow that
    scale's features into its stage. Where the scales are not `joined`, the stages stand side by side.

    As every FrEIA graph, it maps features to embeddings and `log_det_jacobian` (B,), and with `rev=True` embeddings to
    features and the log-determinant of that inverse. Both are tuples of (B, C_s, H_s, W_s), finest scale first.
    `module_list` has the modules in the order of the published models: the flow steps of the coarsest stage, `Split`,
    up-sampling, `Concat`, the steps of the next finer stage, and so on.

    `channels` and `grids` (H_s, W_s) are finest first. `kernel_sizes` repeat over the steps of a stage. `seed` fixes
    the permutations and the initial weights.
    """

    def __init__(
        self, channels: Sequence[int], grids: Sequence[tuple[int, int]], *,
        joined: bool = True, coupling: Coupling = "affine", flow_steps: int = FLOW_STEPS,
        kernel_sizes: Sequence[int] = KERNEL_SIZES, seed: int = 0,
    ) -> None:  # fmt: skip
        _check_scales(channels, grids)
        sizes = tuple(islice(cycle(kernel_sizes), flow_steps))
        up = up_channels(channels) if joined else (0,) * len(channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nodes = _nodes(channels, grids, up, kernel_sizes=sizes, coupling=coupling, seed=seed)
        super().__init__(nodes, force_tuple_output=True)
        self.channels, self.grids, self.kernel_sizes = tuple(channels), tuple(grids), sizes
        self.below_channels = tuple(n // 4 for n in (*up[1:], 0))
        self.embedding_channels = tuple(
            own + below - n for own, below, n in zip(channels, self.below_channels, up, strict=True)
        )

    @property
    def n_dimensions(self) -> int:
        """Numbers in the features of one image, and in its embeddings."""
        return sum(c * h * w for c, (h, w) in zip(self.channels, self.grids, strict=True))

    @property
    def steps(self) -> list[FlowStep]:
        """All flow steps, from the coarsest stage to the finest."""
        return [module for module in self.module_list if isinstance(module, FlowStep)]

    @property
    def reach(self) -> tuple[int, ...]:
        """How many cells from an anomaly embeddings can feel it, per scale, finest first.

        A coupling spreads its passive half. What comes from below stands last, and so is active in the first step.
        """
        steps = [2 * (k // 2) for k in self.kernel_sizes]  # a coupling subnet has two convolutions in a row
        reach: list[int] = []
        for own, below in zip(reversed(self.channels), reversed(self.below_channels), strict=True):
            spread = sum(steps if below > (own + below) // 2 else steps[1:])
            reach.append(max(sum(steps), 2 * reach[-1] + spread if below else 0))
        return tuple(reversed(reach))

    def weighted(self, shares: Sequence[Tensor] | None) -> AbstractContextManager[None]:
        """Within, the log-determinant counts each cell by its share, (B, 1, H_s, W_s) per scale; None: all alike."""
        by_step = [] if shares is None else [shares[self.grids.index(step.grid)] for step in self.steps]
        return self._lent("shares", by_step)

    def thinned(self, kept: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Within, each flow step multiplies its hidden channels by its own of `kept`, (B, C', 1, 1), as dropout does.

        They are in the order of `steps`; without any, all stays as it is.
        """
        return self._lent("kept", kept)

    @contextlib.contextmanager
    def _lent(self, name: Literal["shares", "kept"], by_step: Sequence[Tensor]) -> Iterator[None]:
        """Within, the attribute `name` of each flow step is its own of `by_step`; without any, nothing changes."""
        if not by_step:
            yield
            return
        try:
            for step, tensor in zip(self.steps, by_step, strict=True):
                setattr(step, name, tensor)
            yield
        finally:
            for step in self.steps:
                setattr(step, name, None)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of every module, but RuntimeError also for permutations that are none.

        A state that names stages and steps, as older run folders do, fits too.
        """
        keys = super().load_state_dict(self._renamed(state_dict), strict, assign)
        if not all(step.is_permuting for step in self.steps):
            raise RuntimeError("a permutation of channels is none")
        return keys

    def _renamed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """`state` with the names that the tensors of older run folders have now; other names stay."""
        names = {}
        counts = [0] * len(self.grids)
        for index, module in enumerate(self.module_list):
            if isinstance(module, FlowStep):
                scale = self.grids.index(module.grid)
                names[f"stages.{scale}.steps.{counts[scale]}."] = f"module_list.{index}."
                counts[scale] += 1
        return {OLD_NAME.sub(lambda old: names.get(old[0], old[0]), name): value for name, value in state.items()}


class UpSampling(IRevNetUpsampling):
    """FrEIA's up-sampling, (C, H, W) -> (C/4, 2H, 2W), as a copy; its convolution is slower and rounds in autocast."""

    def __init__(self, dims_in: Sequence[tuple[int, int, int]]) -> None:
        super().__init__(dims_in, legacy_backend=True)  # this one has no kernel; its order of channels is not used

    def forward(self, x: Sequence[Tensor], jac: bool = True, rev: bool = False) -> tuple[tuple[Tensor], float]:
        """FrEIA's interface; the log-determinant is 0."""
        return ((F.pixel_unshuffle if rev else F.pixel_shuffle)(x[0], 2),), 0.0


def _nodes(
    channels: Sequence[int], grids: Sequence[tuple[int, int]], up: Sequence[int], *,
    kernel_sizes: Sequence[int], coupling: Coupling, seed: int,
) -> list[Node]:  # fmt: skip
    """The nodes of the graph; inputs and outputs are finest first. Weights are drawn from the global generator."""
    generator = torch.Generator().manual_seed(seed)  # of the permutations
    inputs = [InputNode(c, *grid) for c, grid in zip(channels, grids, strict=True)]
    inner: list[Node] = []
    outputs: list[Node] = []
    below: Node | None = None
    for scale in reversed(range(len(inputs))):
        node = inputs[scale]
        if below is not None:
            node = Node([node.out0, below.out0], Concat, {})
            inner.append(node)
        total = node.output_dims[0][0]
        for kernel_size in kernel_sizes:
            permutation = torch.randperm(total, generator=generator, device="cpu")
            options = {"kernel_size": kernel_size, "coupling": coupling, "permutation": permutation}
            node = Node(node.out0, FlowStep, options)
            inner.append(node)
        below, own = None, node.out0
        if up[scale]:
            split = Node(node.out0, Split, {"section_sizes": [up[scale], total - up[scale]]})
            below, own = Node(split.out0, UpSampling, {}), split.out1
            inner += [split, below]
        outputs.append(OutputNode(own))
    return [*inputs, *inner, *reversed(outputs)]


def up_channels(channels: Sequence[int]) -> tuple[int, ...]:
    """How many channels go up from each scale, finest first: 4·floor(C/8) of C, none from the finest."""
    up = [0]
    for own in reversed(channels[1:]):
        up.append(4 * ((own + up[-1] // 4) // 8))
    return (0, *reversed(up[1:]))


def _check_scales(channels: Sequence[int], grids: Sequence[tuple[int, int]]) -> None:
    if not channels or len(channels) != len(grids):
        raise ValueError(f"need one grid per scale, got {len(channels)} channel counts and {len(grids)} grids")
    for fine, coarse in pairwise(grids):
        if fine != (2 * coarse[0], 2 * coarse[1]):
            raise ValueError(f"each grid must be twice the next coarser one, got {fine} above {coarse}")


def state_from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `UFlow` from that of a FrEIA graph of `AllInOneBlock`s, such as the authors' published models.

    Their permutations are matrices with w_perm[i, p(i)] = 1, whose convolution makes channel p(i) channel i; ours are
    the indices p. Kernels of up-sampling are left out. ValueError if a matrix is no permutation.
    """
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        module, _, tensor = name.rpartition(".")
        if tensor == "w_perm":
            matrix = value[:, :, 0, 0]
            permutation = matrix.argmax(dim=1)
            inverse = permutation.argsort()
            if not torch.equal(matrix, torch.eye(len(matrix)).to(matrix)[:, inverse]):
                raise ValueError(f"{name} is not the matrix of a permutation")
            ours |= {f"{module}.permutation": permutation, f"{module}.inverse_permutation": inverse}
        elif tensor not in ("w_perm_inv", "downsample_kernel"):
            ours[name] = value
    return ours
