"""From a run to its compiled graph: traced, compared with PyTorch on images, and only then kept."""

from __future__ import annotations

import hashlib
import importlib.metadata
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import uflow_cli
from uflow_cli.engine import INPUT, Engine, build_engine, simplified
from uflow_cli.errors import ExportError
from uflow_cli.images import read_image
from uflow_cli.model import Model
from uflow_cli.run.graph import Graph, write_graph
from uflow_cli.run.record import Run, load_model
from uflow_cli.text import in_one_line

OPSET = 17  # the first with LayerNormalization, which every ONNX Runtime since 2022 knows
LARGEST_DIFFERENCE = 1e-4  # of U, relative: more could move a verdict
N_COMPARED = 16  # images
LARGEST_GRAPH = 2**31 - 1  # bytes of a protocol buffer


class PixelsToEvidence(nn.Module):
    """All of a `Model` as one module: pixels (B, H, W, 3) uint8 to the U maps of every source, (B, H_s, W_s)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model  # no module, so its parts are named, too
        self.extractor, self.normalisation, self.flow = model.extractor, model.normalisation, model.flow
        self.gaussians = model.gaussians

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """U maps."""
        features = self.model.extractor(pixels.permute(0, 3, 1, 2))
        embeddings, _ = self.model.embed(features)
        return tuple(self.model.evidence(features, embeddings))


def export_run(run: Run, images: Sequence[Path], *, which: str, out: Path | None = None) -> Graph:
    """Make the graph of `run`, compare it on `images`, and put it into the run folder, or with all it needs into `out`.

    `which` says for people what images these are. ExportError for what has no graph or computes something else.
    """
    if not images:
        raise ExportError(f"{run.folder}: no images to compare the graph on; name some with --images")
    model = load_model(run, device=torch.device("cpu"))
    data = graph_of(model)
    engine = build_engine(data, config=model.config, source_channels=model.source_channels, reach=model.reach)
    chosen = [images[i] for i in np.unique(np.linspace(0, len(images) - 1, N_COMPARED).round().astype(int))]
    difference = max(relative_difference(engine, model, read_image(path)) for path in chosen)
    if not difference <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"the graph of {run.folder} is refused: its U differs from PyTorch's by up to {difference:.2g} of it on "
            f"{len(chosen)} {which}, and {LARGEST_DIFFERENCE:g} is allowed; use the run as it is"
        )
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "onnx", "onnxruntime")}
    digest = hashlib.sha256(data).hexdigest()
    graph = Graph(
        file=f"graph-{digest[:12]}.onnx", sha256=digest, weights=run.weights, source_channels=model.source_channels,
        reach=model.reach, opset=OPSET, versions={"uflow": uflow_cli.__version__, **versions},
        largest_difference=difference, compared_on=f"{len(chosen)} {which}",
    )  # fmt: skip
    write_graph(run, data, graph, out=out)
    return graph


def graph_of(model: Model) -> bytes:
    """The ONNX model of `model`, which is on the CPU; any number of images. ExportError where there can be none."""
    if model.extractor.precision != "fp32":
        raise ExportError(
            f"precision {model.extractor.precision}: a graph computes in fp32; train with --precision fp32"
        )
    pixels = torch.zeros((2, *model.config.input_size, 3), dtype=torch.uint8)
    names = [f"u_{source}" for source in range(len(model.source_channels))]
    axes = {name: {0: "batch"} for name in (INPUT, *names)}
    try:
        with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # of shapes that become constants: they are, but for the batch
            path = Path(folder) / "graph.onnx"
            torch.onnx.export(
                PixelsToEvidence(model).eval(), (pixels,), str(path), dynamo=False, opset_version=OPSET,
                input_names=[INPUT], output_names=names, dynamic_axes=axes,
            )  # fmt: skip
            files = list(Path(folder).iterdir())
            data = path.read_bytes()
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # how the tracer refuses a network
        raise ExportError(
            f"{model.config.extractor} cannot be exported ({in_one_line(error)}); use the run as it is"
        ) from error
    except OSError as error:
        raise ExportError(
            f"{tempfile.gettempdir()}: cannot be written ({error.strerror or error}); free its disk, or name another "
            "folder for temporary files with TMPDIR"
        ) from error
    if len(files) > 1 or len(data) > LARGEST_GRAPH:
        raise ExportError(f"{model.config.extractor} is larger than the 2 GiB of one ONNX file; use the run as it is")
    return simplified(data)


def relative_difference(engine: Engine, model: Model, image: NDArray[np.uint8]) -> float:
    """The largest |a - b| / b over all cells and sources, a of the graph and b of PyTorch."""
    pairs = zip(engine.evidence_maps([image]), model.evidence_maps([image]), strict=True)
    tiny = np.finfo(np.float32).tiny
    return max(float((np.abs(a.astype(np.float64) - b) / np.maximum(b, tiny)).max()) for a, b in pairs)
