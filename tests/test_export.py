"""Exported graphs: the same U as PyTorch, for every form of model, and folders that need nothing else."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from products import SMALL_MODEL, defective_image, good_image

from uflow_cli import export
from uflow_cli.config import ModelConfig
from uflow_cli.detect import detect_images
from uflow_cli.engine import build_engine, simplified
from uflow_cli.errors import CheckpointError, ExportError, UflowError
from uflow_cli.export import LARGEST_DIFFERENCE, export_run, graph_of, relative_difference
from uflow_cli.features.cait import CaitBackbone, CaitScale
from uflow_cli.features.catalogue import EXTRACTORS
from uflow_cli.images import write_png
from uflow_cli.model import Model, build_model
from uflow_cli.run.graph import find_graph, load_engine, open_model
from uflow_cli.run.record import BEFORE_RECALIBRATION_NAME, CONFIG_NAME, GRAPH_NAME, is_run, load_run

CPU = torch.device("cpu")
CAIT = "cait_xxs24_224.fb_dist_in1k"


def test_the_graph_of_a_run_gives_the_maps_of_pytorch(graph_run: Path) -> None:
    run = load_run(graph_run)
    graph, model, engine = find_graph(run), open_model(run, device="cpu", runtime="torch"), load_engine(run)
    assert isinstance(model, Model)
    assert graph is not None
    assert graph.largest_difference <= LARGEST_DIFFERENCE
    assert graph.compared_on == "3 test images"
    for image in (good_image(900), defective_image(901)[0]):
        assert relative_difference(engine, model, image) <= LARGEST_DIFFERENCE


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL_MODEL, architecture="average", coupling="uniform", kernel_sizes=(3,), flow_steps=2),
        replace(SMALL_MODEL, architecture="single:2", merge="min", flow_steps=2),
        ModelConfig(input_size=128, scales="128:16 | 128:32+64:16", flow_steps=2, precision="fp32"),
        ModelConfig(extractor="resnet18", input_size=64, flow_steps=2, precision="fp32"),
    ],
    ids=lambda config: f"{config.extractor}, {config.architecture}, {config.scales}",
)
def test_every_form_of_model_has_a_graph(config: ModelConfig) -> None:
    require_same_maps(config)


def require_same_maps(config: ModelConfig) -> None:
    model = build_model(config, device=CPU, pretrained=False)
    model.flow.eval()
    engine = build_engine(
        graph_of(model), config=model.config, source_channels=model.source_channels, reach=model.reach
    )
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*model.config.input_size, 3), dtype=np.uint8) for _ in range(2)]
    assert len(engine.evidence_maps(images)[0]) == 2
    assert relative_difference(engine, model, images[0]) <= LARGEST_DIFFERENCE


def test_a_graph_that_computes_something_else_is_refused(small_run: Path, tmp_path: Path, monkeypatch) -> None:
    run = copy_of(small_run, tmp_path)
    image = tmp_path / "image.png"
    write_png(image, good_image(0))
    monkeypatch.setattr(export, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ExportError, match="is refused: its U differs"):
        export_run(load_run(run), [image], which="test images")
    assert not (run / GRAPH_NAME).exists()
    assert not list(run.glob("*.onnx"))


def test_what_cannot_be_exported_says_why_in_one_line() -> None:
    model = build_model(replace(SMALL_MODEL, precision="bf16"), device=CPU)
    with pytest.raises(ExportError, match="precision bf16"):
        graph_of(model)


@pytest.fixture(scope="module")
def exported(graph_run: Path, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for another machine. Read only."""
    folder = tmp_path_factory.mktemp("exported") / "stripes"
    export_run(load_run(graph_run), photographs, which="test images", out=folder)
    return folder


def test_tokens_of_transformers_have_a_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = (CaitScale(CAIT, 1, 64, 16, 192), CaitScale(CAIT, 0, 32, 32, 192))
    monkeypatch.setitem(EXTRACTORS, "small-cait", CaitBackbone("small-cait", scales))
    require_same_maps(ModelConfig(extractor="small-cait", input_size=64, flow_steps=1, precision="fp32"))


def test_an_exported_folder_is_all_that_another_machine_needs(
    graph_run: Path, exported: Path, tmp_path: Path, photographs: list[Path]
) -> None:
    assert sorted(path.suffix for path in exported.iterdir()) == [".json", ".json", ".onnx"]
    results = [
        detect_images(load_run(run), photographs, out=tmp_path / name, device="cpu", runtime=runtime)
        for name, run, runtime in (("a", exported, "auto"), ("b", graph_run, "onnx"), ("c", graph_run, "torch"))
    ]
    assert results[0].images[0].log_nfa == results[1].images[0].log_nfa
    for found, reference in zip(results[0].images, results[2].images, strict=True):
        assert found.verdict == reference.verdict
        assert found.log_nfa == pytest.approx(reference.log_nfa, abs=1e-3)
        assert found.anomaly_score == pytest.approx(reference.anomaly_score, abs=1e-4)
    with pytest.raises(CheckpointError, match="has a graph but no weights"):
        open_model(load_run(exported), device="cpu", runtime="torch")


@pytest.mark.parametrize("kind", [CONFIG_NAME, "graph-*.onnx"])
def test_a_damaged_folder_is_refused(exported: Path, tmp_path: Path, kind: str) -> None:
    folder = copy_of(exported, tmp_path)
    [path] = folder.glob(kind)
    data = bytearray(path.read_bytes())
    place = data.index(b'"lot": 100') + 8 if kind == CONFIG_NAME else len(data) // 2
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="its checksum is another"):
        load_engine(load_run(folder))


def test_a_graph_of_earlier_weights_is_not_used(graph_run: Path) -> None:
    run = replace(load_run(graph_run), weights="flow-0009-000000000000.safetensors")
    assert find_graph(run) is None
    with pytest.raises(CheckpointError, match="has no graph of its weights"):
        open_model(run, device="cpu", runtime="onnx")


def test_a_graph_in_another_folder_is_not_read(graph_run: Path, tmp_path: Path) -> None:
    run = copy_of(graph_run, tmp_path)
    text = (run / GRAPH_NAME).read_text(encoding="utf-8")
    (run / GRAPH_NAME).write_text(text.replace('"graph-', '"../graph-'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="names a graph in another folder"):
        load_engine(load_run(run))


def test_a_recalibration_says_in_one_line_that_the_record_of_the_graph_is_damaged(
    exported: Path, tmp_path: Path
) -> None:
    run = load_run(copy_of(exported, tmp_path))
    (run.folder / GRAPH_NAME).write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"graph\.json is damaged"):
        run.recalibrate(run.calibration)
    assert not (run.folder / BEFORE_RECALIBRATION_NAME).exists()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_recalibration_that_is_killed_at_any_write_leaves_a_folder_that_detects(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = load_run(copy_of(exported, tmp_path))
    other = replace(run.calibration, lowest_log_nfa=run.calibration.lowest_log_nfa[1:])
    with killed_at_write(number, monkeypatch):
        run.recalibrate(other)
    after = load_run(run.folder)
    load_engine(after)
    assert after.calibration in (run.calibration, other)
    after.recalibrate(other)
    load_engine(load_run(run.folder))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_export_that_is_killed_at_any_write_leaves_no_run_and_is_given_again(
    graph_run: Path, photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run, out = load_run(graph_run), tmp_path / "out"
    with killed_at_write(number, monkeypatch):
        export_run(run, photographs, which="test images", out=out)
    assert not is_run(out)
    export_run(run, photographs, which="test images", out=out)
    load_engine(load_run(out))


@contextlib.contextmanager
def killed_at_write(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within, the process dies where the `number`th file comes into its place."""
    writes, put = iter(range(1, 10)), Path.replace

    def put_or_die(path: Path, target: Path) -> Path:
        if next(writes) >= number:
            raise KeyboardInterrupt
        return put(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", put_or_die)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_recalibration_between_two_reads_of_a_detection_is_no_damage(exported: Path, tmp_path: Path) -> None:
    run = load_run(copy_of(exported, tmp_path))
    before = find_graph(run)
    run.recalibrate(replace(run.calibration, lowest_log_nfa=run.calibration.lowest_log_nfa[1:]))
    load_engine(run, before)


def test_a_folder_for_temporary_files_that_takes_none_is_one_line(tmp_path: Path, monkeypatch) -> None:
    model = build_model(replace(SMALL_MODEL, precision="fp32"), device=CPU, pretrained=False)
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    for make in (lambda: graph_of(model), lambda: simplified(b"")):
        with pytest.raises(ExportError, match=r"file.* folder for temporary files with TMPDIR"):
            make()


def test_no_graph_is_made_without_images_to_compare_it_on(graph_run: Path) -> None:
    with pytest.raises(ExportError, match="no images to compare"):
        export_run(load_run(graph_run), [], which="images")


def test_the_graph_runs_on_no_gpu(graph_run: Path) -> None:
    with pytest.raises(UflowError, match="computes on the CPU"):
        open_model(load_run(graph_run), device="cuda", runtime="onnx")


def test_detection_with_a_graph_loads_no_pytorch_and_nothing_for_terminals_or_pages(
    graph_run: Path, photographs: list[Path], tmp_path: Path
) -> None:
    program = """
import sys
for name in ("torch", "torchvision", "timm", "FrEIA", "onnx", "scipy", "rich", "jinja2"):
    sys.modules[name] = None  # importing it is an error
sys.argv = ["uflow", "detect", *sys.argv[1:]]
from uflow_cli.cli import main
main()
"""
    command = [sys.executable, "-c", program, *map(str, photographs), "--model", str(graph_run), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "detections.json").is_file()


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "copy"))
