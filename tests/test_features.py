"""Extractors: by name, frozen, with scales that double, and normalised without trained weights."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from uflow_cli.config import ModelConfig
from uflow_cli.errors import UflowError
from uflow_cli.features import (
    EXTRACTORS,
    FeatureExtractor,
    FeatureNormalisation,
    build_extractor,
    check_input_size,
    describe_extractor,
    extractor_spec,
    find_backbone,
    stack_images,
    weights_digest,
)
from uflow_cli.features.catalogue import check_maps
from uflow_cli.features.extractor import choose_strides, coarsest_strides
from uflow_cli.features.lite import BLOCKS, timm_key_of_lite

CPU = torch.device("cpu")
PAPERS = {  # docs/method.md, section 1: channels, strides and normalisation
    "ms-cait": ((768, 384), (16, 32), "none"),
    "cait-m48": ((768,), (16,), "none"),
    "resnet18": ((64, 128, 256), (4, 8, 16), "layer"),
    "wide_resnet50_2": ((256, 512, 1024), (4, 8, 16), "layer"),
    "efficientnet-lite0": ((40, 112, 320), (8, 16, 32), "channel"),
}


@pytest.fixture(scope="module")
def lite() -> FeatureExtractor:
    return build_extractor(ModelConfig(precision="fp32"), device=CPU)


@pytest.mark.parametrize("name", PAPERS)
def test_scales_and_normalisation_are_the_papers(name):
    spec = extractor_spec(ModelConfig(extractor=name))
    assert (spec.channels, spec.strides, spec.normalisation) == PAPERS[name]


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_extractor_gives_the_maps_that_it_declares(name):
    spec = extractor_spec(ModelConfig(extractor=name))
    assert all(coarse == 2 * fine for fine, coarse in itertools.pairwise(spec.strides))
    check_maps(find_backbone(name), spec, input_size=(448, 448))


def test_maps_other_than_declared_are_refused():
    spec = extractor_spec(ModelConfig(extractor="resnet18"))
    with pytest.raises(UflowError, match=r"\(64, 112, 112\).*\(65, 112, 112\)"):
        check_maps(find_backbone("resnet18"), replace(spec, channels=(65, 128, 256)), input_size=(448, 448))


def test_network_that_cannot_take_the_input_size_is_refused():
    backbone = find_backbone("timm:crossvit_9_240")
    with pytest.raises(UflowError, match=r"crossvit_9_240 .*input size 448"):
        check_maps(backbone, backbone.spec(None), input_size=(448, 448))


def test_keys_of_the_embedded_weights_map_to_timms():
    names = {"_conv_stem.weight", "_bn0.running_mean", "_blocks.0._project_conv.weight", "_blocks.1._project_conv.weight",
             "_blocks.15._bn2.bias", "_fc.bias"}  # fmt: skip
    mapped = {name: timm_key_of_lite(name, expanded_blocks=frozenset({"1", "15"}), blocks=BLOCKS[0]) for name in names}
    assert mapped == {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._project_conv.weight": "blocks.1.0.conv_pwl.weight",
        "_blocks.15._bn2.bias": "blocks.6.0.bn3.bias",
        "_fc.bias": None,
    }


@pytest.mark.parametrize("number", [0, 1, 2])
def test_packaged_weights_see_pictures(number):
    """Only pretrained weights answer a structured image with features far from those of noise of the same histogram."""
    lite = build_extractor(ModelConfig(extractor=f"efficientnet-lite{number}", precision="fp32"), device=CPU)
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
    first = lite(image)
    lite.train()
    again = lite(image)
    assert not any(p.requires_grad for p in lite.parameters())
    assert not any(module.training for module in lite.modules())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert weights_digest(lite.backbone.state_dict()) == lite.digest


@pytest.mark.parametrize("strides", [(4,), (2, 4), (16, 32)])
def test_lite_gives_the_strides_asked_for(lite, strides):
    chosen = build_extractor(ModelConfig(strides=strides, precision="fp32"), device=CPU)
    image = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    assert [64 // f.shape[-1] for f in chosen(image)] == list(strides)
    if strides == (16, 32):
        assert torch.equal(chosen(image)[1], lite(image)[2])


@pytest.mark.parametrize(
    ("strides", "message"),
    [((4, 8, 64), "stride 64.*has 2, 4, 8, 16, 32"), ((4, 16), "4,16.*twice.*has 2, 4, 8"), ((16, 8), "16,8.*twice")],
)
def test_strides_that_cannot_be_had_name_those_that_can(strides, message):
    for name in ("efficientnet-lite0", "resnet18"):
        with pytest.raises(UflowError, match=message):
            extractor_spec(ModelConfig(extractor=name, strides=strides))


def test_strides_of_the_papers_extractor_choose_its_scales():
    assert extractor_spec(ModelConfig(extractor="ms-cait", strides=(32,))).channels == (384,)
    with pytest.raises(UflowError, match="ms-cait has 16, 32"):
        extractor_spec(ModelConfig(extractor="ms-cait", strides=(8,)))


def test_no_strides_at_all_are_refused():
    with pytest.raises(UflowError, match="resnet has 4, 8"):
        choose_strides("resnet", (), offered=(4, 8))


@pytest.mark.parametrize(
    ("offered", "expected"),
    [((2, 4, 8, 16, 32), (8, 16, 32)), ((16,), (16,)), ((7, 14, 28), (7, 14, 28)), ((16, 32, 64), (16, 32)),
     ((4, 8, 16), (4, 8, 16)), ((12, 17), (17,)), ((64,), (64,))],
)  # fmt: skip
def test_strides_unasked_are_the_coarsest_that_double(offered, expected):
    assert coarsest_strides(offered) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite9", "efficientnet-lite0"), ("resnet", "did you mean resnet18"), ("mscait", "ms-cait"),
        ("timm:resnet1888", "timm:resnet18"), ("timm:resnet18.tv_in2k", "known: .*resnet18.tv_in1k"), ("", "uflow backbones"),
    ],
)  # fmt: skip
def test_unknown_extractor_names_the_closest(name, message):
    with pytest.raises(UflowError, match=message) as raised:
        extractor_spec(ModelConfig(extractor=name))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("side", [0, 32, 100, 449])
def test_input_size_must_be_a_multiple_of_the_coarsest_stride(side):
    with pytest.raises(UflowError, match="multiple of 32"):
        check_input_size(extractor_spec(ModelConfig()), (side, side))
    with pytest.raises(UflowError, match=f"input size 448 x {side} does not fit .* multiple of 32"):
        check_input_size(extractor_spec(ModelConfig()), (448, side))


@pytest.mark.parametrize("name", ["ms-cait", "cait-m48"])
def test_fixed_position_embeddings_take_one_input_size(name):
    spec = extractor_spec(ModelConfig(extractor=name))
    check_input_size(spec, (448, 448))
    with pytest.raises(UflowError, match=rf"input size 224 does not fit {name}.*448"):
        check_input_size(spec, (224, 224))
    with pytest.raises(UflowError, match=rf"input size 448 x 896 does not fit {name}.* 448 x 448 alone"):
        check_input_size(spec, (448, 896))


def test_facts_count_what_is_used():
    """ResNet-18 has 11.69 M parameters; the last stage and the head are left out at strides 4, 8 and 16."""
    facts = describe_extractor("resnet18")
    assert facts.n_parameters == 2_782_784
    assert describe_extractor("efficientnet-lite0").files[0] is not None


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


def test_no_normalisation_changes_nothing():
    normalisation = FeatureNormalisation("none", (3,))
    features = [torch.randn(2, 3, 5, 5)]
    normalisation.fit([features])
    assert normalisation(features)[0] is features[0]
    assert not normalisation.state_dict()


def test_images_become_a_channels_first_batch():
    image = torch.arange(2 * 2 * 3, dtype=torch.uint8).view(2, 2, 3)
    batch = stack_images([image, image])
    assert batch.shape == (2, 3, 2, 2)
    assert batch[0, 1, 0, 1] == image[0, 1, 1]
