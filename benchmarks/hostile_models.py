"""Mutate all that a stranger may send as a model, and see that each is refused in one line or gives a result.

    python benchmarks/hostile_models.py [--cases 100000] [--seed 0] [--workers 1] [--only record,graph,...]

Nine in ten cases are of the record of a run; the others are shared by what takes longer to read. A fault is what
`hostile.run_cases` says: another error, a death, a hang, memory, a program started, a file written elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from hostile import Outcome, damaged, damaged_json, run_cases, told
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from uflow_cli.cache import GIB, CacheFolder
from uflow_cli.calibration import calibration_chart, choose_threshold
from uflow_cli.checkpoints import read_published
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.datasets import read_exclusion
from uflow_cli.detect import detect_images
from uflow_cli.detection.fitted import EvidenceModel
from uflow_cli.detection.prediction import predict
from uflow_cli.engine import INPUT, Engine, build_engine
from uflow_cli.errors import UflowError
from uflow_cli.features.weights import read_weights
from uflow_cli.images import write_png
from uflow_cli.inputs import find_images
from uflow_cli.model import Model
from uflow_cli.report.evaluated import read_losses
from uflow_cli.results import LINES_NAME, RESULT_NAME, read_result
from uflow_cli.run.graph import Graph, find_graph, load_engine, write_graph
from uflow_cli.run.listing import list_runs
from uflow_cli.run.log import LOG_NAME
from uflow_cli.run.record import CONFIG_NAME, GRAPH_NAME, Run, load_run, read_flow
from uflow_cli.run.state import read_state, with_recalibration
from uflow_cli.run.suspects import SUSPECTS_NAME, read_suspects
from uflow_cli.training import Observer, train

SIDE = 64
SHARES = {
    "record": 0.9, "graph_record": 0.02, "graph": 0.02, "large_graph": 0.001, "weights": 0.02, "state": 0.01,
    "checkpoint": 0.01, "result": 0.014, "lists": 0.005,
}  # fmt: skip


def photograph(seed: int) -> NDArray[np.uint8]:
    """Stripes and noise, (SIDE, SIDE, 3)."""
    rng = np.random.default_rng(seed)
    stripes = 110 + 40 * np.sin(2 * np.pi * (np.arange(SIDE) / 12 + rng.random()))[None, :]
    grey = np.clip(stripes + rng.normal(0, 6, (SIDE, SIDE)), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


class Silent:
    """An observer that says nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_more: None


def make_run(folder: Path) -> Run:
    """A run trained for an epoch, with the state of its training, in `folder`."""
    paths = [folder.parent / "good" / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        write_png(path, photograph(i))
    observer: Observer = Silent()  # type: ignore[assignment]
    return train(
        paths, out=folder, dataset="d", category="c", model_config=ModelConfig(input_size=(SIDE, SIDE)),
        config=TrainingConfig(epochs=2, batch_size=4), device=torch.device("cpu"), observer=observer,
        cache=CacheFolder(folder.parent / "cache", GIB), should_stop=lambda: True,
    )  # fmt: skip


def small_graph(model: EvidenceModel) -> bytes:
    """A graph with the maps of `model`, each a mean of pixels times a constant: small, so that damage hits its form."""
    nodes = [
        helper.make_node("Cast", [INPUT], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["planes"], ["grey"], axes=[1], keepdims=1),
    ]
    tensors, outputs = [], []
    for number, grid in enumerate(u.shape[1:] for u in model.evidence_maps([photograph(0)])):
        side = SIDE // int(grid[0])
        nodes += [
            helper.make_node("AveragePool", ["grey"], [f"mean_{number}"], kernel_shape=[side] * 2, strides=[side] * 2),
            helper.make_node("Squeeze", [f"mean_{number}", "channel"], [f"map_{number}"]),
            helper.make_node("Mul", [f"map_{number}", f"factor_{number}"], [f"u_{number}"]),
        ]
        tensors.append(numpy_helper.from_array(np.full(1, 0.5 + number, np.float32), f"factor_{number}"))
        outputs.append(helper.make_tensor_value_info(f"u_{number}", TensorProto.FLOAT, ["batch", *map(int, grid)]))
    tensors.append(numpy_helper.from_array(np.array([1], np.int64), "channel"))
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", SIDE, SIDE, 3])
    graph = helper.make_graph(nodes, "small", [pixels], outputs, tensors)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def outside_graph(graph: bytes, path: str) -> bytes:
    """`graph` with the numbers of its first tensor in the file `path`."""
    model = onnx.load_model_from_string(graph)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return bytes(model.SerializeToString())


class Targets:
    """What is mutated, by name: each takes a seed, and says with a word what came of it."""

    def __init__(self, run: Run, model: Model, large_graph: bytes | None, checkpoints: list[bytes], work: Path) -> None:
        self.run, self.model, self.work = run, model, work
        self.config = (run.folder / CONFIG_NAME).read_text(encoding="utf-8")
        self.flow = (run.folder / run.weights).read_bytes()
        self.state_file = (run.folder / "training.safetensors").read_bytes()
        self.small_graph, self.large = small_graph(model), large_graph
        self.checkpoints = checkpoints
        self.about = Graph(
            "graph-0.onnx", "", run.weights, model.source_channels, model.reach, 17, {"torch": "2"}, 0.0, "1 image"
        )
        self.result = self._result()

    def cases(self) -> dict[str, Callable[[int], str]]:
        """The functions by name."""
        found = {name: getattr(self, name) for name in SHARES}
        return found if self.large is not None else {k: v for k, v in found.items() if k != "large_graph"}

    def record(self, seed: int) -> str:
        """config.json changed, then all that detection, a list of runs and a report make of it."""
        folder = self.work / f"record-{os.getpid()}"
        folder.mkdir(exist_ok=True)
        text = damaged_json(self.config, np.random.default_rng(seed))
        (folder / CONFIG_NAME).write_bytes(text.encode(errors="surrogateescape"))
        (folder / self.run.weights).touch()
        if seed % 5 == 0:
            list_runs([folder])
        run = load_run(folder)
        engine = Engine(run.model, self.model.source_channels, self.model.reach, self._session(), 1)
        return self._judged(run, engine)

    def graph_record(self, seed: int) -> str:
        """graph.json changed, beside a sound graph."""
        folder = self._exported(self.small_graph)
        text = damaged_json((folder / GRAPH_NAME).read_text(encoding="utf-8"), np.random.default_rng(seed))
        (folder / GRAPH_NAME).write_bytes(text.encode(errors="surrogateescape"))
        run = load_run(folder)
        return self._judged(run, load_engine(run)) if find_graph(run) else "no graph"

    def graph(self, seed: int) -> str:
        """A small graph changed, and its checksum with it."""
        rng = np.random.default_rng(seed)
        if seed % 50 == 0:
            places = ["/etc/passwd", "../../x", "/dev/zero", CONFIG_NAME, str(self.run.folder / self.run.weights)]
            graph = outside_graph(self.small_graph, places[seed // 50 % len(places)])
        else:
            graph = damaged(self.small_graph, rng)
        run = load_run(self._exported(graph))
        return self._judged(run, load_engine(run))

    def large_graph(self, seed: int) -> str:
        """The run's own graph changed, and its checksum with it."""
        assert self.large is not None
        run = load_run(self._exported(damaged(self.large, np.random.default_rng(seed))))
        return self._judged(run, load_engine(run))

    def weights(self, seed: int) -> str:
        """The flow's weights changed, half of the time with a name that tells their digest."""
        data = damaged(self.flow, np.random.default_rng(seed))
        folder = self._folder()
        name = f"flow-0001-{hashlib.sha256(data).hexdigest()[:12]}.safetensors" if seed % 2 else self.run.weights
        (folder / name).write_bytes(data)
        (folder / "network.safetensors").write_bytes(data)
        tensors = read_flow(folder / name)
        try:
            self.model.load_state_dict(tensors)
        except RuntimeError:
            return "does not fit"
        finally:
            read_weights(folder / "network.safetensors")
        self._judged(self.run, self.model)
        return "the same" if data == self.flow else "other weights"

    def state(self, seed: int) -> str:
        """The state of a training changed."""
        folder = self._folder()
        rng = np.random.default_rng(seed)
        data = damaged(self.state_file, rng)
        if seed % 2:
            size = int.from_bytes(self.state_file[:8], "little")
            head = json.loads(self.state_file[8 : 8 + size])
            head["__metadata__"]["state"] = damaged_json(head["__metadata__"]["state"], rng)
            text = json.dumps(head).encode()
            data = len(text).to_bytes(8, "little") + text + self.state_file[8 + size :]
        (folder / "training.safetensors").write_bytes(data)
        state, _ = read_state(folder)
        with_recalibration(folder, state)
        return "read"

    def checkpoint(self, seed: int) -> str:
        """A published checkpoint changed, in both of PyTorch's formats."""
        path = self._folder() / "a.ckpt"
        path.write_bytes(damaged(self.checkpoints[seed % len(self.checkpoints)], np.random.default_rng(seed)))
        read_published(path)
        return "read"

    def result(self, seed: int) -> str:
        """detections.json changed: read for a report, and passed over by the next detection."""
        folder = self._folder()
        write_png(folder / "a.png", photograph(1))
        text = damaged_json(self.result_text, np.random.default_rng(seed))
        (folder / RESULT_NAME).write_bytes(text.encode(errors="surrogateescape"))
        find_images([folder])
        _refused_or_not(lambda: read_result(folder))
        (folder / RESULT_NAME).unlink()
        rng = np.random.default_rng(seed)
        lines = [damaged_json(line, rng) if rng.random() < 0.5 else line for line in self.result_lines]
        (folder / LINES_NAME).write_bytes("\n".join([*lines, ""]).encode(errors="surrogateescape"))
        find_images([folder])
        for image in read_result(folder).images:
            _ = image.regions
        return "read"

    def lists(self, seed: int) -> str:
        """A log, a list of suspicious images and lists of one's own changed."""
        folder, rng = self._folder(), np.random.default_rng(seed)
        for name in (LOG_NAME, SUSPECTS_NAME, "list.txt", "list.json"):
            text = f"epoch,loss,held_out_loss\n1,2.5,3.5\n{name},/a/b.png,-1.0\n"
            (folder / name).write_bytes(damaged(text.encode(), rng))
        for read in (
            lambda: read_losses(folder / LOG_NAME), lambda: read_suspects(folder),
            lambda: read_exclusion(folder / SUSPECTS_NAME), lambda: read_exclusion(folder / "list.txt"),
            lambda: read_exclusion(folder / "list.json"),
        ):  # fmt: skip
            _refused_or_not(read)
        return "read"

    def _result(self) -> Callable[[int], str]:
        folder = self._exported(self.small_graph)
        paths = [self.run.folder.parent / "good" / f"{i}.png" for i in range(3)]
        detect_images(load_run(folder), paths, out=self.work / "out", device="cpu", runtime="onnx", nfa_threshold=9.0)
        self.result_text = (self.work / "out" / RESULT_NAME).read_text(encoding="utf-8")
        self.result_lines = (self.work / "out" / LINES_NAME).read_text(encoding="utf-8").splitlines()
        return self.result

    def _folder(self) -> Path:
        folder = self.work / f"case-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _exported(self, graph: bytes) -> Path:
        folder = self._folder()
        about = replace(self.about, sha256=hashlib.sha256(graph).hexdigest())
        write_graph(self.run, graph, about, out=folder)
        return folder

    @cache  # noqa: B019 - a session per process
    def _session(self) -> object:
        run = self.run
        about = {"config": run.model, "source_channels": self.model.source_channels, "reach": self.model.reach}
        return build_engine(self.small_graph, **about).session

    def _judged(self, run: Run, model: EvidenceModel) -> str:
        calibration = run.calibration
        threshold, _ = choose_threshold(calibration, nfa_threshold=None, false_alarm_rate=None)
        calibration_chart(calibration)
        calibration.warnings()
        [found] = predict(model, calibration.detector(model), [photograph(2)], threshold=threshold)
        _ = found.detections, found.mask, found.log_nfa_map, found.log_nfa
        return "defect" if found.is_defect else "good"


def _refused_or_not(read: Callable[[], object]) -> None:
    with contextlib.suppress(UflowError):
        read()


def small_checkpoints() -> list[bytes]:
    """A tiny flow under the published names, with stand-ins for its networks, in both of PyTorch's formats."""
    from training_step import published_graph

    graph = published_graph((8, 8), [(4, 4), (2, 2)], kernel_sizes=[3, 1])
    state = {f"model.flow.{name}": value for name, value in graph.state_dict().items()}
    state |= {f"model.feature_extractor.extractor{i}.norm.weight": torch.ones(8) for i in (1, 2)}
    found = []
    for is_zip in (True, False):
        file = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 7}, file, _use_new_zipfile_serialization=is_zip)
        found.append(file.getvalue())
    return found


def all_targets(work: Path, *, large: bool) -> Targets:
    """The targets, of a run that is trained for this in `work`."""
    from uflow_cli.export import graph_of
    from uflow_cli.run.record import load_model

    run = make_run(work / "run")
    model = load_model(run, device=torch.device("cpu"))
    return Targets(run, model, graph_of(model) if large else None, small_checkpoints(), work)


def main() -> None:
    """Run the cases and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default=",".join(SHARES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        targets = all_targets(Path(name), large="large_graph" in options.only.split(","))
        n_faults = sum(len(found.faults) for found in _outcomes(targets, options))
    sys.exit(1 if n_faults else 0)


def _outcomes(targets: Targets, options: argparse.Namespace) -> Iterator[Outcome]:
    for target, case in targets.cases().items():
        if target not in options.only.split(","):
            continue
        n, start = max(1, round(options.cases * SHARES[target])), time.perf_counter()
        seeds = range(options.seed, options.seed + n)
        found = run_cases(case, seeds, folder=targets.work, n_workers=options.workers)
        seconds, peak = time.perf_counter() - start, found.peak_bytes / 2**20
        print(f"{target}: {n} cases, {seconds:.0f} s, at most {peak:.0f} MiB more: {told(found)}", flush=True)
        yield found


if __name__ == "__main__":
    main()
