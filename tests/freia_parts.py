"""The flow of the published models, made of FrEIA's own parts."""

from __future__ import annotations

import torch
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode  # noqa: TID251
from FrEIA.modules import AllInOneBlock, Concat, IRevNetUpsampling, Split  # noqa: TID251

from uflow_cli.flow import coupling_subnet


def freia_block(dims_in, kernel_size: int) -> AllInOneBlock:
    """FrEIA's own block as the published models have it."""
    return AllInOneBlock(
        dims_in,
        subnet_constructor=lambda channels_in, channels_out: coupling_subnet(channels_in, channels_out, kernel_size),
        affine_clamping=2.0,
        permute_soft=False,
    )


def freia_graph(channels: tuple[int, ...], flow_steps: int, *, coarsest: int = 2) -> GraphINN:
    """The graph of the published models, of FrEIA's own parts (docs/method.md, section 9), away from its initial state."""
    grids = [(coarsest * 2**s, coarsest * 2**s) for s in reversed(range(len(channels)))]
    inputs = [InputNode(c, *grid) for c, grid in zip(channels, grids, strict=True)]
    nodes: list[Node] = []
    outputs: list[Node] = []
    below = None
    for scale in reversed(range(len(inputs))):
        x = inputs[scale]
        if below is not None:
            x = Node([x.out0, below.out0], Concat, {"dim": 0})
            nodes.append(x)
        for step in range(flow_steps):
            x = Node(x.out0, freia_block, {"kernel_size": (3, 1)[step % 2]})
            nodes.append(x)
        if scale:
            up = 4 * (x.output_dims[0][0] // 8)
            split = Node(x.out0, Split, {"section_sizes": [up, x.output_dims[0][0] - up], "dim": 0})
            below = Node(split.out0, IRevNetUpsampling, {})
            nodes += [split, below]
            outputs.append(OutputNode(split.out1))
    graph = GraphINN([*inputs, *nodes, OutputNode(x.out0), *reversed(outputs)])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in graph.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return graph.double()
