"""Maps of timm networks: those of `features_only`, with weights of which nothing may be missing."""

from __future__ import annotations

import pytest
import timm  # noqa: TID251
import torch
from weights_files import random_state, write_weights

from uflow_cli.config import ModelConfig
from uflow_cli.errors import UflowError, WeightsError
from uflow_cli.features import FeatureExtractor, build_extractor, extractor_spec

CPU = torch.device("cpu")
NETWORKS = {  # one of each family, with timm's indices of the maps at the strides that are used unasked
    "resnet18": ("resnet18.tv_in1k", (1, 2, 3)),
    "efficientnet-b0": ("tf_efficientnet_b0.ns_jft_in1k", (2, 3, 4)),
    "mvitv2-tiny": ("mvitv2_tiny.fb_in1k", (1, 2, 3)),
    "timm:test_convnext": ("test_convnext", (1, 2, 3)),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pyramids")
    return {
        name: write_weights(folder / f"{network}.safetensors", random_state(network))
        for name, (network, _) in NETWORKS.items()
    }


def images(side: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def built(name: str, file, *, input_size: int = 64, **options) -> FeatureExtractor:
    config = ModelConfig(extractor=name, weights=(str(file),), input_size=input_size, precision="fp32", **options)
    return build_extractor(config, device=CPU)


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_timms_features_only(name, files):
    """mvitv2 is built for the input size: timm stretches its embeddings from 224 to 64 pixels."""
    network, indices = NETWORKS[name]
    size = {"img_size": 64} if "vit" in name else {}
    theirs = timm.create_model(
        network, pretrained=True, features_only=True, out_indices=indices,
        pretrained_cfg_overlay={"file": str(files[name])}, **size,
    ).eval()  # fmt: skip
    extractor = built(name, files[name])
    settings = timm.models.get_pretrained_cfg(network)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (settings.mean, settings.std))
    with torch.no_grad():
        expected = theirs((images(64) / 255 - mean) / std)
    features = extractor(images(64))
    assert [f.shape for f in features] == [e.shape for e in expected]
    for f, e in zip(features, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-4)
        assert f.std() > 1e-3
    grids = extractor.spec.grids((64, 64))
    assert [tuple(f.shape[1:]) for f in features] == [
        (c, *g) for c, g in zip(extractor.spec.channels, grids, strict=True)
    ]
    assert not any(p.requires_grad for p in extractor.parameters())


def test_mean_and_standard_deviation_are_the_networks_own():
    assert extractor_spec(ModelConfig(extractor="timm:vit_base_patch16_224.augreg_in21k")).mean == (0.5, 0.5, 0.5)
    assert extractor_spec(ModelConfig(extractor="resnet18")).mean == (0.485, 0.456, 0.406)


def test_other_strides_give_other_maps_and_leave_out_what_is_behind(files):
    extractor = built("resnet18", files["resnet18"], strides=(2, 4))
    assert [f.shape[1:] for f in extractor(images(64))] == [(64, 32, 32), (64, 16, 16)]
    assert not any(".layer2" in key for key in extractor.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-b0", "mvitv2-tiny"])
def test_weight_that_is_missing_is_named(name, files, tmp_path):
    network, _ = NETWORKS[name]
    state = random_state(network)
    lost = {
        "resnet18": "layer2.0.bn1.weight",
        "efficientnet-b0": "blocks.3.0.bn2.bias",
        "mvitv2-tiny": "stages.1.blocks.0.norm1.bias",
    }[name]
    del state[lost]
    path = write_weights(tmp_path / "lost.pth", state)
    with pytest.raises(WeightsError, match=rf"lost.pth does not fit {network} at input size 64 .*{lost}") as raised:
        built(name, path)
    assert "\n" not in str(raised.value)


def test_weights_of_another_network_do_not_fit(files):
    with pytest.raises(WeightsError, match=r"mvitv2_tiny.*does not fit resnet18.tv_in1k") as raised:
        built("resnet18", files["mvitv2-tiny"])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("head", ["none", "ten classes", "wrapped"])
def test_classifier_does_not_matter(head, files, tmp_path):
    state = random_state("resnet18.tv_in1k")
    if head == "none":
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    if head == "ten classes":
        state |= {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if head == "wrapped" else state, path)
    assert built("resnet18", path).digest == built("resnet18", files["resnet18"]).digest


def test_other_weights_have_another_digest(files, tmp_path):
    path = write_weights(tmp_path / "other.safetensors", random_state("resnet18.tv_in1k", seed=1))
    assert built("resnet18", path).digest != built("resnet18", files["resnet18"]).digest


def test_lite_takes_a_file_with_timms_names(tmp_path):
    path = write_weights(tmp_path / "lite.pth", random_state("tf_efficientnet_lite0"))
    extractor = built("efficientnet-lite0", path)
    assert extractor.digest != build_extractor(ModelConfig(), device=CPU).digest
    assert torch.isfinite(extractor(images(64))[2]).all()


def test_network_whose_maps_do_not_double_is_refused():
    with pytest.raises(UflowError, match=r"timm:inception_v3 gives maps .*strides call for"):
        build_extractor(ModelConfig(extractor="timm:inception_v3"), device=CPU)
