"""Find defects in image files: verdict, regions, mask and overlay of every image, in one folder, as they come."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import uflow_cli
from uflow_cli.config import DeviceChoice, Runtime
from uflow_cli.detection.prediction import Prediction
from uflow_cli.detection.stream import UnreadableImage
from uflow_cli.engine import Engine
from uflow_cli.errors import ImageError
from uflow_cli.files import remove_litter
from uflow_cli.images import done_ahead, write_png, write_png_strips
from uflow_cli.memory import HeapTrimmer
from uflow_cli.render import overlay_in_strips
from uflow_cli.results import (
    MASKS,
    OVERLAYS,
    Detected,
    DetectedImage,
    ResultLines,
    Stamp,
    Terms,
    common_folder,
    mirrored_name,
    result_lines,
    run_lengths,
    stamp_of,
)
from uflow_cli.run.detector import TrainedDetector, open_detector
from uflow_cli.run.record import Run
from uflow_cli.schema import to_json

EngineChoice = Literal["local", "ray"]
BATCHES_OF_A_WORKER = 8  # that it is given at a time: within them, reading and writing go on beside computing


@dataclass(frozen=True)
class Pictures:
    """What is written of each image, and where: as the images lie below `base`."""

    out: Path
    base: Path
    masks: bool
    overlays: bool
    rle: bool  # into the lines


def detect_images(
    run: Run, paths: Sequence[Path], *, out: Path, base: Path | None = None, resume: bool = False,
    device: DeviceChoice = "auto", runtime: Runtime = "auto", nfa_threshold: float | None = None,
    false_alarm_rate: float | None = None, batch_size: int | None = None, masks: bool = True,
    overlays: bool = True, rle: bool = False, roi: Path | None = None,
    on_done_before: Callable[[int, int], None] = lambda _n, _outdated: None,
    on_progress: Callable[[int], None] = lambda _n: None,
    on_line: Callable[[str], object] = lambda _line: None,
    on_prediction: Callable[[Path, Prediction], None] = lambda _path, _prediction: None,
    engine: EngineChoice = "local", n_workers: int | None = None,
) -> Detected:  # fmt: skip
    """Find the defects in the images at `paths` and write what `results` says to `out`.

    Pictures lie in `out` as the images do below `base`, the deepest folder with all of them unless given. With `resume`
    images are skipped that `out` has a result of, as long as they, the run and the settings are what they were; it ends
    as if nothing had been there. `on_done_before(n, outdated)` hears how many these are, and of how many results that
    hold no longer; `on_progress(n)` of n more images, `on_line` of their lines in detections.jsonl, `on_prediction` of
    each image that was inspected, in their order.

    `roi` is a mask of the pixels that count, instead of the run's. Unreadable images are reported in `errors`, the
    others are inspected all the same. UflowError where `out` cannot be written. While a batch is computed, the next one
    is decoded and the pictures of the one before are written. The engine "ray" does the same in `n_workers` processes
    of a cluster, see `cluster.mapped`; only `on_prediction` hears nothing then.
    """
    detector = open_detector(
        run, device=device, runtime=runtime, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate, roi=roi
    )
    paths = list(dict.fromkeys(paths))
    pictures = Pictures(out, base or common_folder(path.parent for path in paths), masks, overlays, rle)
    size = batch_size or detector.model.batch_size
    together = 1 if isinstance(detector.model, Engine) else size  # an engine computes each image by itself
    digest = settings_digest(detector, roi, together, masks, overlays, rle)
    with result_lines(out, Terms(run.folder, detector.threshold, digest, roi), resume=resume) as lines:
        remove_litter(out)
        for folder in (MASKS, OVERLAYS):
            remove_litter(out / folder, below=True)
        todo = _to_do(paths, lines, size=together)
        on_done_before(len(paths) - len(todo), lines.n_outdated)
        if engine == "ray":
            found = spread(detector, todo, pictures, roi, batch_size=size, n_workers=n_workers)
        else:
            found = inspected(detector, todo, pictures, batch_size=size, on_prediction=on_prediction)
        heap = HeapTrimmer()
        for one, stamp in found:
            on_line(lines.add(one, stamp))
            on_progress(1)
            heap.tick()
        if engine == "ray":
            remove_litter(out, below=True)  # of workers that died
        return lines.finish(paths, promise=detector.promise, caveat=run.caveat, out=out)


def inspected(
    detector: TrainedDetector, paths: Sequence[Path], pictures: Pictures, *, batch_size: int,
    on_prediction: Callable[[Path, Prediction], None] = lambda _path, _prediction: None,
) -> Iterator[tuple[DetectedImage | UnreadableImage, Stamp]]:  # fmt: skip
    """What is found in each image, its pictures being written, and the stamp that its file had before it was read."""
    stamps: dict[Path, Stamp] = {}

    def stamped() -> Iterator[Path]:
        for path in paths:
            stamps[path] = stamp_of(path)  # before it is read: what changes while it is read is done again
            yield path

    def told() -> Iterator[tuple[Path, Prediction | ImageError]]:
        for path, prediction in detector.predictions(stamped(), batch_size=batch_size):
            if not isinstance(prediction, ImageError):
                on_prediction(path, prediction)
            yield path, prediction

    def written(item: tuple[Path, Prediction | ImageError]) -> DetectedImage | UnreadableImage:
        path, prediction = item
        try:
            if isinstance(prediction, ImageError):
                raise prediction
            return write_pictures(
                path, prediction, pictures.out, mirrored_name(path, pictures.base), masks=pictures.masks,
                overlays=pictures.overlays, rle=pictures.rle,
            )  # fmt: skip
        except ImageError as error:
            return UnreadableImage(path, str(error))

    for found in done_ahead(written, told(), ahead=batch_size):
        yield found, stamps.pop(found.path)


def spread(
    detector: TrainedDetector, paths: Sequence[Path], pictures: Pictures, roi: Path | None, *, batch_size: int,
    n_workers: int | None,
) -> Iterator[tuple[DetectedImage | UnreadableImage, Stamp]]:  # fmt: skip
    """What `inspected` gives, from workers that open the same detector each; UflowError as `cluster.mapped`."""
    from uflow_cli.cluster import mapped  # not at every start: it opens sockets

    model = detector.model
    is_graph = isinstance(model, Engine)
    on_gpu = not is_graph and str(getattr(model, "device", "cpu")).startswith("cuda")
    open_there = functools.partial(
        open_detector, detector.run, device="cuda" if on_gpu else "cpu", runtime="onnx" if is_graph else "torch",
        nfa_threshold=detector.threshold, roi=roi,
    )  # fmt: skip
    make = functools.partial(_Share, open_there, pictures, None if is_graph else batch_size)
    n_batches = -(-len(paths) // batch_size)
    share = batch_size * min(BATCHES_OF_A_WORKER, -(-n_batches // (2 * BATCHES_OF_A_WORKER)))
    shares = (paths[start : start + share] for start in range(0, len(paths), share))
    for found in mapped(make, shares, n_workers=n_workers, on_gpu=on_gpu):
        yield from found


class _Share:
    """What a worker of a cluster does: it opens its detector once, and inspects a share of the images at a time."""

    def __init__(self, open_there: Callable[[], TrainedDetector], pictures: Pictures, batch_size: int | None) -> None:
        self.detector, self.pictures = open_there(), pictures
        self.batch_size = batch_size or self.detector.model.batch_size

    def __call__(self, paths: Sequence[Path]) -> list[tuple[DetectedImage | UnreadableImage, Stamp]]:
        return list(inspected(self.detector, paths, self.pictures, batch_size=self.batch_size))


def _to_do(paths: Sequence[Path], done: ResultLines, *, size: int) -> list[Path]:
    """Of `paths` in batches of `size` those that are not `done`, with the others of their batch.

    The last bits of what PyTorch computes follow the batch, see `predictions`.
    """
    batches = (paths[start : start + size] for start in range(0, len(paths), size))
    return [path for batch in batches if any(path not in done for path in batch) for path in batch]


def settings_digest(detector: TrainedDetector, roi: Path | None, *settings: bool | int) -> str:
    """A digest of all that a result depends on beside the image: run, what computes it, threshold and `settings`."""
    model = detector.model
    given = hashlib.sha256(roi.read_bytes()).hexdigest() if roi else None
    computed = f"{type(model).__name__} {getattr(model, 'device', 'cpu')}"
    values = [uflow_cli.__version__, to_json(detector.run), computed, detector.threshold, given, *settings]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def write_pictures(
    path: Path, prediction: Prediction, out: Path, name: Path, *, masks: bool, overlays: bool, rle: bool
) -> DetectedImage:
    """Write mask and overlay of the image at `path` below `out`, as `name`, and give what was found in it."""
    height, width = prediction.size
    mask_path = out / MASKS / name if masks else None
    overlay_path = out / OVERLAYS / name if overlays else None
    if mask_path:
        write_png(mask_path, prediction.mask)
    if overlay_path:
        strips = overlay_in_strips(prediction.image, prediction.score_map, prediction.mask)
        write_png_strips(overlay_path, prediction.size, strips)
    return DetectedImage(
        path=path, verdict=prediction.verdict, log_nfa=prediction.log_nfa, anomaly_score=prediction.anomaly_score,
        height=height, width=width, regions=prediction.detections, mask=mask_path,
        overlay=overlay_path, rle=run_lengths(prediction.mask) if rle else None,
        roi_share=1.0 if prediction.roi is None else float(prediction.roi.mean()),
    )  # fmt: skip
