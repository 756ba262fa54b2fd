"""Plain transformers give the mean of their middle blocks at any size that their patches fit."""

from __future__ import annotations

import pytest
import timm  # noqa: TID251
import torch
import torch.nn.functional as F
from weights_files import random_state, write_weights

from uflow_cli.config import ModelConfig
from uflow_cli.errors import UflowError
from uflow_cli.features import build_extractor, describe_extractor, extractor_spec, find_backbone
from uflow_cli.features.vit import VitBackbone
from uflow_cli.model import check_model_config

CPU = torch.device("cpu")
TINY = "timm:test_vit"  # of timm's own tests: patches of 16


@pytest.fixture
def weights(tmp_path):
    return str(write_weights(tmp_path / "w.safetensors", random_state("test_vit")))


def extractor(**settings):
    return build_extractor(ModelConfig(precision="fp32", **settings), device=CPU)


def plain_mean(state, image, blocks):
    """The scale restated: tokens of a whole network after each block, normalised over channels, and their mean."""
    network = timm.create_model("test_vit", pretrained=False, dynamic_img_size=True).eval()
    network.load_state_dict(state)
    x = image.float() / 255
    x = (x - torch.tensor([0.5, 0.5, 0.5]).view(3, 1, 1)) / 0.5
    with torch.inference_mode():
        tokens = network.patch_embed(x)
        tokens = network.norm_pre(network.patch_drop(network._pos_embed(tokens)))
        maps = []
        for number, block in enumerate(network.blocks, 1):
            tokens = block(tokens)
            if number in blocks:
                patches = tokens[:, network.num_prefix_tokens :]
                maps.append(F.layer_norm(patches, patches.shape[-1:]).transpose(1, 2))
    h, w = image.shape[2] // 16, image.shape[3] // 16
    return torch.stack(maps).mean(dim=0).reshape(len(image), -1, h, w)


@pytest.mark.parametrize(("asked", "blocks"), [(None, {2, 3, 4, 5}), ((3,), {3}), ((6, 1), {1, 6})])
@pytest.mark.parametrize("size", [(160, 160), (96, 64)])
def test_the_scale_is_the_mean_of_normalised_blocks(weights, asked, blocks, size):
    made = extractor(extractor=TINY, weights=(weights,), blocks=asked, input_size=size)
    assert set(made.spec.blocks) == blocks
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    [ours] = made(image)
    assert ours.shape[1:] == (made.spec.channels[0], *made.spec.grids(size)[0])
    settings = timm.models.get_pretrained_cfg("test_vit")
    assert (settings.mean, settings.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    torch.testing.assert_close(ours, plain_mean(random_state("test_vit"), image, blocks), rtol=1e-3, atol=1e-3)


def test_one_network_at_two_sizes_is_two_scales(weights):
    made = extractor(extractor=TINY, weights=(weights,), scales="96:16 | 48:16", input_size=96)
    image = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    fine, coarse = made(image)
    alone = extractor(extractor=TINY, weights=(weights,), input_size=96)
    assert torch.equal(fine, alone(image)[0])
    small = F.interpolate(image.float(), (48, 48), mode="area")
    torch.testing.assert_close(coarse, alone(small)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["dinov2-small", "dinov3-small", "clip-base", "siglip-base", "deit-small"])
def test_transformers_of_today_are_known_with_their_licences(name):
    facts = describe_extractor(name)
    assert facts.spec.blocks == (4, 5, 6, 7, 8, 9)
    assert facts.spec.normalisation == "channel"
    assert facts.licences == ("dinov3-license" if "dinov3" in name else "apache-2.0",)


def test_other_depths_and_sizes_are_one_line():
    assert isinstance(find_backbone("timm:vit_tiny_patch16_224"), VitBackbone)
    assert not isinstance(find_backbone("timm:test_resnet"), VitBackbone)
    for settings, message in (
        ({"extractor": TINY, "blocks": (7,)}, "blocks: timm:test_vit has 1 to 6, not 7"),
        ({"extractor": "resnet18", "blocks": (1,)}, "resnet18 is none"),
    ):
        with pytest.raises(UflowError, match=message):
            extractor_spec(ModelConfig(**settings))
    with pytest.raises(UflowError, match="use a multiple of 14"):
        check_model_config(ModelConfig(extractor="dinov2-small", input_size=450))


def test_weights_that_the_hub_keeps_behind_a_licence_are_told_with_what_to_do(monkeypatch):
    import huggingface_hub  # noqa: TID251
    from huggingface_hub.errors import GatedRepoError  # noqa: TID251

    from uflow_cli.features.networks import hub_weights

    def gated(*_arguments, **_options):
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", gated)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_arguments: None)
    source = hub_weights("vit_small_patch16_dinov3.lvd1689m")
    with pytest.raises(
        OSError, match=r"huggingface.co/timm/vit_small_patch16_dinov3.lvd1689m, and then `hf auth login`"
    ):
        source.fetch()
