"""The compiled graph of a run: a file that computes what its model computes, and what is known of it.

- `graph.json`: a `Graph`, with the checksum of the graph, and in a folder made for another machine that of
  `config.json`;
- `graph-<digest>.onnx`: pixels to U maps, the extractor's weights inside.

A run folder may have them beside its weights; a folder made for another machine has nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from uflow_cli.config import DeviceChoice, Runtime
from uflow_cli.errors import CheckpointError, UflowError
from uflow_cli.files import discard, is_file_name, write_bytes, write_text
from uflow_cli.run.record import CONFIG_NAME, GRAPH_NAME, Run, fields_of, load_model
from uflow_cli.schema import from_dict, record, to_json
from uflow_cli.text import in_one_line, shortened

if TYPE_CHECKING:
    from uflow_cli.detection.fitted import EvidenceModel
    from uflow_cli.engine import Engine

GRAPH_PATTERN = "graph-*.onnx"
FARTHEST = 1000  # cells; a record that says more is damaged
NVIDIA = Path("/dev/nvidiactl")  # there where a driver is; asking torch would take a second


@record
class Graph:
    """A compiled graph: its file, its origin, and how near it is to PyTorch."""

    file: str
    sha256: str
    weights: str  # the run's file that it was made from
    source_channels: tuple[Annotated[int, Field(ge=1)], ...]
    reach: tuple[Annotated[int, Field(ge=0, le=FARTHEST)], ...]  # in cells, per scale of the flow
    opset: int
    versions: dict[str, str]  # of what made it
    largest_difference: float  # of U from PyTorch's, relative to it
    compared_on: str  # which images, for people
    config_sha256: str | None = None  # where nothing but this folder is at hand
    coming_config_sha256: str | None = None  # of the configuration that a recalibration is about to write


def write_graph(run: Run, data: bytes, graph: Graph, *, out: Path | None = None) -> None:
    """Put the ONNX model `data` into the folder of `run`, or with its configuration into `out`."""
    folder = out or run.folder
    write_bytes(folder / graph.file, data, durable=True)
    if out is not None:
        if run.roi is not None and run.roi.file is not None:
            write_bytes(out / run.roi.file, (run.folder / run.roi.file).read_bytes(), durable=True)
        text = to_json(run)
        graph = replace(graph, config_sha256=_digest(text.encode()))
    write_text(folder / GRAPH_NAME, to_json(graph), durable=True)
    if out is not None:
        write_text(out / CONFIG_NAME, text, durable=True)  # the last: what has none is no run yet
    for stale in folder.glob(GRAPH_PATTERN):
        if stale.name != graph.file:
            discard(stale)


def find_graph(run: Run) -> Graph | None:
    """The graph of the weights that `run` has now, None if there is none; CheckpointError if it is damaged."""
    graph = _read_graph(run.folder / GRAPH_NAME)
    return graph if graph and graph.weights == run.weights else None


def load_engine(run: Run, graph: Graph | None = None) -> Engine:
    """The engine of `run`, by what `find_graph` says; CheckpointError if there is no graph, or anything is damaged."""
    from uflow_cli.engine import build_engine

    graph = graph or find_graph(run)
    if graph is not None and not _is_of(graph, run.folder):
        graph = find_graph(run)  # a recalibration may have come between
    if graph is None:
        raise CheckpointError(f"{run.folder} has no graph of its weights; make one with `uflow export --model RUN`")
    path = run.folder / graph.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); export the run again") from error
    if _digest(data) != graph.sha256:
        raise CheckpointError(f"{path} is damaged: its checksum is another; export the run again")
    if not _is_of(graph, run.folder):
        raise CheckpointError(
            f"{run.folder / CONFIG_NAME} is not as it was exported: its checksum is another; export the run again"
        )
    channels, reach = graph.source_channels, graph.reach
    return build_engine(data, config=run.model, source_channels=channels, reach=reach)


def _is_of(graph: Graph, folder: Path) -> bool:
    """Whether the configuration in `folder` is one that `graph` goes with."""
    expected = {graph.config_sha256, graph.coming_config_sha256}
    return graph.config_sha256 is None or _digest((folder / CONFIG_NAME).read_bytes()) in expected


def open_model(run: Run, *, device: DeviceChoice = "auto", runtime: Runtime = "auto") -> EvidenceModel:
    """The model of `run` that computes its U maps: its graph, or PyTorch.

    "auto" takes the graph where there is one and no GPU is used. UflowError where what was asked for is not there.
    """
    if runtime == "onnx" and device == "cuda":
        raise UflowError("runtime onnx computes on the CPU; drop --device cuda, or take --runtime torch")
    on_gpu = device == "cuda" or (device == "auto" and NVIDIA.exists())
    graph = find_graph(run) if runtime == "onnx" or (runtime == "auto" and not on_gpu) else None
    if runtime == "onnx" or graph is not None:
        return load_engine(run, graph)
    from uflow_cli.model import choose_device

    return load_model(run, device=choose_device(device))


@contextlib.contextmanager
def other_configuration(run: Run) -> Iterator[None]:
    """Let the graph in the folder of `run` go with the configuration there and with `run`'s, then with `run`'s alone.

    What happens inside may be cut off anywhere: the graph goes with what is there. CheckpointError, and nothing
    happens, where its record is damaged.
    """
    path = run.folder / GRAPH_NAME
    graph = _read_graph(path)
    if graph is None or graph.config_sha256 is None:
        yield
        return
    now, then = _digest((run.folder / CONFIG_NAME).read_bytes()), _digest(to_json(run).encode())
    write_text(path, to_json(replace(graph, config_sha256=now, coming_config_sha256=then)), durable=True)
    yield
    write_text(path, to_json(replace(graph, config_sha256=then, coming_config_sha256=None)), durable=True)


def _read_graph(path: Path) -> Graph | None:
    """The record in the file `path`, None if there is none; CheckpointError if it is damaged."""
    if not path.is_file():
        return None
    try:
        graph = from_dict(Graph, fields_of(path.read_text(encoding="utf-8"), path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({in_one_line(error)}); export the run again") from error
    if not is_file_name(graph.file):
        raise CheckpointError(
            f"{path} names a graph in another folder, or that no file can be called, "
            f"{shortened(graph.file)}; export the run again"
        )
    return graph


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
