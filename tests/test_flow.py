"""The flow is invertible, its log-determinant is right, and its size is the paper's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from uflow_cli.flow import FlowStep, UFlow, bits_per_dimension, embedding_channels, negative_log_likelihood

# METHOD 2: channels and strides at an input of 448, and the trainable parameters of the flow alone.
PAPER_SIZES = [
    ((64, 128, 256), (4, 8, 16), 1_479_880),  # ResNet-18
    ((256, 512, 1024), (4, 8, 16), 23_594_080),  # Wide-ResNet-50-2
    ((768,), (16,), 8_858_112),  # CaiT-M48 alone
    ((768, 384), (16, 32), 12_216_480),  # MS-CaiT
    ((40, 112, 320), (8, 16, 32), 1_942_792),  # lite
]


def random_features(flow: UFlow, n_images: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = zip(flow.channels, flow.grids, strict=True)
    return [torch.randn(n_images, c, h, w, generator=generator) for c, (h, w) in shapes]


def perturbed(flow: UFlow, seed: int = 1) -> UFlow:
    """The flow away from its initial state, where global affine maps are the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (p for p in flow.parameters() if p.requires_grad):  # up-sampling keeps its filter
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return flow


@pytest.mark.parametrize(("channels", "strides", "expected"), PAPER_SIZES)
def test_trainable_parameters_are_the_papers(channels, strides, expected):
    flow = UFlow(channels, [(448 // stride, 448 // stride) for stride in strides])
    assert sum(p.numel() for p in flow.parameters() if p.requires_grad) == expected


def test_embedding_channels_of_the_papers_extractor():
    assert embedding_channels((768, 384)) == (816, 192)
    assert embedding_channels((40, 112, 320)) == (59, 76, 160)


@pytest.mark.parametrize("channels", [(8, 16), (7, 13), (5, 9, 17), (6,)])
def test_inverse_undoes_forward(channels):
    n = len(channels)
    flow = perturbed(UFlow(channels, [(2 ** (n - s), 2 ** (n - s)) for s in range(n)])).double()
    features = [f.double() for f in random_features(flow, 3)]
    embeddings, log_det = flow(features)
    back, inverse_log_det = flow.inverse(embeddings)
    for f, b in zip(features, back, strict=True):
        torch.testing.assert_close(b, f, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-8, atol=1e-8)


def test_embeddings_have_the_channels_and_grids_promised():
    flow = UFlow((40, 112, 320), [(8, 8), (4, 4), (2, 2)])
    embeddings, log_det = flow(random_features(flow, 2))
    assert [tuple(z.shape) for z in embeddings] == [(2, 59, 8, 8), (2, 76, 4, 4), (2, 160, 2, 2)]
    assert log_det.shape == (2,)
    assert sum(z[0].numel() for z in embeddings) == flow.n_dimensions


@pytest.mark.parametrize("channels", [(8, 16), (5, 9)])
def test_log_determinant_equals_that_of_the_numerical_jacobian(channels):
    flow = perturbed(UFlow(channels, [(2, 2), (1, 1)])).double()
    features = [f.double() for f in random_features(flow, 1)]
    sizes = [f.numel() for f in features]

    def flat_map(x: Tensor) -> Tensor:
        parts = [part.view(f.shape) for part, f in zip(x.split(sizes), features, strict=True)]
        return torch.cat([z.flatten() for z in flow(parts)[0]])

    jacobian = torch.autograd.functional.jacobian(flat_map, torch.cat([f.flatten() for f in features]))
    _, expected = torch.linalg.slogdet(jacobian)
    torch.testing.assert_close(flow(features)[1][0], expected, rtol=1e-9, atol=1e-9)


def test_permutation_by_index_equals_the_dense_convolution():
    step = FlowStep([(6, 3, 3)], kernel_size=1, generator=torch.Generator().manual_seed(3))
    x = torch.randn(2, 6, 3, 3)
    matrix = torch.zeros(6, 6, 1, 1)
    matrix[torch.arange(6), step.permutation] = 1.0
    torch.testing.assert_close(step._permute(x)[0], torch.nn.functional.conv2d(x, matrix), rtol=1e-6, atol=1e-6)


def test_seed_fixes_weights_and_permutations_and_leaves_global_generators_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - FrEIA draws from the global state; ours must not depend on it
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
