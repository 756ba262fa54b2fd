"""Many images through a model: read ahead, taken in batches, handed over one by one in their order.

One thread decodes the images of a batch and another computes its evidence, while regions are sought in the batch before
and whoever asks for its images does with them what he likes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from uflow_cli.detection.detector import Detector
from uflow_cli.detection.fitted import EvidenceModel, FittedEvidence, fitted_evidence
from uflow_cli.detection.prediction import Prediction, evidence_in, judged
from uflow_cli.errors import ImageError
from uflow_cli.images import EVERYWHERE, Rois, read_image

Image = NDArray[np.uint8]
Masks = Sequence[NDArray[np.bool_] | None]  # the pixels of each image that count
Seen = tuple[Image, NDArray[np.bool_] | None]
Source = TypeVar("Source", bound=Path | Image)  # a file, or an image that is at hand
Item = TypeVar("Item")
Evidence = TypeVar("Evidence")


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

    compute = partial(evidence_in, model, hides=rois.hides)
    judge = partial(judged, detector, threshold=threshold)
    return _in_batches(sources, compute, judge, batch_size or model.batch_size, rois)


def squared_norm_maps(
    model: EvidenceModel, paths: Sequence[Path], *, batch_size: int | None = None, rois: Rois = EVERYWHERE
) -> Iterator[tuple[Path, FittedEvidence | ImageError]]:
    """Each path in turn with the U maps of its image within `rois`, or why it cannot be read."""

    def compute(images: Sequence[Image], masks: Masks) -> list[FittedEvidence]:
        return list(fitted_evidence(model, images, masks, hides=rois.hides))

    return _in_batches(paths, compute, lambda _images, _masks, found: found, batch_size or model.batch_size, rois)


def _in_batches(
    sources: Iterable[Source], compute: Callable[[Sequence[Image], Masks], Evidence],
    judge: Callable[[Sequence[Image], Masks, Evidence], Sequence[Item]], batch_size: int, rois: Rois,
) -> Iterator[tuple[Source, Item | ImageError]]:  # fmt: skip
    """What `judge` makes of each image, by what `compute` finds in `batch_size` of them at a time."""

    def computed(reading: Sequence[Future[Seen | ImageError]]) -> tuple[list[Seen | ImageError], Evidence | None]:
        read = [future.result() for future in reading]
        images, masks = _seen_in(read)
        return read, compute(images, masks) if images else None

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as computer:
        coming = iter(sources)
        reading: list[Future[Seen | ImageError]] = []
        computing: deque[tuple[list[Source], Future[tuple[list[Seen | ImageError], Evidence | None]]]] = deque()
        try:
            while True:
                batch = list(islice(coming, batch_size))
                if batch:
                    reading = [reader.submit(_read, source, rois) for source in batch]
                    computing.append((batch, computer.submit(computed, reading)))
                    if len(computing) == 1:
                        continue
                elif not computing:
                    return
                batch, future = computing.popleft()
                read, evidence = future.result()
                results = iter(() if evidence is None else judge(*_seen_in(read), evidence))
                for source, one in zip(batch, read, strict=True):
                    yield source, one if isinstance(one, ImageError) else next(results)
        finally:
            for waiting in reading:
                waiting.cancel()
            for _, future in computing:
                future.cancel()


def _seen_in(read: Iterable[Seen | ImageError]) -> tuple[list[Image], Masks]:
    """The images that could be read, and their masks."""
    seen = [one for one in read if not isinstance(one, ImageError)]
    return [image for image, _ in seen], [mask for _, mask in seen]


def _read(source: Path | Image, rois: Rois) -> Seen | ImageError:
    try:
        path, image = (source, read_image(source)) if isinstance(source, Path) else (None, source)
        return image, rois.of(path, (image.shape[0], image.shape[1]))
    except ImageError as error:
        return error
