"""Gaussians over features: they equal the plain formula, whatever the batches are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from uflow_cli.features.gaussian import SHRINKAGE, FeatureGaussians

CHANNELS = (3, 5, 4)


def features(n: int, *, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = [torch.randn(c, c, generator=generator) for c in CHANNELS]
    maps = [
        torch.randn(n, 8 >> s, 8 >> s, c, generator=generator) @ m
        for s, (c, m) in enumerate(zip(CHANNELS, mix, strict=True))
    ]
    return [m.permute(0, 3, 1, 2) + 2.0 for m in maps]


def test_distances_are_those_of_mahalanobis():
    gaussians, maps = FeatureGaussians(CHANNELS), features(20)
    gaussians.fit([maps])
    joined = torch.cat([maps[1], F.avg_pool2d(maps[0], 2)], dim=1).permute(0, 2, 3, 1).double().numpy()
    rows = joined.reshape(-1, 8)
    covariance = np.cov(rows.T, bias=True)
    covariance += SHRINKAGE * covariance.diagonal().mean() * np.eye(8)
    centred = rows - rows.mean(axis=0)
    expected = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred).reshape(20, 4, 4)
    np.testing.assert_allclose(gaussians(maps)[0].numpy(), expected, rtol=1e-3)


def test_sources_are_neighbouring_scales_at_the_coarser_grid():
    gaussians = FeatureGaussians(CHANNELS)
    assert gaussians.n_channels == (8, 9)
    assert [tuple(u.shape) for u in gaussians(features(2))] == [(2, 4, 4), (2, 2, 2)]
    assert FeatureGaussians((7,)).n_channels == (7,)


def test_batches_do_not_matter():
    one, many, maps = FeatureGaussians(CHANNELS), FeatureGaussians(CHANNELS), features(12)
    one.fit([maps])
    many.fit([[m[i : i + 5] for m in maps] for i in range(0, 12, 5)])
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, many.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_mean_distance_of_what_it_was_fitted_to_is_the_number_of_channels():
    gaussians, maps = FeatureGaussians(CHANNELS), features(50)
    gaussians.fit([maps])
    for u, n in zip(gaussians(maps), gaussians.n_channels, strict=True):
        assert float(u.mean()) == pytest.approx(n, rel=0.1)  # a little less: shrinkage


def test_channels_that_never_change_do_not_break_it():
    gaussians = FeatureGaussians((2,))
    gaussians.fit([[torch.ones(3, 2, 4, 4)]])
    assert all(bool(torch.isfinite(u).all()) for u in gaussians([torch.ones(1, 2, 4, 4)]))
