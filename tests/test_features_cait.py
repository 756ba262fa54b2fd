"""CaiT tokens are those of the paper's recipe, computed with no more of the networks than is needed."""

from __future__ import annotations

import pytest
import timm  # noqa: TID251
import torch
import torch.nn.functional as F
from timm.models.cait import TalkingHeadAttn  # noqa: TID251
from torch import Tensor
from weights_files import CAIT, random_state, write_weights

from uflow_cli.config import ModelConfig
from uflow_cli.errors import WeightsError
from uflow_cli.features import EXTRACTORS, FeatureExtractor, describe_extractor, extractor_spec
from uflow_cli.features.cait import CAIT_M48, CAIT_S24, QUERIES, CaitBackbone, CaitScale, TalkingHeads
from uflow_cli.features.networks import blank

# Two scales of a small CaiT, laid out like the paper's: the second sees the image at half its side.
SMALL = CaitBackbone("small", (CaitScale(CAIT, 2, 64, 16, 192), CaitScale(CAIT, 1, 32, 32, 192)))


@pytest.fixture(scope="module")
def states() -> list[dict[str, Tensor]]:
    return [random_state(CAIT, seed=scale.block, img_size=scale.side) for scale in SMALL.scales]


@pytest.fixture(scope="module")
def files(states, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cait")
    return [
        write_weights(folder / "fine.safetensors", states[0]),
        write_weights(folder / "coarse.pth", {"model": states[1]}),
    ]


def plain_tokens(state: dict[str, Tensor], x: Tensor, *, block: int) -> Tensor:
    """Tokens (B, C, h, w) after `block` and the final LayerNorm, restated from arXiv 2103.17239."""

    def linear(name: str, t: Tensor) -> Tensor:
        return t @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, t: Tensor) -> Tensor:
        return F.layer_norm(t, t.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def mix(name: str, t: Tensor) -> Tensor:
        mixed = torch.einsum("gh,bhnm->bgnm", state[f"{name}.weight"], t)
        return mixed + state[f"{name}.bias"].view(1, -1, 1, 1)

    patches = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    b, c, h, w = patches.shape
    tokens = patches.flatten(2).transpose(1, 2) + state["pos_embed"]
    n_heads = state["blocks.0.attn.proj_l.weight"].shape[0]
    for i in range(block + 1):
        at = f"blocks.{i}"
        qkv = linear(f"{at}.attn.qkv", norm(f"{at}.norm1", tokens)).view(b, h * w, 3, n_heads, c // n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        logits = torch.einsum("bhnc,bhmc->bhnm", q, k) * (c // n_heads) ** -0.5
        weights = mix(f"{at}.attn.proj_w", mix(f"{at}.attn.proj_l", logits).softmax(-1))
        attended = torch.einsum("bhnm,bhmc->bnhc", weights, v).reshape(b, h * w, c)
        tokens = tokens + state[f"{at}.gamma_1"] * linear(f"{at}.attn.proj", attended)
        hidden = F.gelu(linear(f"{at}.mlp.fc1", norm(f"{at}.norm2", tokens)))
        tokens = tokens + state[f"{at}.gamma_2"] * linear(f"{at}.mlp.fc2", hidden)
    return norm("norm", tokens).transpose(1, 2).view(b, c, h, w)


def test_tokens_equal_a_plain_restatement(states, files):
    extractor = FeatureExtractor(SMALL.spec(None), SMALL.load(SMALL.spec(None), files, input_size=(64, 64)))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    fine, coarse = extractor(images)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (images / 255 - mean) / std
    half = F.interpolate(x, size=(32, 32), mode="bicubic", align_corners=True, antialias=False)
    torch.testing.assert_close(fine, plain_tokens(states[0], x, block=2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(coarse, plain_tokens(states[1], half, block=1), rtol=1e-4, atol=1e-4)
    assert (fine.shape, coarse.shape) == ((2, 192, 4, 4), (2, 192, 2, 2))


def test_one_stride_gives_one_of_the_scales(files):
    spec = SMALL.spec((32,))
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    alone = FeatureExtractor(spec, SMALL.load(spec, files[1:], input_size=(64, 64)))(images)
    both = FeatureExtractor(SMALL.spec(None), SMALL.load(SMALL.spec(None), files, input_size=(64, 64)))(images)
    assert len(alone) == 1
    torch.testing.assert_close(alone[0], both[1])


def test_the_papers_blocks_and_no_others_are_made():
    assert (CAIT_M48.block, CAIT_S24.block) == (40, 20)
    with blank():
        fine, coarse = (
            EXTRACTORS["ms-cait"].skeleton(extractor_spec(ModelConfig(extractor="ms-cait")), input_size=448).networks
        )
    assert (len(fine.network.blocks), len(coarse.network.blocks)) == (41, 21)
    assert not any("token_only" in key or "head" in key for key in fine.state_dict())
    assert fine.norm
    assert coarse.side == 224


def test_whole_networks_are_larger_by_what_is_cut():
    with blank():
        whole = sum(
            sum(p.numel() for p in timm.create_model(scale.network, pretrained=False).parameters())
            for scale in (CAIT_M48, CAIT_S24)
        )
    assert describe_extractor("ms-cait").n_parameters < 0.82 * whole


@pytest.mark.parametrize("n_tokens", [5, QUERIES, 2 * QUERIES + 3])
def test_attention_in_pieces_equals_timms(n_tokens):
    torch.manual_seed(0)
    theirs, ours = (
        TalkingHeadAttn(24, num_heads=3, qkv_bias=True).eval(),
        TalkingHeads(24, num_heads=3, qkv_bias=True).eval(),
    )
    ours.load_state_dict(theirs.state_dict())
    x = 3 * torch.randn(2, n_tokens, 24)
    with torch.no_grad():
        torch.testing.assert_close(ours.double()(x.double()), theirs.double()(x.double()), rtol=1e-10, atol=1e-10)


def test_key_that_is_needed_is_missed_and_one_that_is_not_is_not(states, tmp_path):
    spec = SMALL.spec((16,))
    kept = {key: value for key, value in states[0].items() if not key.startswith(("blocks.3", "head", "cls_token"))}
    SMALL.load(spec, [write_weights(tmp_path / "kept.safetensors", kept)], input_size=(64, 64))
    lost = {key: value for key, value in states[0].items() if key != "blocks.2.gamma_1"}
    with pytest.raises(WeightsError, match=r"lost.pth does not fit cait_xxs24_224.*1 of \d+ .*blocks.2.gamma_1"):
        SMALL.load(spec, [write_weights(tmp_path / "lost.pth", lost)], input_size=(64, 64))


def test_files_in_the_wrong_order_are_told_by_their_shapes(files):
    with pytest.raises(
        WeightsError, match=r"coarse.pth does not fit .*pos_embed is \(1, 4, 192\) and should be \(1, 16, 192\)"
    ):
        SMALL.load(SMALL.spec(None), files[::-1], input_size=(64, 64))


def test_half_precision_files_give_single_precision_features(states, tmp_path):
    spec = SMALL.spec((16,))
    halves = {key: value.half() for key, value in states[0].items()}
    extractor = FeatureExtractor(
        spec, SMALL.load(spec, [write_weights(tmp_path / "half.pth", halves)], input_size=(64, 64))
    )
    assert {p.dtype for p in extractor.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in extractor.parameters())


def test_networks_do_not_hang_on_their_file(states, tmp_path):
    """The file is mapped while it is read; what happens to it later must not reach the network."""
    spec = SMALL.spec((16,))
    path = write_weights(tmp_path / "weights.pth", states[0])
    extractor = FeatureExtractor(spec, SMALL.load(spec, [path], input_size=(64, 64)))
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    before = extractor(images)[0]
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(extractor(images)[0], before)
    assert (
        extractor.digest
        == FeatureExtractor(
            spec, SMALL.load(spec, [write_weights(tmp_path / "again.safetensors", states[0])], input_size=(64, 64))
        ).digest
    )
