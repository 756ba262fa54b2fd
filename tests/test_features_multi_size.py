"""Several input sizes: the maps of one network at each, joined where their grids are equal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from products import good_image

from uflow_cli.cache import feature_settings
from uflow_cli.config import ModelConfig
from uflow_cli.errors import UflowError
from uflow_cli.features import build_extractor, describe_extractor, stack_images
from uflow_cli.features.multi_size import parse_scales
from uflow_cli.model import build_model

CPU = torch.device("cpu")
SCALES = "128:8 | 128:16+64:8 | 128:32+64:16 | 64:32"


def images(side):
    return stack_images([torch.from_numpy(good_image(i, side)) for i in range(2)])


def test_joined_maps_are_those_of_the_network_at_each_size():
    joined = build_extractor(ModelConfig(scales=SCALES, input_size=128), device=CPU)
    alone = build_extractor(ModelConfig(strides=(8, 16, 32), input_size=128), device=CPU)
    batch = images(128)
    large = dict(zip((8, 16, 32), alone(batch), strict=True))
    normalised = (batch / 255.0 - alone.mean) / alone.std
    small = dict(zip((8, 16, 32), alone.backbone(F.avg_pool2d(normalised, 2)), strict=True))
    expected = [large[8], torch.cat([large[16], small[8]], 1), torch.cat([large[32], small[16]], 1), small[32]]
    found = joined(batch)
    assert [f.shape for f in found] == [e.shape for e in expected]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert (
        tuple(tuple(f.shape[2:]) for f in found) == joined.spec.grids((128, 128)) == ((16, 16), (8, 8), (4, 4), (2, 2))
    )


def test_the_network_runs_once_per_size():
    extractor = build_extractor(ModelConfig(scales=SCALES, input_size=128), device=CPU)
    sides = []
    extractor.backbone.network.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    extractor(images(128))
    assert sides == [128, 64]


def test_specification_counts_joined_channels():
    spec = describe_extractor("efficientnet-lite0", scales="448:16|448:32 + 224:16| 224:32").spec
    assert spec.channels == (112, 320 + 112, 320)
    assert spec.strides == (16, 32, 64)
    assert spec.grids((448, 448)) == ((28, 28), (14, 14), (7, 7))
    assert spec.scales == "448:16 | 448:32+224:16 | 224:32"
    assert len(spec.sources) == 1


def test_kept_features_know_the_scales():
    settings = [
        feature_settings(build_model(ModelConfig(input_size=64, scales=scales), device=CPU))
        for scales in (None, "64:8 | 64:16", "64:8 | 32:8", "64:8|32:8")
    ]
    assert settings[0] != settings[1] != settings[2] != settings[0]
    assert settings[2] == settings[3]


@pytest.mark.parametrize(
    ("scales", "reason"),
    [
        ("", "is not SIZE:STRIDE"),
        ("448", "is not SIZE:STRIDE"),
        ("448:16 |", "is not SIZE:STRIDE"),
        ("448:16+", "is not SIZE:STRIDE"),
        ("0:16", "is not SIZE:STRIDE"),
        ("450:16", "no multiple of stride 16"),
        ("448:16+224:16", "different grids"),
        ("448:16+448:16", "one map twice"),
        ("448:16|448:16", "28, 28; each"),
        ("448:32|448:16", "14, 28; each"),
    ],
)
def test_scales_that_make_no_sense_are_one_line(scales, reason):
    with pytest.raises(UflowError, match=reason):
        parse_scales(scales)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"input_size": 96}, "largest of its scales is 128"),
        ({"input_size": (128, 160)}, "128 x 160 does not fit .* a multiple of 64"),
        ({"strides": (8, 16)}, "drop one of them"),
        ({"extractor": "cait-m48"}, "cait-m48"),
        ({"scales": "128:64 | 64:64"}, "stride 64"),
    ],
)
def test_settings_that_do_not_go_with_scales_are_one_line(settings, reason):
    with pytest.raises(UflowError, match=reason):
        build_model(ModelConfig(**{"scales": SCALES, "input_size": 128, **settings}), device=CPU)
