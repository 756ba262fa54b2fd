"""A run at work: its model and its threshold, from images or files to predictions. No file is written, nothing shown.

One of these may be used by many threads at once.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from uflow_cli.calibration import choose_threshold
from uflow_cli.config import DeviceChoice, Runtime
from uflow_cli.detection.prediction import Prediction, predict
from uflow_cli.detection.stream import Source, predictions
from uflow_cli.errors import ImageError
from uflow_cli.images import EVERYWHERE, Rois, rgb_image
from uflow_cli.run.graph import open_model
from uflow_cli.run.record import Run

if TYPE_CHECKING:
    from uflow_cli.detection.detector import Detector
    from uflow_cli.detection.fitted import EvidenceModel

AnyImage = str | os.PathLike[str] | NDArray[Any]
Given = TypeVar("Given", bound=AnyImage)


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """Finds defects in images with the model of a run. Images are paths of files or arrays, see `detect`."""

    run: Run
    model: EvidenceModel
    threshold: float  # on log_nfa; what is below is a defect
    promise: str  # what the threshold means, for people
    rois: Rois = EVERYWHERE  # the pixels that count

    def detect(self, image: AnyImage, *, roi: NDArray[np.bool_] | None = None) -> Prediction:
        """What the model says of one image: the path of a file, or an array whose channels are red, green and blue.

        Arrays are (H, W), (H, W, 3) or (H, W, 4) of uint8, uint16 or floats in 0..1, of any height and width; they are
        copied. `roi` (H, W) marks the pixels that count, instead of the run's own. ImageError for a file that cannot be
        read or does not fit the region of interest, ValueError for another array.
        """
        if roi is not None and not (roi.dtype == np.bool_ and roi.any()):
            raise ValueError("roi must be a mask of bool, True where defects are sought, at one pixel or more")
        detector = self if roi is None else replace(self, rois=Rois(roi, name="roi"))
        [(_, result)] = detector.predictions([_source(image)], batch_size=1)
        if isinstance(result, ImageError):
            raise result
        return result

    def detect_many(
        self, images: Iterable[Given], *, batch_size: int | None = None,
        on_error: Callable[[Given, ImageError], None] | None = None,
    ) -> Iterator[tuple[Given, Prediction]]:  # fmt: skip
        """Each of `images` in turn with what the model says of it, computed in batches as they are asked for.

        Two batches of `images` are taken before the first result comes; the batch is by default as large as the model
        likes it. A file that cannot be read is told to `on_error` and left out; without it, ImageError is raised.
        """
        given: deque[Given] = deque()

        def sources() -> Iterator[Path | NDArray[np.uint8]]:
            for image in images:
                given.append(image)
                yield _source(image)

        for _, result in self.predictions(sources(), batch_size=batch_size):
            image = given.popleft()
            if not isinstance(result, ImageError):
                yield image, result
            elif on_error is None:
                raise result
            else:
                on_error(image, result)

    def predictions(
        self, sources: Iterable[Source], *, batch_size: int | None = None
    ) -> Iterator[tuple[Source, Prediction | ImageError]]:
        """See `detection.stream.predictions`."""
        return predictions(
            self.model, self._detector, sources, threshold=self.threshold, batch_size=batch_size, rois=self.rois
        )

    def detect_together(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """What the model says of each of some RGB `images`, (H, W, 3) of any size, computed as one batch.

        ImageError for one that the region of interest does not fit.
        """
        masks = [self.rois.of(None, (image.shape[0], image.shape[1])) for image in images]
        return predict(self.model, self._detector, images, threshold=self.threshold, rois=masks, hides=self.rois.hides)

    def with_threshold(
        self, *, nfa_threshold: float | None = None, false_alarm_rate: float | None = None
    ) -> TrainedDetector:
        """The same detector, sharing its model, with another threshold; see `open_detector`."""
        threshold, promise = choose_threshold(
            self.run.calibration, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate
        )
        return replace(self, threshold=threshold, promise=promise)

    @property
    def _detector(self) -> Detector:
        return self.run.calibration.detector(self.model)


def open_detector(
    run: Run, *, device: DeviceChoice = "auto", runtime: Runtime = "auto", nfa_threshold: float | None = None,
    false_alarm_rate: float | None = None, roi: Path | None = None,
) -> TrainedDetector:  # fmt: skip
    """The detector of `run`, its model loaded; `roi` is a mask of the pixels that count, instead of the run's.

    Its threshold is `nfa_threshold`, log10 of the false detections allowed in a lot of good images, or what allows a
    share `false_alarm_rate` of good images to be flagged; without both it is 0. ValueError for both, UflowError for
    what the run cannot promise, or a model that cannot be loaded.
    """
    threshold, promise = choose_threshold(
        run.calibration, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate
    )
    rois = run.rois(roi)
    return TrainedDetector(run, open_model(run, device=device, runtime=runtime), threshold, promise, rois)


def _source(image: AnyImage) -> Path | NDArray[np.uint8]:
    """A path as it is, an array as a new RGB image; TypeError for anything else."""
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is a path or a NumPy array, not {type(image).__name__}; try numpy.asarray(image)")
    return rgb_image(image)
