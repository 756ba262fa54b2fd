"""Extractors: shapes, the embedded weights, frozenness, and normalisation without trained weights."""

from __future__ import annotations

import pytest
import torch

from uflow_cli.errors import UflowError
from uflow_cli.features import (
    EFFICIENTNET_LITE0,
    EXTRACTORS,
    FeatureExtractor,
    FeatureNormalisation,
    build_extractor,
    check_input_size,
    extractor_spec,
    stack_images,
    timm_key_of_lite0,
    weights_digest,
)


@pytest.fixture(scope="module")
def lite() -> FeatureExtractor:
    return build_extractor("efficientnet-lite0")


@pytest.mark.parametrize("name", sorted(EXTRACTORS))
def test_declared_channels_and_strides_are_those_of_the_features(name):
    extractor = build_extractor(name)
    side = 2 * max(extractor.spec.strides)
    features = extractor(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    expected = [(1, c, h, w) for c, (h, w) in zip(extractor.spec.channels, extractor.spec.grids(side), strict=True)]
    assert [tuple(f.shape) for f in features] == expected


def test_keys_of_the_embedded_weights_map_to_timms():
    names = {"_conv_stem.weight", "_bn0.running_mean", "_blocks.0._project_conv.weight", "_blocks.1._project_conv.weight",
             "_blocks.15._bn2.bias", "_fc.bias"}  # fmt: skip
    mapped = {name: timm_key_of_lite0(name, expanded_blocks=frozenset({"1", "15"})) for name in names}
    assert mapped == {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._project_conv.weight": "blocks.1.0.conv_pwl.weight",
        "_blocks.15._bn2.bias": "blocks.6.0.bn3.bias",
        "_fc.bias": None,
    }


def test_embedded_weights_see_pictures(lite):
    """Only pretrained weights answer a structured image with features far from those of noise of the same histogram."""
    side = 128
    rows = torch.arange(side)
    disc = ((rows[:, None] - 64) ** 2 + (rows[None, :] - 64) ** 2 < 40**2).to(torch.uint8) * 200
    image = disc.expand(1, 3, side, side)
    shuffled = disc.flatten()[torch.randperm(side * side, generator=torch.Generator().manual_seed(0))]
    noise = shuffled.view(side, side).expand(1, 3, side, side)
    a, b = lite(image)[2].flatten(), lite(noise)[2].flatten()
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) < 0.5


def test_extractor_is_frozen_and_stays_in_eval_mode(lite):
    image = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    before = weights_digest(lite)
    first = lite(image)
    lite.train()
    again = lite(image)
    assert not any(p.requires_grad for p in lite.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert weights_digest(lite) == before


def test_channel_normalisation_standardises_the_training_features_and_trains_nothing():
    normalisation = FeatureNormalisation("channel", (4, 6))
    generator = torch.Generator().manual_seed(0)
    batches = [
        [5 + 3 * torch.randn(n, 4, 8, 8, generator=generator), 100 * torch.randn(n, 6, 4, 4, generator=generator)]
        for n in (5, 3)
    ]
    normalisation.fit(batches)
    normalised = [torch.cat(maps) for maps in zip(*(normalisation(b) for b in batches), strict=True)]
    for f in normalised:
        torch.testing.assert_close(f.mean(dim=(0, 2, 3)), torch.zeros(f.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(f.var(dim=(0, 2, 3), correction=0), torch.ones(f.shape[1]), atol=1e-4, rtol=0)
    assert not list(normalisation.parameters())


def test_channel_that_never_moves_stays_finite():
    normalisation = FeatureNormalisation("channel", (2,))
    f = torch.randn(3, 2, 4, 4)
    f[:, 1] = 7.0
    normalisation.fit([[f]])
    assert torch.isfinite(normalisation([f])[0]).all()


def test_layer_normalisation_is_over_channels_and_positions():
    [f] = FeatureNormalisation("layer", (3,))([torch.randn(2, 3, 5, 5) * 9 + 4])
    torch.testing.assert_close(f.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(f.var(dim=(1, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_images_become_a_channels_first_batch():
    image = torch.arange(2 * 2 * 3, dtype=torch.uint8).view(2, 2, 3)
    batch = stack_images([image, image])
    assert batch.shape == (2, 3, 2, 2)
    assert batch[0, 1, 0, 1] == image[0, 1, 1]


def test_unknown_extractor_lists_the_known_ones():
    with pytest.raises(UflowError, match="efficientnet-lite0"):
        extractor_spec("efficientnet-lite9")


@pytest.mark.parametrize("side", [0, 32, 100, 449])
def test_input_size_must_be_a_multiple_of_the_coarsest_stride(side):
    with pytest.raises(UflowError, match="multiple of 32"):
        check_input_size(EFFICIENTNET_LITE0, side)
