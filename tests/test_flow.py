"""The flow is invertible, its log-determinant is right, it is FrEIA's map, and its size is the paper's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode  # noqa: TID251
from FrEIA.modules import AllInOneBlock, Concat, IRevNetUpsampling, Split  # noqa: TID251
from torch import Tensor

from uflow_cli.flow import (
    FlowStep,
    UFlow,
    bits_per_dimension,
    coupling_subnet,
    negative_log_likelihood,
)

# METHOD 2: channels and strides at an input of 448, and the trainable parameters of the flow alone.
RESNET_18 = ((64, 128, 256), (4, 8, 16), 1_479_880)
WIDE_RESNET_50 = ((256, 512, 1024), (4, 8, 16), 23_594_080)
CAIT_M48 = ((768,), (16,), 8_858_112)
MS_CAIT = ((768, 384), (16, 32), 12_216_480)
LITE = ((40, 112, 320), (8, 16, 32), 1_942_792)
FORMS = [(True, "affine"), (True, "uniform"), (False, "affine"), (False, "uniform")]


def random_features(flow: UFlow, n_images: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = zip(flow.channels, flow.grids, strict=True)
    return [torch.randn(n_images, c, h, w, generator=generator) for c, (h, w) in shapes]


def perturbed(flow: UFlow, seed: int = 1) -> UFlow:
    """The flow away from its initial state, where global affine maps are the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return flow


def small_flow(channels: tuple[int, ...], coarsest: int = 2, **options) -> UFlow:
    """A double-precision flow away from its initial state whose coarsest grid is `coarsest` cells wide."""
    grids = [(coarsest * 2**s, coarsest * 2**s) for s in reversed(range(len(channels)))]
    return perturbed(UFlow(channels, grids, **options)).double()


def at_448(channels: tuple[int, ...], strides: tuple[int, ...]) -> UFlow:
    return UFlow(channels, [(448 // stride, 448 // stride) for stride in strides])


@pytest.mark.parametrize(("channels", "strides", "expected"), [RESNET_18, WIDE_RESNET_50, CAIT_M48, MS_CAIT, LITE])
def test_trainable_parameters_are_the_methods(channels, strides, expected):
    assert sum(p.numel() for p in at_448(channels, strides).parameters()) == expected


@pytest.mark.parametrize(
    ("size", "affines", "millions"),
    [(RESNET_18, 2_809_856, 4.3), (WIDE_RESNET_50, 11_239_424, 34.8), (CAIT_M48, 0, 8.9), (MS_CAIT, 0, 12.2)],
)
def test_table_4_counts_the_flow_and_the_layer_norm_affines_of_the_resnets(size, affines, millions):
    """We train no weights in front of the flow; the paper's ResNets have a scale and a shift for each feature."""
    channels, strides, _ = size
    flow = at_448(channels, strides)
    norms = [torch.nn.LayerNorm((c, *grid)) for c, grid in zip(flow.channels, flow.grids, strict=True)]
    if affines:
        assert sum(p.numel() for norm in norms for p in norm.parameters()) == affines
    assert round((sum(p.numel() for p in flow.parameters()) + affines) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (MS_CAIT, [(816, 28, 28), (192, 14, 14)]),
        (LITE, [(59, 56, 56), (76, 28, 28), (160, 14, 14)]),
        (RESNET_18, [(84, 112, 112), (80, 56, 56), (128, 28, 28)]),
    ],
)
def test_shapes_at_448(size, expected):
    flow = at_448(size[0], size[1]).to("meta")
    embeddings, log_det = flow([f.to("meta") for f in random_features(flow, 2)])
    assert [tuple(z.shape[1:]) for z in embeddings] == expected
    assert flow.embedding_channels == tuple(c for c, _, _ in expected)
    assert log_det.shape == (2,)
    assert sum(z[0].numel() for z in embeddings) == flow.n_dimensions


@pytest.mark.parametrize(("joined", "coupling"), FORMS)
@pytest.mark.parametrize("channels", [(8, 16), (7, 13), (5, 9, 17), (6,), (3, 4), (4, 8, 16, 32)])
def test_inverse_undoes_forward(channels, joined, coupling):
    flow = small_flow(channels, joined=joined, coupling=coupling)
    features = [f.double() for f in random_features(flow, 3)]
    embeddings, log_det = flow(features)
    assert [z.shape[1] for z in embeddings] == list(flow.embedding_channels)
    back, inverse_log_det = flow.inverse(embeddings)
    for f, b in zip(features, back, strict=True):
        torch.testing.assert_close(b, f, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("joined", "coupling"), FORMS)
@pytest.mark.parametrize("channels", [(8, 16), (5, 9)])
def test_log_determinant_equals_that_of_the_numerical_jacobian(channels, joined, coupling):
    flow = small_flow(channels, coarsest=1, joined=joined, coupling=coupling)
    features = [f.double() for f in random_features(flow, 1)]
    sizes = [f.numel() for f in features]

    def flat_map(x: Tensor) -> Tensor:
        parts = [part.view(f.shape) for part, f in zip(x.split(sizes), features, strict=True)]
        return torch.cat([z.flatten() for z in flow(parts)[0]])

    x, step = torch.cat([f.flatten() for f in features]), 1e-5
    columns = [
        (flat_map(x + step * unit) - flat_map(x - step * unit)) / (2 * step) for unit in torch.eye(len(x)).double()
    ]
    _, expected = torch.linalg.slogdet(torch.stack(columns, dim=1))
    torch.testing.assert_close(flow(features)[1][0], expected, rtol=1e-6, atol=1e-6)


def test_log_determinant_of_uniform_couplings_does_not_depend_on_the_input():
    flow = small_flow((8, 16), coupling="uniform")
    features = [f.double() for f in random_features(flow, 4)]
    with torch.no_grad():
        embeddings, log_det = flow(features)
    assert (log_det == log_det[0]).all()
    assert log_det[0].abs() > 1
    by_norm = sorted(range(4), key=lambda i: sum(float(z[i].square().sum()) for z in embeddings))
    assert by_norm == negative_log_likelihood(embeddings, log_det).argsort().tolist()
    affine_log_det = small_flow((8, 16), coupling="affine")(features)[1]
    assert len(set(affine_log_det.tolist())) == 4


def test_a_uniform_coupling_has_half_the_outputs():
    step = FlowStep(9, kernel_size=3, coupling="uniform", generator=torch.Generator())
    assert step.subnet[2].out_channels == 4
    assert FlowStep(9, kernel_size=3, coupling="affine", generator=torch.Generator()).subnet[2].out_channels == 8


def freia_step(step: FlowStep, shape: tuple[int, int, int], kernel_size: int) -> AllInOneBlock:
    """FrEIA's own block with the weights of `step`, its dense matrix set to our permutation."""
    block = AllInOneBlock(
        [shape],
        subnet_constructor=lambda channels_in, channels_out: coupling_subnet(channels_in, channels_out, kernel_size),
        affine_clamping=2.0,
        permute_soft=False,
    ).to(step.global_scale.dtype)
    matrix = torch.eye(shape[0], dtype=step.global_scale.dtype)[step.permutation][:, :, None, None]
    weights = {key: value for key, value in step.state_dict().items() if "permutation" not in key}
    block.load_state_dict({**weights, "w_perm": matrix, "w_perm_inv": matrix.transpose(0, 1)})
    return block


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("channels", [2, 7, 12])
def test_a_step_is_freias_block_with_its_dense_permutation(channels, kernel_size):
    generator = torch.Generator().manual_seed(channels)
    step = FlowStep(channels, kernel_size=kernel_size, coupling="affine", generator=generator).double()
    with torch.no_grad():
        for parameter in step.parameters():
            parameter += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    block = freia_step(step, (channels, 5, 4), kernel_size)
    results = []
    for run in (step, lambda x: (block([x])[0][0], block([x])[1])):
        x = torch.randn(3, channels, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y, log_det = run(x.requires_grad_())
        weight = torch.linspace(-1, 1, y[0].numel(), dtype=torch.float64).view(y[0].shape)
        ((y * weight).sum() + (log_det * torch.arange(3)).sum()).backward()
        results.append((y, log_det, x.grad))
    for ours, freias in zip(*results, strict=True):
        torch.testing.assert_close(ours, freias, rtol=1e-12, atol=1e-12)
    gradients = dict(block.named_parameters())
    for name, parameter in step.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(step.inverse(y.detach())[0], x.detach(), rtol=1e-9, atol=1e-9)


def freia_graph(flow: UFlow) -> GraphINN:
    """METHOD 2 built of FrEIA's own parts, with the weights of `flow`."""
    inputs = [InputNode(c, h, w) for c, (h, w) in zip(flow.channels, flow.grids, strict=True)]
    nodes: list[Node] = []
    outputs: list[Node] = []
    below = None
    for scale in reversed(range(len(inputs))):
        x = inputs[scale]
        if below is not None:
            x = Node([x.out0, below.out0], Concat, {"dim": 0})
            nodes.append(x)
        for kernel_size, step in zip(flow.kernel_sizes, flow.stages[scale].steps, strict=True):
            dims = x.output_dims[0]
            x = Node(x.out0, lambda _dims, block: block, {"block": freia_step(step, dims, kernel_size)})
            nodes.append(x)
        if scale:
            up = 4 * (x.output_dims[0][0] // 8)
            split = Node(x.out0, Split, {"section_sizes": [up, x.output_dims[0][0] - up], "dim": 0})
            below = Node(split.out0, IRevNetUpsampling, {})
            nodes += [split, below]
            outputs.append(OutputNode(split.out1))
    return GraphINN([*inputs, *nodes, OutputNode(x.out0), *reversed(outputs)])


@pytest.mark.parametrize("channels", [(8, 16), (5, 9, 17)])
def test_the_flow_is_freias_graph(channels):
    flow = small_flow(channels)
    features = [f.double() for f in random_features(flow, 2)]
    embeddings, log_det = flow(features)
    expected, expected_log_det = freia_graph(flow).double()(features)
    for z, e in zip(embeddings, expected, strict=True):
        torch.testing.assert_close(z, e, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, expected_log_det, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("flow_steps", "kernel_sizes", "expected"),
    [
        (1, (3, 1), [3]),
        (3, (3, 1), [3, 1, 3]),
        (6, (3, 1), [3, 1] * 3),
        (8, (3,), [3] * 8),
        (4, (5, 3, 1), [5, 3, 1, 5]),
    ],
)
def test_kernel_sizes_repeat_over_the_steps_of_each_scale(flow_steps, kernel_sizes, expected):
    flow = small_flow((8, 16), flow_steps=flow_steps, kernel_sizes=kernel_sizes)
    sizes = [m.kernel_size[0] for m in flow.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sizes == 2 * [size for size in expected for _ in range(2)]


@pytest.mark.parametrize(
    ("channels", "joined", "kernel_sizes"),
    [
        ((8, 16), True, (3, 1)), ((8, 16, 16), True, (3, 1)), ((8, 16), False, (3, 1)), ((6,), True, (3, 1)),
        ((2, 64), True, (3, 1)), ((8, 16), True, (3,)), ((8, 16), True, (1, 3, 1)),
    ],
)  # fmt: skip
def test_features_touch_embeddings_as_far_as_reach_says_and_no_further(channels, joined, kernel_sizes):
    flow = small_flow(channels, coarsest=24, joined=joined, kernel_sizes=kernel_sizes)
    features = [f.double() for f in random_features(flow, 1)]
    before = flow(features)[0]
    top, bottom = 12, 13  # rows of the coarsest grid, and what they cover of the finer ones
    for scale, f in enumerate(features):
        zoom = 2 ** (len(channels) - 1 - scale)
        f[:, :, zoom * top : zoom * bottom] += 1.0
    for scale, (z, b) in enumerate(zip(flow(features)[0], before, strict=True)):
        zoom = 2 ** (len(channels) - 1 - scale)
        rows = (z != b).any(dim=3).any(dim=1)[0].nonzero().flatten()
        first, last = zoom * top - flow.reach[scale], zoom * bottom - 1 + flow.reach[scale]
        assert (int(rows.min()), int(rows.max())) == (max(first, 0), min(last, flow.grids[scale][0] - 1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.05)])
def test_a_float32_state_serves_other_precisions(dtype, tolerance):
    flow = perturbed(UFlow((8, 16), [(4, 4), (2, 2)], seed=3))
    other = UFlow((8, 16), [(4, 4), (2, 2)], seed=4).to(dtype)
    other.load_state_dict(flow.state_dict())
    for ours, theirs in zip(flow.buffers(), other.buffers(), strict=True):
        assert theirs.dtype == torch.int64
        assert torch.equal(ours, theirs)
    features = random_features(flow, 2)
    embeddings, log_det = flow(features)
    others, other_log_det = other([f.to(dtype) for f in features])
    assert all(z.dtype == dtype for z in others)
    for z, o in zip(embeddings, others, strict=True):
        torch.testing.assert_close(o.float(), z, rtol=tolerance, atol=tolerance)
    assert other_log_det.dtype in (torch.float32, torch.float64)
    assert (other_log_det - log_det).abs().max() / flow.n_dimensions < tolerance / 2


def test_a_flow_made_without_memory_takes_its_state_from_a_file():
    flow = perturbed(UFlow((8, 16), [(4, 4), (2, 2)], seed=3))
    with torch.device("meta"):
        other = UFlow((8, 16), [(4, 4), (2, 2)], seed=4)
    other.load_state_dict(flow.state_dict(), assign=True)
    features = random_features(flow, 2)
    assert all(torch.equal(a, b) for a, b in zip(flow(features)[0], other(features)[0], strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_cpu_state_serves_a_gpu_and_back():
    flow = perturbed(UFlow((8, 16), [(4, 4), (2, 2)], seed=3))
    other = UFlow((8, 16), [(4, 4), (2, 2)], seed=4).cuda()
    other.load_state_dict(flow.state_dict())
    features = random_features(flow, 2)
    for z, o in zip(flow(features)[0], other([f.cuda() for f in features])[0], strict=True):
        torch.testing.assert_close(o.cpu(), z, rtol=1e-3, atol=1e-3)
    flow.load_state_dict(other.state_dict())


@pytest.mark.parametrize("coupling", ["affine", "uniform"])
def test_gradients_of_a_step_equal_numerical_ones(coupling):
    step = FlowStep(5, kernel_size=1, coupling=coupling, generator=torch.Generator().manual_seed(2)).double()
    names = [name for name, _ in step.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(step, dict(zip(names, parameters, strict=True)), (x,))

    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, 5, 2, 3, generator=generator), *step.parameters()]
    leaves = [(t.double() + 0.3 * torch.randn(t.shape, generator=generator)).detach().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(run, leaves)


def test_what_is_not_differentiated_is_the_same_map():
    flow = small_flow((8, 16))
    features = [f.double() for f in random_features(flow, 2)]
    embeddings, log_det = flow(features)
    with torch.no_grad():
        again, log_det_again = flow(features)
    assert all(torch.equal(a, b) for a, b in zip(embeddings, again, strict=True))
    assert torch.equal(log_det, log_det_again)


def test_gradients_are_the_same_bits_twice():
    gradients = []
    for _ in range(2):
        flow = perturbed(UFlow((8, 16), [(8, 8), (4, 4)], seed=3))
        negative_log_likelihood(*flow(random_features(flow, 3))).mean().backward()
        gradients.append([p.grad for p in flow.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_seed_fixes_weights_and_permutations_and_leaves_global_generators_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - must not matter
    one = UFlow((8, 16), [(4, 4), (2, 2)], seed=7).state_dict()
    state = torch.random.get_rng_state()
    two = UFlow((8, 16), [(4, 4), (2, 2)], seed=7).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    other = UFlow((8, 16), [(4, 4), (2, 2)], seed=8).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one if "permutation" in key)


def test_likelihood_of_an_untrained_flow_on_noise_is_that_of_a_gaussian():
    embeddings = [torch.randn(4, 100, 16, 16)]
    nll = negative_log_likelihood(embeddings, torch.zeros(4)).mean().item()
    entropy = 0.5 * np.log2(2 * np.pi * np.e)  # of N(0, 1), bits
    assert bits_per_dimension(nll, 100 * 256) == pytest.approx(entropy, rel=0.01)


@pytest.mark.parametrize(
    ("channels", "grids"), [((), ()), ((8, 8), [(4, 4)]), ((8, 8), [(4, 4), (3, 3)]), ((8, 8), [(2, 2), (4, 4)])]
)
def test_scales_that_do_not_fit_are_refused(channels, grids):
    with pytest.raises(ValueError, match="grid"):
        UFlow(channels, grids)
