"""Precision: chosen by what the device can do, written down by a run, and small in its effect."""

from __future__ import annotations

import copy

import pytest
import torch
from products import SMALL_TRAINING, Recorder
from weights_files import random_state, write_weights

from uflow_cli.config import ModelConfig
from uflow_cli.errors import CheckpointError, UflowError, WeightsError
from uflow_cli.features import FeatureExtractor, build_extractor
from uflow_cli.features.extractor import choose_precision, cpu_has_bf16, round_matrices
from uflow_cli.model import build_model
from uflow_cli.run.record import load_model, load_run
from uflow_cli.training import train

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu sse amx_bf16 amx_tile\n", True), ("processor: 0\nflags\t: avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False), ("model name: amx_bf16\nflags: sse\n", False), ("", False),
    ],
)  # fmt: skip
def test_processor_is_asked_for_its_instructions(tmp_path, text, expected):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert cpu_has_bf16(path) is expected


def test_processor_that_tells_nothing_has_none(tmp_path):
    assert not cpu_has_bf16(tmp_path / "missing")


def test_asked_for_precision_wins_and_auto_follows_the_device(monkeypatch):
    for gains, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("uflow_cli.features.extractor.cpu_has_bf16", lambda gains=gains: gains)
        assert choose_precision("auto", device=CPU) == expected
        assert choose_precision("auto", device=CPU, embedded=True) == "fp32"
        assert choose_precision("bf16", device=CPU, embedded=True) == "bf16"
        assert choose_precision("fp32", device=CPU) == "fp32"
        assert choose_precision("bf16", device=CPU) == "bf16"
    for capability, expected in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _device, capability=capability: capability)
        assert choose_precision("auto", device=torch.device("cuda")) == expected


def test_weights_rounded_once_give_what_autocast_gives():
    spec = build_extractor(ModelConfig(precision="fp32"), device=CPU).spec
    network = build_extractor(ModelConfig(precision="fp32"), device=CPU).backbone
    rounded = copy.deepcopy(network)
    round_matrices(rounded)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(network(x), rounded(x), strict=True):
            assert torch.equal(a, b)
    assert torch.bfloat16 in {p.dtype for p in rounded.parameters()}
    assert spec.name == "efficientnet-lite0"


def test_bfloat16_features_are_single_precision_numbers_close_to_the_others():
    exact, fast = (build_extractor(ModelConfig(precision=p), device=CPU) for p in ("fp32", "bf16"))
    image = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for a, b in zip(exact(image), fast(image), strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a - b).std() < 0.1 * a.std()
    assert exact.digest == fast.digest


def trained(product, out, **model):
    paths = sorted((product / "stripes" / "train" / "good").iterdir())
    config = ModelConfig(input_size=64, **model)
    train(
        paths, out=out, dataset="mvtec", category="stripes", model_config=config, config=SMALL_TRAINING, device=CPU,
        observer=Recorder([]),
    )  # fmt: skip
    return out


@pytest.mark.parametrize("gains", [True, False])
def test_run_keeps_what_auto_became(product, tmp_path, monkeypatch, gains):
    """A run trained where bf16 gains must see the same features where it does not, and the other way round."""
    monkeypatch.setattr("uflow_cli.features.extractor.cpu_has_bf16", lambda: gains)
    file = write_weights(tmp_path / "w.pth", random_state("test_resnet"))
    run = load_run(trained(product, tmp_path / "run", extractor="timm:test_resnet", weights=(str(file),)))
    assert run.model.precision == ("bf16" if gains else "fp32")
    monkeypatch.setattr("uflow_cli.features.extractor.cpu_has_bf16", lambda: not gains)
    assert load_model(run, device=CPU).extractor.precision == run.model.precision


def test_run_remembers_its_weights_file_and_another_place_can_be_named(product, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_weights(tmp_path / "w.safetensors", random_state("test_resnet"))
    folder = trained(
        product, tmp_path / "run", extractor="timm:test_resnet", weights=("w.safetensors",), strides=(8, 16)
    )
    run = load_run(folder)
    assert run.model.weights == (str(tmp_path / "w.safetensors"),)
    assert run.model.strides == (8, 16)
    assert isinstance(load_model(run, device=CPU).extractor, FeatureExtractor)
    (tmp_path / "w.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(WeightsError, match=r"w.safetensors does not exist; .*--weights"):
        load_model(run, device=CPU)
    load_model(load_run(folder, weights=("moved.safetensors",)), device=CPU)
    write_weights(tmp_path / "w.safetensors", random_state("test_resnet", seed=1))
    with pytest.raises(CheckpointError, match=r"other weights of timm:test_resnet .*--weights"):
        load_model(run, device=CPU)


def test_precision_that_is_none_is_refused():
    with pytest.raises(UflowError, match=r"precision = 'fp64': one of auto, fp32, bf16 is needed"):
        ModelConfig(precision="fp64")  # type: ignore[arg-type]


def test_model_says_where_its_files_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_weights(tmp_path / "w.pth", random_state("test_resnet"))
    model = build_model(ModelConfig(extractor="timm:test_resnet", weights=("w.pth",), input_size=64), device=CPU)
    assert model.config.weights == (str(tmp_path / "w.pth"),)
    assert model.config.precision in ("fp32", "bf16")
