"""Find defects in image files: verdict, regions, mask and overlay of every image, in one folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from uflow_cli.config import DeviceChoice, Runtime
from uflow_cli.detection.detector import Detection
from uflow_cli.detection.prediction import Prediction
from uflow_cli.detection.stream import UnreadableImage
from uflow_cli.errors import ImageError, UflowError
from uflow_cli.files import write_text
from uflow_cli.images import LeftOut, done_ahead, list_images, pages_of, write_png, write_png_strips
from uflow_cli.render import overlay_in_strips
from uflow_cli.run.detector import open_detector
from uflow_cli.run.record import Run
from uflow_cli.schema import record, to_json

RESULT_NAME = "detections.json"
LONGEST_NAME = 200  # bytes, before _overlay.png and what a file under way is called
REPORT_MARK = 'content="uflow report"'  # in the page of a report of ours
EARLIER = "masks and overlays of earlier detections"


@record
class DetectedImage:
    """The findings in one image, and where its pictures are; a hundred thousand of these are small."""

    path: Path
    verdict: Literal["defect", "good"]
    log_nfa: float
    anomaly_score: float
    height: int
    width: int
    regions: tuple[Detection, ...]
    mask: Path | None  # None: not asked for
    overlay: Path | None
    roi_share: float = 1.0  # of its pixels that count: those in its region of interest

    @property
    def is_defect(self) -> bool:
        """Whether any region is below the threshold."""
        return self.verdict == "defect"


@record
class DetectionResult:
    """The findings in all images, as detections.json holds them."""

    model: Path  # the run folder
    nfa_threshold: float  # log10
    promise: str  # what the threshold means, for people
    caveat: str | None
    out: Path
    n_images: int
    n_defects: int  # images with at least one detection
    images: tuple[DetectedImage, ...]
    errors: tuple[UnreadableImage, ...]
    roi: Path | None = None  # the mask that was given instead of the run's


def find_images(paths: Iterable[Path], *, out: Path | None = None) -> tuple[list[Path], list[LeftOut]]:
    """The image files that `paths` name, each once, and what was left out beside them.

    Files are taken as they are, folders with all images below them but those that `detect` wrote: a detections.json
    beside them lists them, or they come in pairs in the folder `out`, where a detection was broken off. UflowError for
    a folder without any image but these.
    """
    found: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112 - pathlib raises below a folder that may not be entered
            found.update({os.path.realpath(page): page for page in pages_of(path)} | found)
            continue
        inside = list_images(path, recursive=True, left_out=left_out)
        written = {image for folder in {image.parent for image in inside} for image in _written(folder, out)}
        chosen = [image for image in inside if image not in written]
        if not chosen:
            raise UflowError(f"{path}: holds no images but the masks and overlays of earlier detections")
        left_out += [LeftOut(image, EARLIER) for image in inside if image in written]
        left_out = [item for item in left_out if item.path.name != RESULT_NAME]
        for image in chosen:
            found.setdefault(os.path.realpath(image), image)
    return list(found.values()), left_out


def _written(folder: Path, out: Path | None) -> set[Path]:
    """The masks and overlays in `folder` that `detect` wrote; all pictures of a report."""
    page = folder.parent / "index.html"
    if folder.name == "images" and page.is_file() and REPORT_MARK in page.read_text(encoding="utf-8", errors="replace"):
        return set(folder.iterdir())
    names: set[str] = set()
    try:
        images = json.loads((folder / RESULT_NAME).read_text(encoding="utf-8"))["images"]
        names = {Path(image[kind]).name for image in images for kind in ("mask", "overlay") if image[kind]}
    except (OSError, ValueError, KeyError, TypeError):  # no such file, or one of somebody else
        pass
    if out is not None and folder.resolve() == out.resolve():
        stems = [path.name.removesuffix("_mask.png") for path in folder.glob("*_mask.png")]
        pairs = [(f"{stem}_mask.png", f"{stem}_overlay.png") for stem in stems]
        names.update(name for pair in pairs if (folder / pair[1]).is_file() for name in pair)
    return {folder / name for name in names}


def detect_images(
    run: Run, paths: Sequence[Path], *, out: Path, device: DeviceChoice = "auto", runtime: Runtime = "auto",
    nfa_threshold: float | None = None, false_alarm_rate: float | None = None, batch_size: int | None = None,
    masks: bool = True, overlays: bool = True, roi: Path | None = None,
    on_progress: Callable[[int], None] = lambda _n: None,
    on_prediction: Callable[[Path, Prediction], None] = lambda _path, _prediction: None,
) -> DetectionResult:  # fmt: skip
    """Find the defects in the images at `paths` and write masks, overlays and detections.json to `out`.

    `roi` is a mask of the pixels that count, instead of the run's. Unreadable images are reported in `errors`, the
    others are inspected all the same. `on_progress(n)` hears of n more, `on_prediction` of each image that was
    inspected, in their order.
    While a batch is computed, the next one is decoded and the pictures of the one before are written.
    """
    detector = open_detector(
        run, device=device, runtime=runtime, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate, roi=roi
    )
    names = output_names(paths)

    def told() -> Iterator[tuple[Path, Prediction | ImageError]]:
        for path, prediction in stream:
            if not isinstance(prediction, ImageError):
                on_prediction(path, prediction)
            yield path, prediction

    def written(item: tuple[Path, Prediction | ImageError]) -> DetectedImage | UnreadableImage:
        path, prediction = item
        try:
            if isinstance(prediction, ImageError):
                raise prediction
            return _write_pictures(path, prediction, out / names[path], masks=masks, overlays=overlays)
        except ImageError as error:
            return UnreadableImage(path, str(error))

    stream = detector.predictions(paths, batch_size=batch_size)
    images: list[DetectedImage] = []
    errors: list[UnreadableImage] = []
    for found in done_ahead(written, told(), ahead=batch_size or detector.model.batch_size):
        if isinstance(found, DetectedImage):
            images.append(found)
        else:
            errors.append(found)
        on_progress(1)
    result = DetectionResult(
        model=run.folder, nfa_threshold=detector.threshold, promise=detector.promise, caveat=run.caveat, out=out,
        n_images=len(images), n_defects=sum(image.is_defect for image in images), images=tuple(images),
        errors=tuple(errors), roi=roi,
    )  # fmt: skip
    write_text(out / RESULT_NAME, to_json(result))
    return result


def _write_pictures(path: Path, prediction: Prediction, stem: Path, *, masks: bool, overlays: bool) -> DetectedImage:
    height, width = prediction.size
    mask_path = stem.with_name(f"{stem.name}_mask.png") if masks else None
    overlay_path = stem.with_name(f"{stem.name}_overlay.png") if overlays else None
    if mask_path:
        write_png(mask_path, prediction.mask)
    if overlay_path:
        strips = overlay_in_strips(prediction.image, prediction.score_map, prediction.mask)
        write_png_strips(overlay_path, prediction.size, strips)
    return DetectedImage(
        path=path, verdict=prediction.verdict, log_nfa=prediction.log_nfa, anomaly_score=prediction.anomaly_score,
        height=height, width=width, regions=prediction.detections, mask=mask_path, overlay=overlay_path,
        roi_share=1.0 if prediction.roi is None else float(prediction.roi.mean()),
    )  # fmt: skip


def _writable(name: str) -> str:
    """`name` without control characters, and short enough for an ending: file systems allow 255 bytes."""
    shown = "".join(letter if letter.isprintable() else "_" for letter in name)
    return shown.encode(errors="replace")[:LONGEST_NAME].decode(errors="ignore")


def output_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A file name for each path, unlike all the others: its stem, with the folders and suffix that tell it apart."""
    names: dict[Path, str] = {}
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        by_stem.setdefault(path.stem, []).append(path)
    taken: set[str] = set()
    for path in paths:
        name = path.stem
        parents = [part for part in path.parent.parts if part not in ("/", "..", ".")]
        while ((len(by_stem[path.stem]) > 1 and name == path.stem) or name in taken) and parents:
            name = f"{parents.pop()}_{name}"
        number = 2
        unique = name = _writable(name)
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        names[path] = unique
    return names
