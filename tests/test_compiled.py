"""Features by the extractor's graph: PyTorch's but for rounding, the same bits each time, kept under a name of their own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from products import SMALL_MODEL, SMALL_TRAINING, Recorder, good_image

from uflow_cli import compiled
from uflow_cli.cache import GIB, CacheFolder, FeatureCache, feature_settings
from uflow_cli.compiled import CompiledExtractor, with_compiled_extractor, with_original_extractor
from uflow_cli.config import ModelConfig
from uflow_cli.errors import ExportError, NoRoomError
from uflow_cli.model import Model, build_model
from uflow_cli.run.graph import find_graph
from uflow_cli.run.record import Run
from uflow_cli.run.state import has_state, read_state
from uflow_cli.training import resume, train

CPU = torch.device("cpu")
FEATURES = """
import hashlib, torch
from products import SMALL_MODEL, good_image
from uflow_cli.compiled import with_compiled_extractor
from uflow_cli.model import build_model
torch.set_num_threads(2)
model = with_compiled_extractor(build_model(SMALL_MODEL, device=torch.device("cpu")))
for maps in model.features([good_image(seed) for seed in range(3)]):
    print(hashlib.sha256(maps.numpy().tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return with_compiled_extractor(build_model(SMALL_MODEL, device=CPU))


@pytest.mark.parametrize(
    "config",
    [SMALL_MODEL, ModelConfig(input_size=64, scales="64:16 | 64:32+32:16"), ModelConfig(input_size=(64, 128))],
    ids=["one size", "several sizes", "a rectangle"],
)
def test_features_are_those_of_pytorch_but_for_rounding(config: ModelConfig) -> None:
    torch_model = build_model(config, device=CPU)
    model = with_compiled_extractor(torch_model)
    assert isinstance(model.extractor, CompiledExtractor)
    images = [good_image(seed, 128) for seed in range(3)]
    for ours, theirs in zip(model.features(images), torch_model.features(images), strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_an_image_has_the_same_features_beside_any_others_and_in_any_process(model: Model) -> None:
    images = [good_image(seed) for seed in range(3)]
    together = [maps.numpy() for maps in model.features(images)]
    for index, image in enumerate(images):
        for maps, alone in zip(together, model.features([image]), strict=True):
            np.testing.assert_array_equal(maps[index], alone[0].numpy())
    elsewhere = subprocess.run(
        [sys.executable, "-c", FEATURES], check=True, capture_output=True, text=True,
        env={"PYTHONPATH": ":".join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])},
    )  # fmt: skip
    assert elsewhere.stdout.split() == [hashlib.sha256(maps.tobytes()).hexdigest() for maps in together]


def test_kept_features_say_which_engine_made_them(model: Model, tmp_path: Path, monkeypatch) -> None:
    cache = CacheFolder(tmp_path, GIB)
    by_torch = with_original_extractor(model)
    assert "onnxruntime" not in feature_settings(by_torch)["versions"]
    assert feature_settings(model)["versions"]["onnxruntime"]
    names = {FeatureCache(cache, one)._name for one in (model, by_torch)}
    assert len(names) == 2
    monkeypatch.setattr(compiled.importlib.metadata, "version", lambda name: "0.0")
    assert FeatureCache(cache, model)._name not in names


def test_what_is_no_fp32_on_a_cpu_stays_in_pytorch() -> None:
    half = build_model(replace(SMALL_MODEL, precision="bf16"), device=CPU)
    assert with_compiled_extractor(half) is half
    elsewhere = replace(build_model(SMALL_MODEL, device=CPU), device=torch.device("meta"))
    assert with_compiled_extractor(elsewhere) is elsewhere


def test_a_graph_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LARGEST_DIFFERENCE", -1.0)
    model = with_compiled_extractor(build_model(SMALL_MODEL, device=CPU))
    with pytest.raises(ExportError, match="gives features that differ by"):
        model.features([good_image(0)])


def run_training(paths: list[Path], out: Path, cache: Path | None, recorder: Recorder, **options: object) -> Run:
    return train(
        paths, out=out, dataset="mvtec", category="stripes", model_config=SMALL_MODEL,
        config=replace(SMALL_TRAINING, epochs=2), device=CPU, observer=recorder, compile_graph=True,
        cache=CacheFolder(cache, GIB) if cache else None, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def paths(product: Path) -> list[Path]:
    return sorted((product / "stripes" / "train" / "good").iterdir())


def test_where_a_graph_has_no_room_the_run_is_finished_and_told_how_to_get_one(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder([])
    with monkeypatch.context() as full:
        full.setattr("uflow_cli.run.graph.write_bytes", no_room)
        run = run_training(paths, tmp_path / "run", tmp_path / "cache", recorder)
    assert run.progress.state == "finished"
    assert find_graph(run) is None
    assert not has_state(run.folder)
    [warning] = recorder.warnings
    assert warning.startswith("no graph was made: ")
    assert warning.endswith(f"cannot be written; free its disk; then: uflow export --model {run.folder}")


def no_room(path: Path, *_: object, **__: object) -> None:
    raise NoRoomError(f"{path}: cannot be written; free its disk")


def weights_of(run: Run) -> bytes:
    return (run.folder / run.weights).read_bytes()


def test_training_resuming_and_computing_anew_give_the_same_bits(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_training(paths, tmp_path / "a", tmp_path / "cache", Recorder([]))
    assert find_graph(whole) is not None
    run_training(paths, tmp_path / "b", None, Recorder([]), should_stop=lambda: True)
    assert read_state(tmp_path / "b", with_tensors=False)[0].compiled_features
    continued = resume(tmp_path / "b", paths, device=CPU, observer=Recorder([]))  # it knows how it began
    assert weights_of(whole) == weights_of(continued)
    monkeypatch.setattr(compiled, "open_session", lambda graph: pytest.fail("all features are kept"))
    again = run_training(paths, tmp_path / "c", tmp_path / "cache", recorder := Recorder([]), should_stop=lambda: True)
    assert not recorder.warnings
    assert again.extractor_digest == whole.extractor_digest


@pytest.mark.parametrize("kept", [True, False])
def test_a_network_without_a_graph_trains_by_pytorch_and_one_line_says_so(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise ExportError("it cannot be exported (no such operator)")

    monkeypatch.setattr(compiled, "onnx_graph", refuse)
    recorder = Recorder([])
    run_training(paths, tmp_path / "a", tmp_path / "cache" if kept else None, recorder, should_stop=lambda: True)
    assert recorder.warnings == ["PyTorch computes the features: it cannot be exported (no such operator)"]
    assert not read_state(tmp_path / "a", with_tensors=False)[0].compiled_features
    monkeypatch.undo()
    by_torch = train(
        paths, out=tmp_path / "b", dataset="mvtec", category="stripes", model_config=SMALL_MODEL,
        config=replace(SMALL_TRAINING, epochs=2), device=CPU, observer=recorder, should_stop=lambda: True,
    )  # fmt: skip
    assert weights_of(by_torch) == (tmp_path / "a" / str(by_torch.weights)).read_bytes()
