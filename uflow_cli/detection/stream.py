"""Many image files through a model: read ahead, taken in batches, handed over one by one in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from uflow_cli.detection.detector import Detector
from uflow_cli.detection.fitted import EvidenceModel, fitted_evidence
from uflow_cli.detection.prediction import Prediction, predict
from uflow_cli.errors import ImageError
from uflow_cli.images import Layout, read_image

Image = NDArray[np.uint8]
Item = TypeVar("Item")


@dataclass(frozen=True)
class UnreadableImage:
    """An image file that could not be read, and why."""

    path: Path
    message: str


def predictions(
    model: EvidenceModel, detector: Detector, paths: Sequence[Path], *, threshold: float = 0.0,
    batch_size: int | None = None,
) -> Iterator[tuple[Path, Prediction | ImageError]]:  # fmt: skip
    """Each path in turn with the prediction for its image, or the error why it cannot be read.

    In PyTorch the last bits of a prediction follow the size of its batch, which by default is the model's own.
    """
    size = batch_size or model.batch_size
    return _in_batches(paths, lambda images: predict(model, detector, images, threshold=threshold), size)


def squared_norm_maps(
    model: EvidenceModel, paths: Sequence[Path], *, batch_size: int | None = None
) -> Iterator[tuple[Path, tuple[Layout, list[NDArray[np.float32]]] | ImageError]]:
    """Each path in turn with layout and U maps of its image, per source (H_s, W_s), or why it cannot be read."""
    return _in_batches(paths, lambda images: list(fitted_evidence(model, images)), batch_size or model.batch_size)


def _in_batches(
    paths: Sequence[Path], work: Callable[[Sequence[Image]], Sequence[Item]], batch_size: int
) -> Iterator[tuple[Path, Item | ImageError]]:
    """`work` on `batch_size` files at a time, while a thread decodes those of the next batch."""
    with ThreadPoolExecutor(1) as reader:
        ahead: deque[tuple[Path, Future[Image | ImageError]]] = deque()
        try:
            for start in range(0, len(paths) + batch_size, batch_size):
                ready = [ahead.popleft() for _ in range(len(ahead))]
                ahead.extend((path, reader.submit(_read, path)) for path in paths[start : start + batch_size])
                read = [(path, future.result()) for path, future in ready]
                images = [image for _, image in read if not isinstance(image, ImageError)]
                results = iter(work(images) if images else ())
                for path, image in read:
                    yield path, image if isinstance(image, ImageError) else next(results)
        finally:
            for _, future in ahead:
                future.cancel()


def _read(path: Path) -> Image | ImageError:
    try:
        return read_image(path)
    except ImageError as error:
        return error
