"""Speed of a training step beside the plain FrEIA loop: images per second of features to updated weights.

    python benchmarks/training_step.py [--shapes lite|ms-cait|resnet18] [--batch 8] [--device cuda] [--threads 1]
                                       [--rounds 15] [--compile] [--json FILE]

The baseline is the flow as one builds it of FrEIA 0.2 alone: `GraphINN` of `AllInOneBlock`s, which permute by a dense
convolution, `IRevNetUpsampling`, and `torch.optim.Adam`. Both start from the same weights, and before anything is
timed their embeddings, log-determinants and gradients must agree. Inputs rotate; contenders take turns, so that all see
the same machine; a ratio is the median over rounds with its quartiles. One CPU thread is timed by processor time, all
else by the clock, a GPU after it has finished. The loss of the last round tells whether a faster contender learned the
same; --compile adds ours through torch.compile.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode
from FrEIA.modules import AllInOneBlock, Concat, IRevNetUpsampling, Split
from torch import Tensor, nn

from uflow_cli.features import FeatureNormalisation
from uflow_cli.flow import UFlow, coupling_subnet, negative_log_likelihood
from uflow_cli.training.steps import CompiledFlow, adam

SHAPES = {
    "lite": ((40, 112, 320), (8, 16, 32)),
    "resnet18": ((64, 128, 256), (4, 8, 16)),
    "ms-cait": ((768, 384), (16, 32)),
}
INPUTS = 3

Flow = Callable[[Sequence[Tensor]], tuple[Sequence[Tensor], Tensor]]
Step = Callable[[Sequence[Tensor]], Tensor]


def freia_block(dims_in: Sequence[tuple[int, int, int]], kernel_size: int) -> AllInOneBlock:
    """FrEIA's own block as the published models have it."""
    subnet = functools.partial(coupling_subnet, kernel_size=kernel_size)
    return AllInOneBlock(dims_in, subnet_constructor=subnet, affine_clamping=2.0)


def published_graph(
    channels: Sequence[int], grids: Sequence[tuple[int, int]], *, kernel_sizes: Sequence[int]
) -> GraphINN:
    """The graph of the published models, of FrEIA's own parts (docs/method.md, section 9); finest scale first."""
    inputs = [InputNode(c, h, w) for c, (h, w) in zip(channels, grids, strict=True)]
    nodes: list[Node] = []
    outputs: list[Node] = []
    below = None
    for scale in reversed(range(len(inputs))):
        x = inputs[scale]
        if below is not None:
            x = Node([x.out0, below.out0], Concat, {"dim": 0})
            nodes.append(x)
        for kernel_size in kernel_sizes:
            x = Node(x.out0, freia_block, {"kernel_size": kernel_size})
            nodes.append(x)
        if scale:
            up = 4 * (x.output_dims[0][0] // 8)
            split = Node(x.out0, Split, {"section_sizes": [up, x.output_dims[0][0] - up], "dim": 0})
            below = Node(split.out0, IRevNetUpsampling, {})
            nodes += [split, below]
            outputs.append(OutputNode(split.out1))
    return GraphINN([*inputs, *nodes, OutputNode(x.out0), *reversed(outputs)], force_tuple_output=True)


def freia_flow(flow: UFlow) -> GraphINN:
    """The graph of FrEIA's own parts with the weights and permutations of `flow`, under the same names."""
    graph = published_graph(flow.channels, flow.grids, kernel_sizes=flow.kernel_sizes)
    state = graph.state_dict()
    for name, value in flow.state_dict().items():
        if name.endswith(".permutation"):
            matrix = torch.eye(len(value))[value.cpu()][:, :, None, None]
            prefix = name.removesuffix("permutation")
            state |= {f"{prefix}w_perm": matrix, f"{prefix}w_perm_inv": matrix.transpose(0, 1)}
        elif not name.endswith("permutation"):
            state[name] = value
    graph.load_state_dict(state)
    return graph


def plain_loop(flow: nn.Module, normalise: FeatureNormalisation) -> Step:
    """The training step as one writes it first; it returns the loss of the batch."""
    optimiser = torch.optim.Adam([p for p in flow.parameters() if p.requires_grad], lr=1e-5, weight_decay=1e-5)

    def step(features: Sequence[Tensor]) -> Tensor:
        embeddings, log_det = flow(normalise([f.float() for f in features]))
        loss = sum(0.5 * (z**2).sum(dim=(1, 2, 3)) for z in embeddings) - log_det
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        return loss.detach().mean()

    return step


def our_loop(flow: nn.Module, normalise: FeatureNormalisation, *, half: bool = False) -> Step:
    """The step of `uflow_cli.training`; `half` as with --flow-precision bf16."""
    optimiser = adam(flow.parameters(), weight_decay=1e-5)
    for group in optimiser.param_groups:
        group["lr"] = 1e-5

    def step(features: Sequence[Tensor]) -> Tensor:
        with torch.autocast(features[0].device.type, torch.bfloat16, enabled=half):
            embeddings, log_det = flow(normalise([f.float() for f in features]))
        nll = negative_log_likelihood(embeddings, log_det).sum()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(nll / len(features[0]))
        optimiser.step()
        return nll.detach() / len(features[0])

    return step


def check_same_map(flow: UFlow, graph: GraphINN, features: Sequence[Tensor]) -> float:
    """The largest difference of embeddings, log-determinants and gradients, relative to the largest value of each.

    In double precision: in single, a hidden value may fall on either side of zero, and its gradient with it.
    """
    results: list[list[Tensor]] = []
    for one in (flow.double(), graph.double()):
        embeddings, log_det = one([f.double() for f in features])
        negative_log_likelihood(embeddings, log_det).mean().backward()
        results.append([*(z.detach() for z in embeddings), log_det.detach()])
    for name, parameter in flow.named_parameters():
        theirs = graph.get_parameter(name).grad
        assert parameter.grad is not None
        assert theirs is not None
        results[0].append(parameter.grad)
        results[1].append(theirs)
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))
    assert worst < 1e-10, f"the contenders differ by {worst:.2g}"
    flow.float(), graph.float()  # nothing is lost: they came from there
    return worst


def measure(
    contenders: dict[str, Step], inputs: Sequence[Sequence[Tensor]], *, rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds per step, in turns, and the last losses; two rounds before them are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    losses: dict[str, float] = {}
    for turn in range(-2, rounds):
        for name, step in contenders.items():
            start = clock()
            loss = step(inputs[turn % len(inputs)])
            if turn >= 0:
                seconds[name].append(clock() - start)
            losses[name] = float(loss)
    return seconds, losses


def rows(seconds: dict[str, list[float]], batch: int) -> list[dict[str, Any]]:
    """Images per second and ratio to the first contender, each as lower quartile, median, upper quartile."""
    first = next(iter(seconds.values()))
    table: list[dict[str, Any]] = []
    for name, times in seconds.items():
        rates = statistics.quantiles([batch / t for t in times], n=4, method="inclusive")
        ratios = statistics.quantiles([a / t for a, t in zip(first, times, strict=True)], n=4, method="inclusive")
        table.append({"contender": name, "images_per_second": rates, "speed_to_first": ratios})
    return table


def show(quartiles: Sequence[float], digits: int) -> str:
    """Median and quartiles for people."""
    low, median, high = (f"{value:.{digits}f}" for value in quartiles)
    return f"{median:>7} ({low}-{high})"


def main() -> None:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", choices=SHAPES, default="lite")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    channels, strides = SHAPES[options.shapes]
    grids = [(448 // stride, 448 // stride) for stride in strides]
    flow = UFlow(channels, grids, seed=0).to(device)
    graph = freia_flow(flow).to(device)
    normalise = FeatureNormalisation("channel", channels).to(device)
    generator = torch.Generator().manual_seed(0)
    inputs = [
        [
            torch.randn(options.batch, c, *grid, generator=generator).half().to(device)
            for c, grid in zip(channels, grids, strict=True)
        ]
        for _ in range(INPUTS)
    ]
    difference = check_same_map(flow, graph, inputs[0])

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if device.type == "cpu" and options.threads == 1 else time.perf_counter()

    contenders = {
        "FrEIA": plain_loop(graph, normalise),
        "uflow fp32": our_loop(copy.deepcopy(flow), normalise),
        "uflow bf16": our_loop(copy.deepcopy(flow), normalise, half=True),
    }
    if options.compile:
        for name in ("fp32", "bf16"):
            compiled = CompiledFlow(copy.deepcopy(flow), batch_size=options.batch)
            contenders[f"uflow {name} compiled"] = our_loop(compiled, normalise, half=name == "bf16")
    seconds, losses = measure(contenders, inputs, rounds=options.rounds, clock=clock)
    table = [{**row, "last_loss": losses[str(row["contender"])]} for row in rows(seconds, options.batch)]
    facts = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": options.threads, "torch": torch.__version__, "shapes": options.shapes, "batch": options.batch,
        "rounds": options.rounds, "largest_relative_difference": difference,
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for row in table:
        rate, ratio = (row[name] for name in ("images_per_second", "speed_to_first"))
        print(f"{row['contender']:20} {show(rate, 1)} images/s   {show(ratio, 2)} x   loss {row['last_loss']:.6g}")
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
