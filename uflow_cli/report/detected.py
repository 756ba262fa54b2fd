"""A report of a detection: as its images come, or of what it left in a folder, without computing anything anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uflow_cli.calibration import Calibration
from uflow_cli.detection.prediction import Prediction
from uflow_cli.errors import ImageError, UflowError
from uflow_cli.images import EVERYWHERE, Rois, read_image, read_mask
from uflow_cli.render import fit_mask
from uflow_cli.report.contents import Fact, ReportImage, ReportSummary
from uflow_cli.report.page import ReportWriter
from uflow_cli.results import Detected, DetectedImage
from uflow_cli.run.record import Run, load_run

_MAP_SIDE = 256  # pixels of the longer side of a map of regions


class DetectionPage:
    """A report of a detection, whose images come one by one and of which nobody knows the truth."""

    def __init__(self, writer: ReportWriter) -> None:
        self._writer = writer

    def add(self, path: Path, prediction: Prediction) -> None:
        """Show an image."""
        self._writer.add(detected_image(path, prediction))

    def finish(self, run: Run, result: Detected) -> Path:
        """Write the page and return its path."""
        calibration = run.calibration
        return _finish(
            self._writer, result, fact=Fact("extractor", run.model.extractor), warnings=calibration.warnings(),
            calibration=calibration,
        )  # fmt: skip


def detected_image(path: Path, prediction: Prediction) -> ReportImage:
    """The image of a report for an image of which nobody knows the truth."""
    return ReportImage(
        name=_short_name(path), is_defect=prediction.is_defect, log_nfa=prediction.log_nfa,
        anomaly_score=prediction.anomaly_score, image=prediction.image, score_map=prediction.score_map,
        mask=prediction.mask, regions=prediction.detections, path=str(path.absolute()),
        log_nfa_map=prediction.log_nfa_map, roi=prediction.roi,
    )  # fmt: skip


def report_stored(
    result: Detected, writer: ReportWriter, *, on_progress: Callable[[int], None] = lambda _n: None
) -> Path:
    """Show the images of `result`, whose files are still where they were, and return the page's path.

    Images that are gone are counted in a warning. Anomaly scores are not stored: overlays show them.
    """
    gone: list[str] = []
    run, rois = _run_and_rois(result)
    for image in result.images:
        try:
            writer.add(_shown(image, rois))
        except ImageError as error:
            gone.append(str(error))
        on_progress(1)
    n_images = len(result.images)
    lost = [f"{len(gone)} of {n_images} images cannot be shown any more, such as {gone[0]}"] if gone else []
    return _finish(writer, result, fact=Fact("results", str(result.out)), warnings=lost,
        calibration=run.calibration if run else None,
    )  # fmt: skip


def _finish(
    writer: ReportWriter, result: Detected, *, fact: Fact, warnings: Sequence[str],
    calibration: Calibration | None,
) -> Path:  # fmt: skip
    """Write the page, which says what model found `result` and one `fact` more."""
    summary = ReportSummary(
        threshold=result.nfa_threshold, promise=f"The threshold allows {result.promise}.",
        facts=(Fact("model", str(result.model)), fact),
        warnings=(*([result.caveat] if result.caveat else []), *warnings),
        log_lot=calibration.log_lot if calibration else None,
        held_out=calibration.held_out_log_nfas if calibration else (),
    )  # fmt: skip
    return writer.finish(title=f"{len(result.images)} images by {result.model.name}", summary=summary)


def _run_and_rois(result: Detected) -> tuple[Run | None, Rois]:
    """The run that found `result` and its regions of interest, as far as they are still there."""
    try:
        run = load_run(result.model)
    except (UflowError, OSError):
        return None, EVERYWHERE
    try:
        return run, run.rois(result.roi)
    except (UflowError, OSError):
        return run, EVERYWHERE


def _shown(image: DetectedImage, rois: Rois) -> ReportImage:
    picture = read_image(image.path)
    if picture.shape[:2] != (image.height, image.width):
        raise ImageError(f"{image.path}: another image than was inspected, of another size")
    roi = rois.of(image.path, (image.height, image.width)) if image.roi_share < 1 else None
    mask = np.zeros((1, 1), dtype=np.bool_) if image.mask is None else read_mask(image.mask)
    return ReportImage(
        name=_short_name(image.path), is_defect=image.is_defect, log_nfa=image.log_nfa,
        anomaly_score=image.anomaly_score, image=picture, score_map=np.zeros((1, 1), dtype=np.float32), mask=mask,
        regions=image.regions, path=str(image.path.absolute()), log_nfa_map=_regions_map(image, mask),
        roi=roi, overlay=_overlay(image),
    )  # fmt: skip


def _overlay(image: DetectedImage) -> NDArray[np.uint8] | None:
    """The overlay of an image, if it is there and still its own."""
    if image.overlay is None:
        return None
    try:
        overlay = read_image(image.overlay)
    except ImageError:
        return None
    return overlay if overlay.shape[:2] == (image.height, image.width) else None


def _short_name(path: Path) -> str:
    """The name of an image on the page: its folder tells files of one name apart."""
    return f"{path.parent.name}/{path.name}"


def _regions_map(image: DetectedImage, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The log NFA of the lowest detection at each pixel of the mask, infinite elsewhere; where no mask is, of its box.

    Regions above the threshold were not stored: a page cannot show them.
    """
    shrink = min(1.0, _MAP_SIDE / max(image.height, image.width))
    size = (max(1, round(image.height * shrink)), max(1, round(image.width * shrink)))
    lowest = np.full(size, np.inf)
    y, x = size[0] / image.height, size[1] / image.width
    for region in image.regions:
        if region.is_whole_image:
            continue
        left, top, right, bottom = region.bounding_box
        box = (slice(int(top * y), max(int(top * y) + 1, round(bottom * y))),
               slice(int(left * x), max(int(left * x) + 1, round(right * x))))  # fmt: skip
        lowest[box] = np.minimum(lowest[box], region.log_nfa)
    if image.mask is not None:
        lowest[~fit_mask(mask, size)] = np.inf
    return lowest
