"""Which runtime is to run a graph: PyTorch, ONNX Runtime and OpenVINO beside each other on one graph of pixels to U.

    pip install openvino
    python benchmarks/engines.py [--extractor efficientnet-lite0 resnet18] [--rounds 9]

Contenders take turns in one process on rotating inputs. Times are milliseconds of processor time of all threads per
image, median and quartiles, and of the wall. The largest difference of U is relative to PyTorch's, of untrained
networks; bits: whether U of an image is the same once more, with two threads, and beside others in a batch. Start is
the wall time of a process that imports the runtime, loads the graph and computes one image.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray

from uflow_cli.config import ModelConfig
from uflow_cli.engine import INPUT
from uflow_cli.export import PixelsToEvidence, graph_of
from uflow_cli.model import build_model

Maps = Sequence[NDArray[np.float32]]
Contender = Callable[[NDArray[np.uint8]], Maps]

START = {
    "ONNX Runtime": "import onnxruntime as r, numpy as n, sys; s = r.InferenceSession(sys.argv[1]); "
    "s.run(None, {'pixels': n.zeros((1, 448, 448, 3), n.uint8)})",
    "OpenVINO": "import openvino as o, numpy as n, sys; c = o.Core(); "
    "s = c.compile_model(c.read_model(sys.argv[1]), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'}); "
    "s([n.zeros((1, 448, 448, 3), n.uint8)])",
}


def contenders(path: Path, reference: PixelsToEvidence, n_threads: int) -> dict[str, Contender]:
    """PyTorch first: ratios are to it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": n_threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)

    def pytorch(pixels: NDArray[np.uint8]) -> Maps:
        torch.set_num_threads(n_threads)
        with torch.inference_mode():
            return [u.numpy() for u in reference(torch.from_numpy(pixels))]

    return {
        "PyTorch": pytorch,
        "ONNX Runtime": lambda pixels: session.run(None, {INPUT: pixels}),
        "OpenVINO": lambda pixels: [np.array(u) for u in compiled([pixels]).values()],
    }


def compare(path: Path, reference: PixelsToEvidence, *, n_threads: int, batch: int, rounds: int) -> None:
    """One line per contender."""
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, 256, (batch, 448, 448, 3), dtype=np.uint8) for _ in range(3)]
    jobs = contenders(path, reference, n_threads)
    expected = jobs["PyTorch"](inputs[0])
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            job(inputs[turn % 3])
            if turn:
                spent = time.process_time() - cpu, time.perf_counter() - wall
                times[name].append((1e3 * spent[0] / batch, 1e3 * spent[1] / batch))
    for name, job in jobs.items():
        found = job(inputs[0])
        difference = max(float((abs(a - b) / b).max()) for a, b in zip(found, expected, strict=True))
        low, median, high = statistics.quantiles([cpu for cpu, _ in times[name]], n=4, method="inclusive")
        ratio = statistics.median(a[0] / b[0] for a, b in zip(times[name], times["PyTorch"], strict=True))
        wall = statistics.median(wall for _, wall in times[name])
        print(
            f"| {n_threads} | {batch} | {name} | {median:.1f} ({low:.1f}-{high:.1f}) | {ratio:.2f} | {wall:.1f} | "
            f"{difference:.0e} |",
            flush=True,
        )


def print_bits(path: Path, reference: PixelsToEvidence) -> None:
    """Whether an image's U stays the same to the bit."""
    pixels = np.random.default_rng(1).integers(0, 256, (8, 448, 448, 3), dtype=np.uint8)
    one, two = contenders(path, reference, 1), contenders(path, reference, 2)
    for name in one:
        alone = [u.copy() for u in one[name](pixels[:1])]
        others = {"again": one[name](pixels[:1]), "2 threads": two[name](pixels[:1]), "in 8": one[name](pixels)}
        same = {
            what: all((a[:1] == b).all() for a, b in zip(maps, alone, strict=True)) for what, maps in others.items()
        }
        print(
            f"bits of {name}: "
            + ", ".join(f"{what} {'same' if is_same else 'differ'}" for what, is_same in same.items())
        )


def print_start(path: Path, *, rounds: int) -> None:
    """Wall and processor time of a process that computes one image."""
    for name, code in START.items():
        walls = []
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code, str(path)], check=True)
            walls.append(time.perf_counter() - start)
        print(f"start of {name}: {min(walls):.2f} s at best, {statistics.median(walls):.2f} s in the middle")


def main() -> None:
    """A table per extractor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extractor", nargs="+", default=["efficientnet-lite0", "resnet18"])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, openvino {openvino.__version__}")
    for extractor in options.extractor:
        config = ModelConfig(extractor=extractor, precision="fp32")
        model = build_model(config, device=torch.device("cpu"), pretrained=False)
        model.flow.eval()
        reference = PixelsToEvidence(model).eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            path.write_bytes(graph_of(model))
            print(f"\n{extractor}\n")
            print("| threads | batch | runtime | processor ms per image | ratio | wall ms | difference |")
            print("|---|---|---|---|---|---|---|")
            for n_threads in (1, 2):
                for batch in (1, 8):
                    n = max(3, options.rounds // batch) if batch > 1 else options.rounds
                    compare(path, reference, n_threads=n_threads, batch=batch, rounds=n)
            print()
            print_bits(path, reference)
            print_start(path, rounds=5)


if __name__ == "__main__":
    main()
