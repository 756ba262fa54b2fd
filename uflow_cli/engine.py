"""Evidence maps by a compiled graph in ONNX Runtime: what a `Model` computes, without torch.

One image is one call of the graph on one thread, several images are as many calls beside each other. The last bits of a
matrix product may follow the size of the batch and the number of threads that share it; so they follow neither.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from uflow_cli.config import ModelConfig
from uflow_cli.errors import CheckpointError, ExportError
from uflow_cli.images import resize_image
from uflow_cli.text import in_one_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # noqa: TID251

RUNTIME = "onnxruntime"  # the package
INPUT = "pixels"  # (B, H, W, 3) uint8 RGB
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 9, 13, 14  # fields of a tensor in onnx.proto
LOCATION = b"location"  # the key under which a tensor names its file
KIND_OF_NODE, LOOPS = 4, (b"Loop", b"Scan")
# Where tensors can be in a model: kinds of messages, and what their fields hold, by number in onnx.proto.
TENSORS_IN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


@dataclass(frozen=True, eq=False)
class Engine:
    """A graph from pixels to the U maps of every source of evidence, on the CPU."""

    config: ModelConfig
    source_channels: tuple[int, ...]
    reach: tuple[int, ...]
    session: InferenceSession
    n_threads: int  # images computed beside each other
    _pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pool", ThreadPoolExecutor(self.n_threads, thread_name_prefix="engine"))

    @property
    def batch_size(self) -> int:
        """Images to take at a time."""
        return self.n_threads

    def evidence_maps(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """U maps (B, H_s, W_s) of RGB `images`, each (H, W, 3) of any size: of the flow's scales, then the witnesses.

        CheckpointError where the graph does not take what the configuration says.
        """

        def maps(image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
            found: list[NDArray[np.float32]] = self.session.run(
                None, {INPUT: resize_image(image, self.config.input_size)[None]}
            )
            return found

        try:
            each = list(self._pool.map(maps, images)) if len(images) > 1 else [maps(image) for image in images]
        except Exception as error:  # ONNX Runtime's own have no common base
            raise CheckpointError(
                f"the graph of this model does not run ({in_one_line(error)}); export it again"
            ) from error
        return [np.concatenate(source) for source in zip(*map(_checked, each), strict=True)]


def _checked(maps: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """`maps` of one image; CheckpointError where they are no U maps: a graph may compute anything."""
    for u in maps:
        is_map = isinstance(u, np.ndarray) and u.dtype == np.float32 and u.ndim == 3 and len(u) == 1 and u.size
        if not is_map or not (u.min() >= 0 and np.isfinite(u.max())):
            raise CheckpointError("the graph of this model gives no map of finite evidence; export it again")
    return maps


def build_engine(graph: bytes, *, config: ModelConfig, source_channels: Sequence[int], reach: Sequence[int]) -> Engine:
    """An engine for the ONNX model `graph`; CheckpointError if it is none, keeps weights outside, or has loops.

    It computes as many images beside each other as there are cores.
    """
    session = open_session(graph)
    names = [value.name for value in session.get_outputs()]
    if [value.name for value in session.get_inputs()] != [INPUT] or len(names) != len(source_channels):
        raise CheckpointError(f"the graph gives {len(names)} maps for {len(source_channels)} sources; export it again")
    return Engine(config, tuple(source_channels), tuple(reach), session, available_cores())


def open_session(graph: bytes) -> InferenceSession:
    """The ONNX model `graph`, ready to compute on one thread; CheckpointError as `build_engine`."""
    import onnxruntime  # noqa: TID251

    if refusal := why_refused(graph):
        raise CheckpointError(f"{refusal}; export it again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what it has to say comes as an exception, and nothing is to be printed
    try:
        return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:
        raise CheckpointError(f"the graph cannot be loaded ({in_one_line(error)}); export it again") from error


def simplified(graph: bytes) -> bytes:
    """The ONNX model `graph` with its constants computed and what does nothing left out, lest every start does that.

    It has the operators of ONNX alone, and computes the same bits; what suits one processor is done as it is loaded.
    ExportError where the folder for temporary files cannot be written.
    """
    import onnxruntime  # noqa: TID251

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            options.optimized_model_filepath = str(path)
            onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            return path.read_bytes()
    except Exception as error:  # ONNX Runtime's own have no common kind
        raise ExportError(
            f"the graph cannot be simplified in {tempfile.gettempdir()} ({in_one_line(error)}); free its disk, or name "
            "another folder for temporary files with TMPDIR"
        ) from error


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def why_refused(model: bytes) -> str:
    """Why the ONNX `model` is not to be run, "" where nothing is against it.

    ONNX Runtime would read the files that it names for its tensors from anywhere it may, and a loop may never end.
    CheckpointError for what is no protocol buffer, where there is anything to look into.
    """
    found = ""

    def look(message: memoryview, kind: str) -> None:
        nonlocal found
        for number, value in _fields(message):
            if kind == "tensor":
                if number == EXTERNAL_DATA or (number == DATA_LOCATION and value == 1):
                    found = "this graph keeps its weights in other files, which are never read"
            elif (kind, number) == ("node", KIND_OF_NODE) and not isinstance(value, int) and bytes(value) in LOOPS:
                found = "this graph has loops, which no model of ours has and which might never end"
            elif number in TENSORS_IN[kind] and isinstance(value, memoryview):
                look(value, TENSORS_IN[kind][number])

    try:
        if not _may_hold(model, (LOCATION, *LOOPS)):  # to look at every field would take longer
            return ""
        look(memoryview(model), "model")
    except (IndexError, ValueError, RecursionError) as error:
        raise CheckpointError("the graph is damaged: it is no ONNX model; export it again") from error
    return found


def _may_hold(model: bytes, words: Sequence[bytes]) -> bool:
    """Whether any of `words` is anywhere in the ONNX `model` but among the numbers of the weights of its graph."""
    parts: list[bytes] = []
    for number, value in _fields(memoryview(model)):
        if isinstance(value, int):
            continue
        if TENSORS_IN["model"].get(number) != "graph":
            parts.append(bytes(value))
            continue
        for inner, message in _fields(value):
            if isinstance(message, int):
                continue
            if TENSORS_IN["graph"].get(inner) != "tensor":
                parts.append(bytes(message))
                continue
            parts += [bytes(part) for at, part in _fields(message) if at != RAW_DATA and not isinstance(part, int)]
    return any(word in part for part in parts for word in words)


def _fields(message: memoryview) -> list[tuple[int, memoryview | int]]:
    """Numbers and values of the fields of a protocol buffer; IndexError or ValueError where it is damaged."""
    fields: list[tuple[int, memoryview | int]] = []
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            fields.append((number, varint()))
            continue
        length = varint() if wire == 2 else {1: 8, 5: 4}.get(wire, -1)
        if length < 0 or place + length > len(message):
            raise ValueError("wrong length")
        fields.append((number, message[place : place + length]))
        place += length
    return fields
