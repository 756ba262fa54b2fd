"""Inspect files on disk: verdict, regions, mask and overlay of every image, in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from uflow_cli.calibration import choose_threshold
from uflow_cli.detection.detector import Detection
from uflow_cli.detection.prediction import predict
from uflow_cli.errors import ImageError
from uflow_cli.files import write_text
from uflow_cli.images import list_images, read_image, write_png
from uflow_cli.render import overlay
from uflow_cli.run.record import Run, load_model
from uflow_cli.schema import VERSION

RESULT_NAME = "detections.json"


@dataclass(frozen=True)
class InspectedImage:
    """What was found in one image, and where its pictures are; a hundred thousand of these are small."""

    path: Path
    size: tuple[int, int]  # (H, W)
    log_nfa: float
    score: float
    detections: tuple[Detection, ...]
    mask_path: Path
    overlay_path: Path

    @property
    def is_defect(self) -> bool:
        """Whether any region is below the threshold."""
        return bool(self.detections)


@dataclass(frozen=True)
class Inspection:
    """What was found in all images; `errors` are the images that could not be read, with the reason."""

    run: Run
    threshold: float  # on log10 NFA
    promise: str  # what the threshold means, for people
    out: Path
    images: tuple[InspectedImage, ...] = ()
    errors: tuple[tuple[Path, str], ...] = field(default=())

    @property
    def n_defects(self) -> int:
        """Images with at least one detection."""
        return sum(image.is_defect for image in self.images)


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The image files that `paths` name: files as they are, folders with all images below them."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update(dict.fromkeys(list_images(path, recursive=True)))
        else:
            found[path] = None
    return list(found)


def inspect(
    run: Run, paths: Sequence[Path], *, out: Path, device: torch.device, nfa_threshold: float | None = None,
    false_alarm_rate: float | None = None, on_progress: Callable[[int], None] = lambda _n: None,
) -> Inspection:  # fmt: skip
    """Inspect the images at `paths` and write masks, overlays and detections.json to `out`.

    Unreadable images are reported in `errors`, the others are inspected all the same. `on_progress(n)` hears of n more.
    """
    threshold, promise = choose_threshold(
        run.calibration, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate
    )
    model = load_model(run, device=device)
    detector = run.calibration.detector(model)
    names = output_names(paths)
    images: list[InspectedImage] = []
    errors: list[tuple[Path, str]] = []
    for path in paths:
        try:
            image = read_image(path)
        except ImageError as error:
            errors.append((path, str(error)))
        else:
            [prediction] = predict(model, detector, [image], threshold=threshold)
            mask_path, overlay_path = out / f"{names[path]}_mask.png", out / f"{names[path]}_overlay.png"
            write_png(mask_path, prediction.mask)
            write_png(overlay_path, overlay(image, prediction.score_map, prediction.mask))
            images.append(
                InspectedImage(
                    path=path,
                    size=prediction.size,
                    log_nfa=prediction.log_nfa,
                    score=prediction.score,
                    detections=prediction.detections,
                    mask_path=mask_path,
                    overlay_path=overlay_path,
                )
            )
        on_progress(1)
    inspection = Inspection(run, threshold, promise, out, tuple(images), tuple(errors))
    write_text(out / RESULT_NAME, json.dumps(inspection_to_dict(inspection), indent=1) + "\n")
    return inspection


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
        unique = name
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        names[path] = unique
    return names


def inspection_to_dict(inspection: Inspection) -> dict[str, Any]:
    """JSON-ready mapping of `inspection`; `version` changes when a reader would have to."""
    return {
        "version": VERSION,
        "model": str(inspection.run.folder),
        "nfa_threshold": inspection.threshold,
        "promise": inspection.promise,
        "caveat": inspection.run.caveat,
        "out": str(inspection.out),
        "n_images": len(inspection.images),
        "n_defects": inspection.n_defects,
        "images": [_image_to_dict(image) for image in inspection.images],
        "errors": [{"path": str(path), "message": message} for path, message in inspection.errors],
    }


def _image_to_dict(image: InspectedImage) -> dict[str, Any]:
    return {
        "path": str(image.path),
        "verdict": "defect" if image.is_defect else "good",
        "log_nfa": image.log_nfa,
        "anomaly_score": image.score,
        "height": image.size[0],
        "width": image.size[1],
        "regions": [asdict(detection) for detection in image.detections],
        "mask": str(image.mask_path),
        "overlay": str(image.overlay_path),
    }
