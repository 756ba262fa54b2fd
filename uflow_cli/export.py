"""From a run to its compiled graph: traced, compared with PyTorch on images, and only then kept."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import uflow_cli
from uflow_cli.compiled import OPSET, onnx_graph
from uflow_cli.engine import Engine, build_engine, simplified
from uflow_cli.errors import ExportError
from uflow_cli.images import read_image
from uflow_cli.model import Model
from uflow_cli.run.graph import Graph, write_graph
from uflow_cli.run.record import Run, load_model

LARGEST_DIFFERENCE = 1e-4  # of U, relative: more could move a verdict
N_COMPARED = 16  # images


class PixelsToEvidence(nn.Module):
    """All of a `Model` as one module: pixels (B, H, W, 3) uint8 to the U maps of every source, (B, H_s, W_s)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model  # no module, so its parts are named, too
        self.extractor, self.normalisation, self.flow = model.extractor, model.normalisation, model.flow
        self.gaussians, self.neighbours = model.gaussians, model.neighbours

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
    names = [f"u_{source}" for source in range(len(model.source_channels))]
    network = PixelsToEvidence(model)
    return simplified(onnx_graph(network, size=model.config.input_size, outputs=names, name=model.config.extractor))


def relative_difference(engine: Engine, model: Model, image: NDArray[np.uint8]) -> float:
    """The largest |a - b| / b over all cells and sources, a of the graph and b of PyTorch."""
    pairs = zip(engine.evidence_maps([image]), model.evidence_maps([image]), strict=True)
    tiny = np.finfo(np.float32).tiny
    return max(float((np.abs(a.astype(np.float64) - b) / np.maximum(b, tiny)).max()) for a, b in pairs)
