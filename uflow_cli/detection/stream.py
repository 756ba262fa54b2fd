"""Many images through a model: read ahead, taken in batches, handed over one by one in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
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
Source = TypeVar("Source", bound=Path | Image)  # a file, or an image that is at hand
Item = TypeVar("Item")


@dataclass(frozen=True)
class UnreadableImage:
    """An image file that could not be read, and why."""

    path: Path
    message: str


def predictions(
    model: EvidenceModel, detector: Detector, sources: Iterable[Source], *, threshold: float = 0.0,
    batch_size: int | None = None, rois: Rois = EVERYWHERE,
) -> Iterator[tuple[Source, Prediction | ImageError]]:  # fmt: skip
    """Each source in turn with the prediction for its image within `rois`, or the error why it cannot be read.

    Up to two batches are taken from `sources` before the first prediction of them comes.
    In PyTorch the last bits of a prediction follow the size of its batch, which by default is the model's own.
    """

    def work(seen: Sequence[Seen]) -> list[Prediction]:
        images, masks = [image for image, _ in seen], [mask for _, mask in seen]
        return predict(model, detector, images, threshold=threshold, rois=masks, hides=rois.hides)

    return _in_batches(sources, work, batch_size or model.batch_size, rois)


def squared_norm_maps(
    model: EvidenceModel, paths: Sequence[Path], *, batch_size: int | None = None, rois: Rois = EVERYWHERE
) -> Iterator[tuple[Path, FittedEvidence | ImageError]]:
    """Each path in turn with the U maps of its image within `rois`, or why it cannot be read."""

    def work(seen: Sequence[Seen]) -> list[FittedEvidence]:
        images, masks = [image for image, _ in seen], [mask for _, mask in seen]
        return list(fitted_evidence(model, images, masks, hides=rois.hides))

    return _in_batches(paths, work, batch_size or model.batch_size, rois)


def _in_batches(
    sources: Iterable[Source], work: Callable[[Sequence[Seen]], Sequence[Item]], batch_size: int, rois: Rois
) -> Iterator[tuple[Source, Item | ImageError]]:
    """`work` on `batch_size` images at a time, while a thread decodes those of the next batch."""
    with ThreadPoolExecutor(1) as reader:
        coming = iter(sources)
        ahead: deque[tuple[Source, Future[Seen | ImageError]]] = deque()
        try:
            while True:
                ready = [ahead.popleft() for _ in range(len(ahead))]
                ahead.extend((source, reader.submit(_read, source, rois)) for source in islice(coming, batch_size))
                if not ready and not ahead:
                    return
                read = [(source, future.result()) for source, future in ready]
                seen = [one for _, one in read if not isinstance(one, ImageError)]
                results = iter(work(seen) if seen else ())
                for source, one in read:
                    yield source, one if isinstance(one, ImageError) else next(results)
        finally:
            for _, future in ahead:
                future.cancel()


def _read(source: Path | Image, rois: Rois) -> Seen | ImageError:
    try:
        path, image = (source, read_image(source)) if isinstance(source, Path) else (None, source)
        return image, rois.of(path, (image.shape[0], image.shape[1]))
    except ImageError as error:
        return error
