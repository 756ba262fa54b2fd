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
from uflow_cli.detection.fitted import EvidenceModel, FittedEvidence, fitted_evidence
from uflow_cli.detection.prediction import Prediction, predict
from uflow_cli.errors import ImageError
from uflow_cli.images import EVERYWHERE, Rois, read_image

Image = NDArray[np.uint8]
Seen = tuple[Image, NDArray[np.bool_] | None]  # an image and the pixels of it that count
Item = TypeVar("Item")


@dataclass(frozen=True)
class UnreadableImage:
    """An image file that could not be read, and why."""

    path: Path
    message: str


def predictions(
    model: EvidenceModel, detector: Detector, paths: Sequence[Path], *, threshold: float = 0.0,
    batch_size: int | None = None, rois: Rois = EVERYWHERE,
) -> Iterator[tuple[Path, Prediction | ImageError]]:  # fmt: skip
    """Each path in turn with the prediction for its image within `rois`, or the error why it cannot be read.

    In PyTorch the last bits of a prediction follow the size of its batch, which by default is the model's own.
    """

    def work(seen: Sequence[Seen]) -> list[Prediction]:
        images, masks = [image for image, _ in seen], [mask for _, mask in seen]
        return predict(model, detector, images, threshold=threshold, rois=masks)

    return _in_batches(paths, work, batch_size or model.batch_size, rois)


def squared_norm_maps(
    model: EvidenceModel, paths: Sequence[Path], *, batch_size: int | None = None, rois: Rois = EVERYWHERE
) -> Iterator[tuple[Path, FittedEvidence | ImageError]]:
    """Each path in turn with the U maps of its image within `rois`, or why it cannot be read."""

    def work(seen: Sequence[Seen]) -> list[FittedEvidence]:
        return list(fitted_evidence(model, [image for image, _ in seen], [mask for _, mask in seen]))

    return _in_batches(paths, work, batch_size or model.batch_size, rois)


def _in_batches(
    paths: Sequence[Path], work: Callable[[Sequence[Seen]], Sequence[Item]], batch_size: int, rois: Rois
) -> Iterator[tuple[Path, Item | ImageError]]:
    """`work` on `batch_size` files at a time, while a thread decodes those of the next batch."""
    with ThreadPoolExecutor(1) as reader:
        ahead: deque[tuple[Path, Future[Seen | ImageError]]] = deque()
        try:
            for start in range(0, len(paths) + batch_size, batch_size):
                ready = [ahead.popleft() for _ in range(len(ahead))]
                ahead.extend((path, reader.submit(_read, path, rois)) for path in paths[start : start + batch_size])
                read = [(path, future.result()) for path, future in ready]
                seen = [one for _, one in read if not isinstance(one, ImageError)]
                results = iter(work(seen) if seen else ())
                for path, one in read:
                    yield path, one if isinstance(one, ImageError) else next(results)
        finally:
            for _, future in ahead:
                future.cancel()


def _read(path: Path, rois: Rois) -> Seen | ImageError:
    try:
        image = read_image(path)
        return image, rois.of(path, (image.shape[0], image.shape[1]))
    except ImageError as error:
        return error
