"""The flow is invertible, its log-determinant is right, it is FrEIA's map, and its size is the paper's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import FrEIA  # noqa: TID251
import numpy as np
import pytest
import torch
from freia_parts import freia_graph, perturbed, square_grids
from safetensors.torch import load_file
from torch import Tensor
from training_step import freia_block

from uflow_cli.flow import (
    FlowStep,
    UFlow,
    bits_per_dimension,
    negative_log_likelihood,
    state_from_published,
)

# docs/method.md, section 10: channels and strides at an input of 448, and the trainable parameters of the flow alone.
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


def small_flow(channels: tuple[int, ...], coarsest: int = 2, **options) -> UFlow:
    """A double-precision flow away from its initial state whose coarsest grid is `coarsest` cells wide."""
    return perturbed(UFlow(channels, square_grids(len(channels), coarsest), **options)).double()


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
    back, inverse_log_det = flow(embeddings, rev=True)
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


def flow_step(channels: int, *, kernel_size: int, coupling: str = "affine", seed: int = 0) -> FlowStep:
    permutation = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
    return FlowStep([(channels, 5, 4)], kernel_size=kernel_size, coupling=coupling, permutation=permutation)


def test_a_uniform_coupling_has_half_the_outputs():
    assert flow_step(9, kernel_size=3, coupling="uniform").subnet[2].out_channels == 4
    assert flow_step(9, kernel_size=3, coupling="affine").subnet[2].out_channels == 8


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("channels", [2, 7, 12])
def test_a_step_is_freias_block_with_its_dense_permutation(channels, kernel_size):
    np.random.seed(channels)  # noqa: NPY002 - FrEIA's permutation
    generator = torch.Generator().manual_seed(channels)
    block = freia_block([(channels, 5, 4)], kernel_size).double()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if not name.startswith("w_perm"):
                parameter += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    step = flow_step(channels, kernel_size=kernel_size).double()
    state = state_from_published({f"step.{name}": value for name, value in block.state_dict().items()})
    step.load_state_dict({name.removeprefix("step."): value for name, value in state.items()})
    results = []
    for run in (step, block):
        x = torch.randn(3, channels, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        [y], log_det = run([x.requires_grad_()])
        weight = torch.linspace(-1, 1, y[0].numel(), dtype=torch.float64).view(y[0].shape)
        ((y * weight).sum() + (log_det * torch.arange(3)).sum()).backward()
        results.append((y, log_det, x.grad))
    for ours, freias in zip(*results, strict=True):
        torch.testing.assert_close(ours, freias, rtol=1e-12, atol=1e-12)
    gradients = dict(block.named_parameters())
    for name, parameter in step.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(step([y.detach()], rev=True)[0][0], x.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("flow_steps", [4, 6, 8])
@pytest.mark.parametrize("channels", [(8, 16), (5, 9, 17)])
def test_states_of_published_models_load_by_name_and_mean_the_same_map(channels, flow_steps):
    np.random.seed(0)  # noqa: NPY002 - FrEIA's permutations
    graph = freia_graph(channels, flow_steps)
    flow = small_flow(channels, flow_steps=flow_steps)
    flow.load_state_dict(state_from_published(graph.state_dict()))
    features = [f.double() for f in random_features(flow, 2)]
    embeddings, log_det = flow(features)
    expected, expected_log_det = graph(features)
    for z, e in zip(embeddings, expected, strict=True):
        torch.testing.assert_close(z, e, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, expected_log_det, rtol=1e-10, atol=1e-10)


def test_modules_are_numbered_as_in_the_published_models():
    """docs/method.md, section 9: coarse steps 0-3, Split 4, up-sampling 5, Concat 6, fine steps 7-10."""
    names = list(UFlow((8, 16), [(4, 4), (2, 2)]).state_dict())
    numbers = [0, 1, 2, 3, 7, 8, 9, 10]
    tensors = ["global_scale", "global_offset", "permutation", "inverse_permutation"]
    tensors += [f"subnet.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    assert names == [f"module_list.{n}.{tensor}" for n in numbers for tensor in tensors]


def test_a_matrix_that_is_no_permutation_is_refused():
    matrix = torch.eye(3)[[0, 1, 1]][:, :, None, None]
    for wrong in (matrix, 0.5 * torch.eye(3)[:, :, None, None]):
        with pytest.raises(ValueError, match=r"^module_list\.0\.w_perm is not the matrix of a permutation$"):
            state_from_published({"module_list.0.w_perm": wrong})


def test_weights_of_version_0_1_0_load_and_mean_the_same_map():
    """The file was written by uflow-cli 0.1.0, whose names are the first list; with what it made of some features."""
    kept = load_file(Path(__file__).parent / "flow_of_0_1_0.safetensors")
    state = {name.removeprefix("flow."): value for name, value in kept.items() if name.startswith("flow.")}
    tensors = ["global_scale", "global_offset", "permutation", "inverse_permutation"]
    tensors += [f"subnet.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    assert set(state) == {f"stages.{s}.steps.{n}.{t}" for s in range(2) for n in range(4) for t in tensors}
    flow = UFlow((4, 8), [(4, 4), (2, 2)], seed=0)
    flow.load_state_dict(state)
    with torch.no_grad():
        embeddings, log_det = flow([kept["features.0"], kept["features.1"]])
    for scale, z in enumerate(embeddings):
        torch.testing.assert_close(z, kept[f"embeddings.{scale}"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det, kept["log_det_jacobian"], rtol=1e-6, atol=1e-6)
    del state["stages.1.steps.3.subnet.2.bias"]
    with pytest.raises(RuntimeError, match=r"module_list\.3\.subnet\.2\.bias"):
        flow.load_state_dict(state)


@pytest.mark.parametrize("joined", [True, False])
def test_weights_of_version_0_1_0_find_their_stage(joined):
    """Names of old run folders, by stage (finest first) and step, become those of the same step of the same stage."""
    flow = small_flow((5, 9, 17), joined=joined, flow_steps=2)
    grids = {tuple(n.module.dims_in[0][1:]): [] for n in flow.node_list if isinstance(n.module, FlowStep)}
    old = {}
    for name, value in flow.state_dict().items():
        number, rest = name.removeprefix("module_list.").split(".", 1)
        steps = grids[tuple(flow.module_list[int(number)].dims_in[0][1:])]
        if number not in steps:
            steps.append(number)
        scale = flow.grids.index(tuple(flow.module_list[int(number)].dims_in[0][1:]))
        old[f"stages.{scale}.steps.{steps.index(number)}.{rest}"] = value
    other = UFlow(flow.channels, flow.grids, joined=joined, flow_steps=2, seed=5).double()
    other.load_state_dict(old)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in flow.state_dict().items())


def test_freia_is_imported_without_its_warnings(tmp_path):
    """Its docstrings have backslashes that Python warns of whenever it compiles them, as after a first installation."""
    package = Path(FrEIA.__file__).parent
    shutil.copytree(package, tmp_path / "FrEIA", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    code = "import uflow_cli.flow, FrEIA; print(FrEIA.__file__)"
    command = [sys.executable, "-W", "always", "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(str(tmp_path))
    assert "FrEIA" not in result.stderr


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
    step = flow_step(5, kernel_size=1, coupling=coupling, seed=2).double()
    names = [name for name, _ in step.named_parameters()]

    def run(x, *parameters):
        [y], log_det = torch.func.functional_call(step, dict(zip(names, parameters, strict=True)), ([x],))
        return y, log_det

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


@pytest.mark.parametrize("coupling", ["affine", "uniform"])
def test_a_thinned_flow_is_one_whose_second_convolutions_are_multiplied(coupling):
    flow = small_flow((8, 16), coupling=coupling)
    features = [f.double() for f in random_features(flow, 1)]
    whole = flow(features)[0]
    generator = torch.Generator().manual_seed(0)
    kept = [2.0 * (torch.rand(1, s.hidden_channels, 1, 1, generator=generator) > 0.5) for s in flow.steps]
    with flow.thinned(kept):
        thinned, log_det = flow(features)
        back = flow(thinned, rev=True)[0]
    for ours, theirs in zip(back, features, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(a, b) for a, b in zip(flow(features)[0], whole, strict=True))
    with torch.no_grad():
        for step, factors in zip(flow.steps, kept, strict=True):
            step.subnet[2].weight.mul_(factors)
    expected, expected_log_det = flow(features)
    for ours, theirs, other in zip(thinned, expected, whole, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert not torch.allclose(ours, other)
    torch.testing.assert_close(log_det, expected_log_det)


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
