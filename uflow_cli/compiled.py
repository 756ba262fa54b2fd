"""From PyTorch to ONNX: any network of pixels as a graph, and an extractor that computes by one."""

from __future__ import annotations

import importlib.metadata
import tempfile
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from uflow_cli.config import Size
from uflow_cli.engine import INPUT, RUNTIME, available_cores, open_session
from uflow_cli.errors import CheckpointError, ExportError
from uflow_cli.features import ExtractorSpec, FeatureExtractor
from uflow_cli.model import Model
from uflow_cli.text import in_one_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # noqa: TID251

OPSET = 17  # the first with LayerNormalization, which every ONNX Runtime since 2022 knows
LARGEST_GRAPH = 2**31 - 1  # bytes of a protocol buffer
LARGEST_DIFFERENCE = 1e-4  # from PyTorch's features, relative to the largest of the map; float16 keeps 5e-4


def onnx_graph(network: nn.Module, *, size: Size, outputs: Sequence[str], name: str) -> bytes:
    """The ONNX model of `network`, which turns pixels (B, H, W, 3) uint8 of `size` into `outputs`, for any B.

    ExportError that calls it `name` where there can be none.
    """
    axes = {axis: {0: "batch"} for axis in (INPUT, *outputs)}
    try:
        with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # of shapes that become constants: they are, but for the batch
            path = Path(folder) / "graph.onnx"
            torch.onnx.export(
                network.eval(), (torch.zeros((2, *size, 3), dtype=torch.uint8),), str(path), dynamo=False,
                opset_version=OPSET, input_names=[INPUT], output_names=list(outputs), dynamic_axes=axes,
            )  # fmt: skip
            files = list(Path(folder).iterdir())
            data = path.read_bytes()
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # how the tracer refuses a network
        raise ExportError(f"{name} cannot be exported ({in_one_line(error)}); use the run as it is") from error
    except OSError as error:
        raise ExportError(
            f"{tempfile.gettempdir()}: cannot be written ({error.strerror or error}); free its disk, or name another "
            "folder for temporary files with TMPDIR"
        ) from error
    if len(files) > 1 or len(data) > LARGEST_GRAPH:
        raise ExportError(f"{name} is larger than the 2 GiB of one ONNX file; use the run as it is")
    return data


class _PixelsToFeatures(nn.Module):
    """An extractor from pixels (B, H, W, 3) uint8."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C_s, H_s, W_s)."""
        return tuple(self.extractor(pixels.permute(0, 3, 1, 2)))


@dataclass(frozen=True, eq=False)
class CompiledExtractor:
    """An extractor in fp32 on the CPU as a graph for images of `size`, made when the first features are asked for.

    Each image is computed by itself on one thread, so its features have the same bits beside any others.
    """

    original: FeatureExtractor
    size: Size
    is_batched: bool = field(default=False, init=False)
    _session: list[InferenceSession] = field(default_factory=list, init=False)  # the one, once it is made
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def spec(self) -> ExtractorSpec:
        """The extractor's."""
        return self.original.spec

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The extractor's."""
        return self.original.precision

    @property
    def digest(self) -> str:
        """The extractor's."""
        return self.original.digest

    @property
    def engine(self) -> dict[str, str]:
        """ONNX Runtime, and what the graph is written in."""
        return {RUNTIME: importlib.metadata.version(RUNTIME), "opset": str(OPSET)}

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Features of uint8 RGB `images` (B, 3, H, W) as `Extractor` has them; ExportError as `make`."""
        session = self.make()
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()  # (B, H, W, 3)
        n_threads = min(available_cores(), torch.get_num_threads(), len(pixels))
        if n_threads == 1:
            each = [session.run(None, {INPUT: image[None]}) for image in pixels]
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                each = list(pool.map(lambda image: session.run(None, {INPUT: image[None]}), pixels))
        return [torch.from_numpy(np.concatenate(maps)) for maps in zip(*each, strict=True)]

    def make(self) -> InferenceSession:
        """The graph, ready to run; ExportError where there can be none, or it computes something else than PyTorch."""
        with self._lock:
            if not self._session:
                self._session.append(self._made())
            return self._session[0]

    def _made(self) -> InferenceSession:
        name, outputs = self.spec.name, [f"features_{scale}" for scale in range(len(self.spec.channels))]
        graph = onnx_graph(_PixelsToFeatures(self.original), size=self.size, outputs=outputs, name=name)
        pixels = np.random.default_rng(0).integers(0, 256, (1, *self.size, 3), dtype=np.uint8)
        try:
            session = open_session(graph)
            found = session.run(None, {INPUT: pixels})
        except CheckpointError as error:
            raise ExportError(f"the graph of {name} does not run: {error}") from error
        except Exception as error:  # ONNX Runtime's own have no common base
            raise ExportError(f"the graph of {name} does not run ({in_one_line(error)})") from error
        expected = self.original(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        for ours, theirs in zip(found, expected, strict=True):
            difference = float(np.abs(ours - theirs.numpy()).max() / max(float(theirs.abs().max()), 1e-30))
            if not difference <= LARGEST_DIFFERENCE:
                raise ExportError(
                    f"the graph of {name} gives features that differ by {difference:.2g} of the largest, and "
                    f"{LARGEST_DIFFERENCE:g} is allowed"
                )
        return session


def with_compiled_extractor(model: Model) -> Model:
    """`model` with its extractor as a graph where that is one in fp32 on the CPU; otherwise as it is."""
    extractor = model.extractor
    if not isinstance(extractor, FeatureExtractor) or extractor.precision != "fp32" or model.device.type != "cpu":
        return model
    return replace(model, extractor=CompiledExtractor(extractor, model.config.input_size))


def with_original_extractor(model: Model) -> Model:
    """`model` with its extractor in PyTorch."""
    extractor = model.extractor
    return replace(model, extractor=extractor.original) if isinstance(extractor, CompiledExtractor) else model
