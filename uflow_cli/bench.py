"""Time each part of the work on this machine; no data and no weights are needed.

Contenders of a comparison take turns, so that all see the same machine, and their inputs rotate, so that the processor
cannot learn one of them. Times are wall-clock medians over rounds with quartiles; differences below 2 % are no change.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from uflow_cli.calibration import Calibration, calibrate
from uflow_cli.config import ModelConfig, Runtime, TrainingConfig
from uflow_cli.detect import detect_images
from uflow_cli.detection.detector import Detector
from uflow_cli.detection.fitted import EvidenceModel
from uflow_cli.detection.nfa import Background, a_contrario
from uflow_cli.detection.prediction import predict
from uflow_cli.export import export_run
from uflow_cli.features import stack_images
from uflow_cli.flow import negative_log_likelihood
from uflow_cli.flow.likelihood import squared_norms
from uflow_cli.images import write_png
from uflow_cli.model import Model, build_model
from uflow_cli.run.graph import load_engine
from uflow_cli.run.record import Origin, Progress, Run, save_weights, write_run

Part = Literal["nfa", "pipeline"]

PAPER_EMBEDDINGS = ((816, 28), (192, 14))  # channels and side per scale of the paper's extractor
LITE_GRIDS = ((59, 56), (76, 28), (160, 14))
NO_CHANGE = 0.02
FOLDER_IMAGES = 4
BATCH = 16  # small maps of one call


@dataclass(frozen=True)
class Timing:
    """One row: milliseconds per item, median and quartiles over rounds; `ratio` is to the first of its comparison."""

    comparison: str
    contender: str
    unit: str  # what an item is
    milliseconds: float
    lower: float
    upper: float
    ratio: float


@dataclass(frozen=True)
class Bench:
    """All timings and what they were taken on."""

    timings: tuple[Timing, ...]
    machine: dict[str, str]
    seed: int
    peak_memory_mib: float


@dataclass(frozen=True)
class Comparison:
    """Contenders for one job. Each is called with the number of the round and does `n_items` items."""

    name: str
    unit: str
    n_items: int
    contenders: dict[str, Callable[[int], object]]
    most_rounds: int = 15  # fewer for what takes seconds


def run_bench(
    parts: Sequence[Part], *, quick: bool, seed: int, device: torch.device, on_progress: Callable[[int], None]
) -> Bench:
    """Time `parts`; `quick` takes fewer rounds and smaller maps. `on_progress(1)` is called after each comparison."""
    timings: list[Timing] = []
    for comparison in comparisons(parts, quick=quick, seed=seed, device=device):
        timings += time_comparison(comparison, rounds=min(5 if quick else 15, comparison.most_rounds))
        on_progress(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return Bench(tuple(timings), machine_facts(device), seed, peak)


def n_comparisons(parts: Sequence[Part], *, quick: bool) -> int:
    """How many comparisons `run_bench` makes."""
    return ((6 if quick else 7) if "nfa" in parts else 0) + (7 if "pipeline" in parts else 0)


def time_comparison(comparison: Comparison, *, rounds: int) -> list[Timing]:
    """Interleaved rounds of all contenders after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in comparison.contenders}
    for turn in range(rounds + 1):
        for name, contender in comparison.contenders.items():
            start = time.perf_counter()
            contender(turn)
            if turn:
                times[name].append((time.perf_counter() - start) * 1e3 / comparison.n_items)
    first = next(iter(times.values()))
    timings = []
    for name, values in times.items():
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        timings.append(Timing(comparison.name, name, comparison.unit, median, lower, upper, ratio))
    return timings


def comparisons(parts: Sequence[Part], *, quick: bool, seed: int, device: torch.device) -> Iterator[Comparison]:
    """The comparisons of `parts`, made one at a time so that their inputs do not pile up."""
    if "nfa" in parts:
        yield from _nfa_comparisons(np.random.default_rng(seed), quick=quick)
    if "pipeline" in parts:
        yield from _pipeline_comparisons(seed, quick=quick, device=device)


def _nfa_comparisons(rng: np.random.Generator, *, quick: bool) -> Iterator[Comparison]:
    yield _embedding_step("paper's grids, U to regions", PAPER_EMBEDDINGS, rng)
    yield _embedding_step("lite grids, U to regions", LITE_GRIDS, rng)
    for side, n_maps in ((28, 64), (56, 32), (256, 4)) if quick else ((28, 64), (56, 32), (256, 4), (1024, 2)):
        maps = [rng.chisquare(64, (n_maps, side, side)).astype(np.float32) for _ in range(3)]
        yield Comparison(
            f"{side} x {side} noise, whole step beside a tree alone", "map", n_maps, _tree_contenders(maps)
        )
    z = [rng.standard_normal((4, 816, 28, 28), np.float32) for _ in range(3)]
    contenders: dict[str, Callable[[int], object]] = {
        "uflow": lambda turn: squared_norms([torch.from_numpy(z[turn % 3])]),
        "numpy": lambda turn: np.square(z[turn % 3]).sum(axis=1),
    }
    yield Comparison("sum of squares, 816 x 28 x 28", "image", 4, contenders)


def _embedding_step(name: str, embeddings: Sequence[tuple[int, int]], rng: np.random.Generator) -> Comparison:
    laws = [Background(channels) for channels, _ in embeddings]
    inputs = [[rng.chisquare(c, (16, n, n)).astype(np.float32) for c, n in embeddings] for _ in range(3)]
    contenders: dict[str, Callable[[int], object]] = {
        "uflow, one thread": lambda turn: a_contrario(inputs[turn % 3], background=laws, n_threads=1),
        "uflow, all cores": lambda turn: a_contrario(inputs[turn % 3], background=laws),
    }
    return Comparison(name, "image", 16, contenders)


def _tree_contenders(maps: Sequence[NDArray[np.float32]]) -> dict[str, Callable[[int], object]]:
    """Ours as a whole, one thread; of higra and scikit-image, where they are installed, the max-tree alone."""
    law = [Background(64)]
    contenders: dict[str, Callable[[int], object]] = {
        "uflow, whole step": lambda turn: [
            a_contrario([u[None]], background=law, n_threads=1) for u in maps[turn % len(maps)]
        ]
    }
    if len(maps[0]) > BATCH:
        contenders[f"uflow, {BATCH} maps a call"] = lambda turn: [
            a_contrario([maps[turn % len(maps)][start : start + BATCH]], background=law, n_threads=1)
            for start in range(0, len(maps[0]), BATCH)
        ]
    try:
        import higra
    except ImportError:
        pass
    else:
        graph = higra.get_4_adjacency_graph(maps[0].shape[1:])
        contenders["higra, tree alone"] = lambda turn: [
            higra.component_tree_max_tree(graph, u) for u in maps[turn % len(maps)]
        ]
    try:
        from skimage.morphology import max_tree
    except ImportError:
        pass
    else:
        contenders["scikit-image, tree alone"] = lambda turn: [
            max_tree(u, connectivity=1) for u in maps[turn % len(maps)]
        ]
    return contenders


def _pipeline_comparisons(seed: int, *, quick: bool, device: torch.device) -> Iterator[Comparison]:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (448, 448, 3), dtype=np.uint8) for _ in range(4)]
    batches = [stack_images([torch.from_numpy(images[(i + j) % 4]) for j in range(4)]).to(device) for i in range(4)]
    model = build_model(ModelConfig(), device=device, seed=seed)
    name = f"features, {model.extractor.spec.name} at 448, {model.extractor.precision}"
    yield Comparison(name, "image", 4, {device.type: _synchronised(_extract(model, batches))})
    features = [[f.clone() for f in model.extractor(batch)] for batch in batches]
    model.normalisation.fit(features)
    yield Comparison("flow, forward", "image", 4, {device.type: _synchronised(_forward(model, features))})
    yield Comparison("flow, training step", "image", 4, {device.type: _synchronised(_training_step(model, features))})
    assert model.neighbours is not None
    model.neighbours.fit([[f.clone() for f in batch] for batch in features], n_images=16)
    with torch.inference_mode():
        maps = [model.evidence(batch, model.embed(batch)[0]) for batch in features]
    calibration = calibrate(
        [torch.cat(source).cpu().numpy() for source in zip(*maps, strict=True)], n_channels=model.source_channels,
        tests=model.config.tests, reach=model.reach, is_fused=True,
    )  # fmt: skip
    yield from _detection_comparisons(model, calibration, images, quick=quick)


def _detection_comparisons(
    model: Model, calibration: Calibration, images: Sequence[NDArray[np.uint8]], *, quick: bool
) -> Iterator[Comparison]:
    """PyTorch and the compiled graph beside each other: evidence, detection, a folder of images, a cold start."""
    detector = calibration.detector(model)
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / "images" / f"{number}.png" for number in range(FOLDER_IMAGES)]
        for number, path in enumerate(paths):
            write_png(path, images[number % len(images)])
        run = _run_of(model, calibration, Path(name) / "run", paths)
        evidence_models: dict[str, EvidenceModel] = {model.device.type: model, "graph": load_engine(run)}
        evidence: dict[str, Callable[[int], object]] = {}
        detection: dict[str, Callable[[int], object]] = {}
        for kind, one in evidence_models.items():
            evidence[kind] = partial(_evidence, one, images)
            detection[f"{kind}, with mask"] = partial(_detect, one, detector, images, masks=True)
            detection[f"{kind}, regions alone"] = partial(_detect, one, detector, images, masks=False)
        yield Comparison("pixels to U, one image at a time", "image", 1, evidence)
        yield Comparison("whole detection, one image at a time", "image", 1, detection)
        folder: dict[str, Callable[[int], object]] = {}
        for runtime in ("torch", "onnx"):
            for pictures in (True, False):
                folder[f"{runtime}, {'with' if pictures else 'no'} pictures"] = partial(
                    _detect_folder, run, paths, runtime=runtime, pictures=pictures
                )
        yield Comparison(
            "a folder of images, files to files", "image", FOLDER_IMAGES, folder, most_rounds=2 if quick else 7
        )
        start: dict[str, Callable[[int], object]] = {
            runtime: partial(_start, run, paths[0], runtime=runtime) for runtime in ("torch", "onnx")
        }
        yield Comparison(
            "cold start of uflow detect to one written result", "start", 1, start, most_rounds=2 if quick else 7
        )


def _run_of(model: Model, calibration: Calibration, folder: Path, paths: Sequence[Path]) -> Run:
    """A run in `folder` with a graph that was compared on the images at `paths`."""
    run = Run(
        folder, model.config, TrainingConfig(), Origin("bench", "noise", 0, 0, 0),
        Progress(1, 1, None, "finished", 1, "none", 0.0), calibration, model.extractor.digest,
        save_weights(folder, model, epoch=1),
    )  # fmt: skip
    write_run(run)
    export_run(run, paths, which="images of noise")
    return run


def _evidence(model: EvidenceModel, images: Sequence[NDArray[np.uint8]], turn: int) -> object:
    return model.evidence_maps([images[turn % len(images)]])


def _detect(
    model: EvidenceModel, detector: Detector, images: Sequence[NDArray[np.uint8]], turn: int, *, masks: bool
) -> object:
    return [(p.detections, p.mask if masks else None) for p in predict(model, detector, [images[turn % len(images)]])]


def _detect_folder(run: Run, paths: Sequence[Path], _turn: int, *, runtime: Runtime, pictures: bool) -> object:
    return detect_images(run, paths, out=run.folder / "found", runtime=runtime, masks=pictures, overlays=pictures)


def _start(run: Run, path: Path, _turn: int, *, runtime: Runtime) -> object:
    options = ["--model", str(run.folder), "--runtime", runtime, "--out", str(run.folder / "found")]
    return subprocess.run(
        [sys.executable, "-m", "uflow_cli", "detect", str(path), *options], check=True, capture_output=True
    )


def _extract(model: Model, batches: Sequence[torch.Tensor]) -> Callable[[int], object]:
    laid_out = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    return lambda turn: model.extractor(laid_out[turn % len(laid_out)])


def _forward(model: Model, features: Sequence[Sequence[torch.Tensor]]) -> Callable[[int], object]:
    def forward(turn: int) -> object:
        with torch.inference_mode():
            return model.embed(features[turn % len(features)])

    return forward


def _training_step(model: Model, features: Sequence[Sequence[torch.Tensor]]) -> Callable[[int], object]:
    optimiser = torch.optim.Adam(model.flow.parameters(), lr=1e-5)

    def step(turn: int) -> None:
        loss = negative_log_likelihood(*model.embed(features[turn % len(features)])).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()

    return step


def _synchronised(job: Callable[[int], object]) -> Callable[[int], object]:
    """The job, and the wait until a GPU has done it."""

    def run(turn: int) -> None:
        job(turn)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def machine_facts(device: torch.device) -> dict[str, str]:
    """Processor, cores, threads, GPU and versions that the timings depend on."""
    names = ("uflow-cli", "torch", "onnxruntime", "numpy", "timm", "opencv-python-headless", "higra", "scikit-image")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        **versions,
    }
