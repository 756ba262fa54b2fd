"""Likelihood map: its range, its value on known embeddings, and the order of up-sampling and exponential."""

from __future__ import annotations

import math

import torch

from uflow_cli.flow.likelihood import MAX_SQUARED_NORM, anomaly_score, likelihood_map, squared_norms


def test_zero_embeddings_have_likelihood_one_and_score_zero():
    embeddings = [torch.zeros(2, 5, 4, 4), torch.zeros(2, 7, 2, 2)]
    torch.testing.assert_close(likelihood_map(embeddings, size=(8, 8)), torch.ones(2, 1, 8, 8))
    torch.testing.assert_close(anomaly_score(embeddings, size=(8, 8)), torch.zeros(2, 1, 8, 8))


def test_scales_are_averaged_after_the_exponential():
    embeddings = [torch.full((1, 3, 2, 2), 2.0), torch.zeros(1, 4, 1, 1)]
    expected = 0.5 * (math.exp(-0.5 * 4.0) + 1.0)
    torch.testing.assert_close(likelihood_map(embeddings, size=(4, 4)), torch.full((1, 1, 4, 4), expected))


def test_upsampling_comes_after_the_exponential():
    z = torch.tensor([[[[0.0, 4.0]]]])  # one channel, one row of two cells
    middle = likelihood_map([z], size=(1, 4))[0, 0, 0, 1].item()
    assert math.isclose(middle, 0.75 * 1.0 + 0.25 * math.exp(-8.0), rel_tol=1e-6)


def test_a_stranger_cell_scores_higher():
    z = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    z[..., 3, 5] *= 4
    score = anomaly_score([z], size=(8, 8))[0, 0]
    assert score.argmax().item() == 3 * 8 + 5
    assert 0 <= score.min() <= score.max() < 1


def test_embeddings_beyond_float32_are_anomalous_and_finite():
    z = torch.zeros(1, 2, 1, 3)
    z[0, 0, 0] = torch.tensor([1e30, float("nan"), float("inf")])
    [u] = squared_norms([z])
    assert torch.equal(u, torch.full((1, 1, 3), MAX_SQUARED_NORM))
    torch.testing.assert_close(anomaly_score([z], size=(1, 3)), torch.ones(1, 1, 1, 3))


def test_squared_norms_sum_over_channels():
    z = torch.randn(2, 5, 3, 4)
    [u] = squared_norms([z])
    torch.testing.assert_close(u, torch.einsum("bchw,bchw->bhw", z, z))
