"""Patches of good images: which are kept, and how far others are from them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from uflow_cli.features.neighbours import FLOOR, FeatureNeighbours

CHANNELS = (4, 6)


def features(n_images: int, *, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n_images, c, side, side, generator=generator) for c, side in zip(CHANNELS, (16, 8), strict=True)
    ]


def fitted(maps: list[torch.Tensor], n_patches: int = 50, **options) -> FeatureNeighbours:
    witness = FeatureNeighbours(CHANNELS, n_patches)
    witness.fit([maps], n_images=len(maps[0]), **options)
    return witness


def cells(maps: list[torch.Tensor]) -> torch.Tensor:
    """Patches by the definition, (N, C)."""
    fine, coarse = (F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) for x in maps)
    return torch.cat([coarse, F.avg_pool2d(fine, 2)], 1).permute(0, 2, 3, 1).reshape(-1, sum(CHANNELS))


def nearest(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distances of the rows of `a` from the nearest of `b`."""
    return (a[:, None] - b[None]).square().sum(-1).amin(1).sqrt()


def test_u_is_the_squared_distance_from_the_nearest_patch():
    witness, fresh = fitted(features(5)), features(2, seed=1)
    known = witness.patches + witness.mean
    expected = nearest(cells(fresh), known).square()
    [u] = witness(fresh)
    torch.testing.assert_close(u.flatten(), (expected + witness.floor) * witness.factor)
    assert u.shape == (2, 8, 8)


def test_patches_are_those_of_good_images_and_cover_them():
    good = features(5)
    witness, all_cells = fitted(good), cells(good)
    known = witness.patches + witness.mean
    assert nearest(known, all_cells).max() < 1e-4
    assert len(known.unique(dim=0)) == 50
    drawn = all_cells[torch.randperm(len(all_cells), generator=torch.Generator().manual_seed(3))[:50]]
    furthest = [float(nearest(all_cells, chosen).max()) for chosen in (known, drawn)]
    assert furthest[0] < furthest[1]


def test_its_mean_is_the_number_of_channels_where_all_cells_could_be_chosen():
    good = features(5)
    assert float(fitted(good)(good)[0].mean()) == pytest.approx(sum(CHANNELS), rel=1e-4)
    assert fitted(good).n_channels == (10,)


def test_a_known_patch_keeps_a_distance_that_two_machines_agree_on():
    """Few images have fewer cells than there is room for patches: all are known."""
    good = features(1)
    witness = fitted(good, n_patches=200)
    [u] = witness(good)
    variance = float((cells(good) - cells(good).mean(0)).square().sum(1).mean())
    torch.testing.assert_close(u, torch.full_like(u, float(FLOOR * variance * witness.factor)), rtol=1e-3, atol=0)


def test_what_does_not_count_is_never_kept():
    good = features(4)
    shares = torch.zeros(4, 1, 16, 16)
    shares[..., :8] = 1
    witness = FeatureNeighbours(CHANNELS, 60)
    witness.fit([good], [shares], n_images=4)
    inside = cells(good).reshape(4, 8, 8, -1)[:, :, :4].reshape(-1, sum(CHANNELS))
    assert nearest(witness.patches + witness.mean, inside).max() < 1e-4


def test_the_same_seed_keeps_the_same_patches():
    states = [fitted(features(30), seed=seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["patches"], states[2]["patches"])


def test_one_scale_is_compared_by_itself():
    maps = features(5)[:1]
    witness = FeatureNeighbours(CHANNELS[:1], 20)
    witness.fit([maps], n_images=5)
    assert witness(maps)[0].shape == (5, 16, 16)


def test_a_strange_cell_is_seen_where_it_is_alone():
    witness, fresh = fitted(features(20), n_patches=500), features(1, seed=1)
    [before] = witness(fresh)
    fresh[1][0, :, 4, 4] += 30
    [after] = witness(fresh)
    rows, columns = torch.nonzero(after[0] != before[0], as_tuple=True)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (3, 5, 3, 5)
    assert float(after[0, 4, 4]) > 5 * float(before.max())
