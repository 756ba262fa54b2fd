"""What a detection leaves in its folder: a line per image as it comes, and at the end the same as JSON and as a table.

- `detections.jsonl`: a line per image, written once its pictures are in place, so that a kill loses nothing;
- `masks/`, `overlays/`: the folders of the images once more, see `mirrored_name`;
- `detections.json`, `detections.csv`: made of the lines when all images are done.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import textwrap
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from uflow_cli.calibration import choose_threshold
from uflow_cli.detection.detector import Detection
from uflow_cli.detection.masks import coco_counts
from uflow_cli.detection.stream import UnreadableImage
from uflow_cli.errors import UflowError
from uflow_cli.files import hold, replacing
from uflow_cli.images import IMAGE_SUFFIXES, page_of, roi_beside
from uflow_cli.ledger import Ledger
from uflow_cli.run.record import load_run
from uflow_cli.schema import (
    VERSION,
    from_dict,
    from_json,
    parse_json,
    record,
    refuse_newer,
    to_dict,
    to_json,
    without_minus_zero,
)
from uflow_cli.text import in_one_line, inert, printable

LINES_NAME = "detections.jsonl"
RESULT_NAME = "detections.json"
TABLE_NAME = "detections.csv"
MASKS, OVERLAYS = "masks", "overlays"
LONGEST_NAME = 200  # bytes, before what makes it unique and what a file under way is called
COLUMNS = (
    "path", "verdict", "log_nfa", "anomaly_score", "region", "region_log_nfa", "area", "left", "top", "right", "bottom",
    "centroid_x", "centroid_y", "scale", "is_whole_image", "message",
)  # fmt: skip


Stamp = tuple[int, int]  # bytes and nanoseconds of the last change of a file; (-1, 0) where there is none


@record
class RunLengths:
    """A mask as COCO has it, compressed."""

    size: tuple[int, int]  # (H, W)
    counts: str


def run_lengths(mask: NDArray[np.bool_]) -> RunLengths:
    """The run lengths of a mask (H, W); UflowError where pycocotools is not installed."""
    return RunLengths((mask.shape[0], mask.shape[1]), coco_counts(mask))


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
    rle: RunLengths | None = None  # of the mask; None: not asked for

    @property
    def is_defect(self) -> bool:
        """Whether any region is below the threshold."""
        return self.verdict == "defect"


FIELDS = tuple(field.name for field in dataclasses.fields(DetectedImage))


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


@dataclass(frozen=True)
class Detected:
    """What `DetectionResult` says, of any number of images: they stay on the disk until they are asked for."""

    model: Path
    nfa_threshold: float
    promise: str
    caveat: str | None
    out: Path
    n_defects: int
    images: Sequence[DetectedImage]
    errors: Sequence[UnreadableImage]
    roi: Path | None


@dataclass(frozen=True)
class Terms:
    """What all lines of a detection share; `digest` tells everything that a result depends on beside the image."""

    model: Path
    nfa_threshold: float
    digest: str
    roi: Path | None  # the mask that was given instead of the run's


class StoredImages(Sequence[DetectedImage]):
    """Images that are read from the lines of a detection when they are asked for."""

    def __init__(self, lines: Path, places: Sequence[int]) -> None:
        self._lines, self._places = lines, places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[DetectedImage]:
        return map(_image_of, self.values())

    def values(self) -> Iterator[dict[str, Any]]:
        """The fields of each as JSON has them; UflowError where the lines are others by now."""
        with self._lines.open("rb") as file:
            for place in self._places:
                file.seek(place)
                values = _values_of(file.readline())
                if any(name not in values for name in FIELDS):
                    raise UflowError(
                        f"{self._lines}: another process writes results there since; give each a folder of its own"
                    )
                yield {name: values[name] for name in FIELDS}

    @overload
    def __getitem__(self, index: int) -> DetectedImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[DetectedImage]: ...
    def __getitem__(self, index: int | slice) -> DetectedImage | Sequence[DetectedImage]:
        if isinstance(index, slice):
            return StoredImages(self._lines, self._places[index])
        return next(iter(StoredImages(self._lines, [self._places[index]])))


class ResultLines:
    """The open `detections.jsonl` of a folder, in which the places of the lines that hold are known by path."""

    def __init__(self, file: FileIO, path: Path, terms: Terms, *, resume: bool) -> None:
        self.path = path
        self.n_outdated = 0  # images of earlier lines that hold no longer: they, the run or the settings have changed
        self._terms = terms
        self._places = Ledger()  # -1: a line that holds no longer
        self._end = 0
        self._file = file
        if not resume:
            self._file.truncate(0)
        for place, line, values in stored_lines(self.path):
            name = str(values.get("path"))
            is_result = "verdict" in values
            if is_result and values.get("settings") == terms.digest and _stamp_in(values) == stamp_of(Path(name)):
                self._places[name] = place
            else:
                self._places[name] = -1
                self.n_outdated += is_result
            self._end = place + len(line)
        self._file.truncate(self._end)  # of a line that a kill broke off nothing stays

    def __contains__(self, path: Path) -> bool:
        return self._place(path) >= 0

    def add(self, found: DetectedImage | UnreadableImage, stamp: Stamp) -> str:
        """Append the line, and give it, of what was found in an image whose file had `stamp` before it was read."""
        line = line_of(found, stamp, self._terms)
        data = line.encode()
        self._places[str(found.path)] = self._end
        self._end += len(data)
        while data:
            data = data[self._file.write(data) :]
        return line

    def finish(self, paths: Sequence[Path], *, promise: str, caveat: str | None, out: Path) -> Detected:
        """Put the lines in the order of `paths`, all of which have one, and make JSON and table of them."""
        places = array("q", map(self._place, paths))
        self._put_in_order(places)
        good, errors, n_defects = array("q"), list[UnreadableImage](), 0
        for place, _line, values in stored_lines(self.path):
            if "message" in values:
                errors.append(UnreadableImage(Path(values["path"]), values["message"]))
            else:
                good.append(place)
                n_defects += values["verdict"] == "defect"
        terms = self._terms
        images = StoredImages(self.path, good)
        result = Detected(terms.model, terms.nfa_threshold, promise, caveat, out, n_defects, images, errors, terms.roi)
        _write_table(result, out / TABLE_NAME)
        _write_json(result, images.values(), out / RESULT_NAME)
        return result

    def _place(self, path: Path) -> int:
        place = self._places.get(str(path))
        return -1 if place is None else place

    def _put_in_order(self, places: Sequence[int]) -> None:
        lengths = 0
        with self.path.open("rb") as file:
            for place in places:
                if place != lengths:
                    break
                file.seek(place)
                lengths += len(file.readline())
            else:
                if lengths == self._end:
                    return
            with replacing(self.path) as temporary, temporary.open("wb") as sorted_file:
                for place in places:
                    file.seek(place)
                    sorted_file.write(file.readline())


@contextlib.contextmanager
def lines_file(out: Path) -> Iterator[FileIO]:
    """Open the lines in the folder `out`, which is made, to append to them.

    UflowError where it cannot be written, holds `masks` or `overlays` that are no results, or another process writes.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / LINES_NAME).exists():
            for folder in (MASKS, OVERLAYS):
                if (out / folder).exists():
                    raise UflowError(f"{out / folder} is there and no result of uflow detect; choose another folder")
        with (out / LINES_NAME).open("ab", buffering=0) as file:
            hold(file, f"another process writes results to {out}; wait for it, or choose another folder")
            yield file
    except OSError as error:
        raise UflowError(
            f"{out}: cannot be written ({error.strerror or error}); choose another folder or free its disk"
        ) from error


@contextlib.contextmanager
def result_lines(out: Path, terms: Terms, *, resume: bool) -> Iterator[ResultLines]:
    """The lines in the folder `out`, of which those of before are gone unless `resume`; UflowError as `lines_file`."""
    with lines_file(out) as file:
        yield ResultLines(file, out / LINES_NAME, terms, resume=resume)


def stamp_of(path: Path) -> Stamp:
    """What changes when the image at `path` does, or the region of interest beside it; (-1, 0) where there is none."""
    try:
        found, roi = page_of(path)[0].stat(), roi_beside(path)
        return found.st_size, max(found.st_mtime_ns, roi.stat().st_mtime_ns if roi else 0)
    except (OSError, ValueError):
        return -1, 0


def line_of(found: DetectedImage | UnreadableImage, stamp: Stamp, terms: Terms, **more: str) -> str:
    """The line of `detections.jsonl` for what was found in an image whose file had `stamp`; with `more` fields."""
    roi = None if terms.roi is None else str(terms.roi)
    head = {"version": VERSION, "model": str(terms.model), "nfa_threshold": terms.nfa_threshold, "roi": roi}
    tail = {"bytes": stamp[0], "modified_ns": stamp[1], "settings": terms.digest, **more}
    return json.dumps(without_minus_zero({**head, **to_dict(found), **tail}), allow_nan=False) + "\n"


def common_folder(folders: Iterable[Path]) -> Path:
    """The deepest folder that holds all of `folders`, absolute; no link is followed."""
    absolute = [os.path.abspath(folder) for folder in folders]  # noqa: PTH100 - pathlib keeps ".."
    try:
        return Path(os.path.commonpath(absolute))
    except ValueError:  # none, or of several drives
        return Path(Path.cwd().anchor)


def mirrored_name(path: Path, base: Path) -> Path:
    """Where the pictures of the image at `path` belong below `masks` and `overlays`: where it is below `base`.

    What is no `.png` has that added. No two images have one name, and it does not depend on the others there are:
    what cannot be written as it is, or might be another's name, ends with a digest of the path.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - pathlib keeps ".."
    relative = absolute.relative_to(base if absolute.is_relative_to(base) else absolute.anchor)
    parts = [_writable(part) for part in relative.parts]
    name = parts.pop()
    if [*parts, name] != list(relative.parts) or relative.suffix.lower() not in IMAGE_SUFFIXES:
        name = f"{name}~{hashlib.sha256(os.fsencode(absolute)).hexdigest()[:12]}.png"
    elif relative.suffix != ".png" or Path(relative.stem).suffix.lower() in IMAGE_SUFFIXES:
        name += ".png"  # a.jpg is a.jpg.png, which a.jpg.png may then not be
    return Path(*parts, name)


def _writable(name: str) -> str:
    """`name` without control characters, and short enough for an ending: file systems allow 255 bytes."""
    shown = "".join(letter if letter.isprintable() else "_" for letter in name)
    return shown.encode(errors="replace")[:LONGEST_NAME].decode(errors="ignore")


def read_result(folder: Path) -> Detected:
    """What a detection left in `folder`, also where it was broken off; UflowError where that is missing or damaged."""
    path = folder / RESULT_NAME
    if broken_off(folder):
        try:
            return _result_of_lines(folder)
        except (KeyError, TypeError, ValueError) as error:
            raise UflowError(f"{folder / LINES_NAME} is damaged ({in_one_line(error)}); detect again") from error
    try:
        stored = from_json(DetectionResult, path.read_text(encoding="utf-8"), path)
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "no such file" if is_gone else f"cannot be read ({error.strerror})"
        raise UflowError(f"{path}: {reason}; name a folder that `uflow detect` wrote") from error
    except ValueError as error:
        raise UflowError(f"{path} cannot be read ({error}); detect again") from error
    return Detected(
        stored.model, stored.nfa_threshold, stored.promise, stored.caveat, stored.out, stored.n_defects, stored.images,
        stored.errors, stored.roi,
    )  # fmt: skip


def broken_off(folder: Path) -> int:
    """How many results there are in `folder` of a detection that came to no end."""
    path, lines = folder / RESULT_NAME, folder / LINES_NAME
    if not lines.is_file() or (path.is_file() and path.stat().st_mtime_ns >= lines.stat().st_mtime_ns):
        return 0
    return sum(1 for _ in _whole_lines(lines))


def _result_of_lines(folder: Path) -> Detected:
    """What the lines in `folder` say, which may still grow; of an image with several, the last."""
    path = folder / LINES_NAME
    places: dict[str, int] = {}
    errors: dict[str, str] = {}
    head: dict[str, Any] = {}
    for place, _line, values in stored_lines(path):
        if "path" not in values:
            continue
        head = values
        places.pop(values["path"], None)
        errors.pop(values["path"], None)
        if "verdict" in values:
            places[values["path"]] = place
        else:
            errors[values["path"]] = values["message"]
    if not head:
        raise UflowError(f"{path}: no image has been inspected yet; go on with `uflow detect --resume`")
    model, threshold, roi = Path(head["model"]), float(head["nfa_threshold"]), head.get("roi") and Path(head["roi"])
    promise, caveat = f"what its run promises at log NFA < {threshold:g}", None
    with contextlib.suppress(UflowError, OSError):
        run = load_run(model)
        promise, caveat = (
            choose_threshold(run.calibration, nfa_threshold=threshold, false_alarm_rate=None)[1],
            run.caveat,
        )
    images = StoredImages(path, array("q", places.values()))
    n_defects = sum(image.is_defect for image in images)
    unreadable = [UnreadableImage(Path(name), message) for name, message in errors.items()]
    return Detected(model, threshold, promise, caveat, folder, n_defects, images, unreadable, roi)


def _write_json(result: Detected, images: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write `result` as a `DetectionResult`, an image at a time of `images`, which are its images' fields."""
    shell = DetectionResult(
        model=result.model, nfa_threshold=result.nfa_threshold, promise=result.promise, caveat=result.caveat,
        out=result.out, n_images=len(result.images), n_defects=result.n_defects, images=(),
        errors=tuple(result.errors), roi=result.roi,
    )  # fmt: skip
    before, nothing, after = to_json(shell).partition('"images": []')
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(before + nothing[:-1])
        for number, image in enumerate(images):
            text = json.dumps(image, indent=1, allow_nan=False)
            file.write(("," if number else "") + "\n" + textwrap.indent(text, "  "))
        file.write(("\n ]" if result.images else "]") + after)


def _write_table(result: Detected, path: Path) -> None:
    """Write a row for each region, and one for each image without."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for image in result.images:
            about = {
                "path": _cell(str(image.path)), "verdict": image.verdict, "log_nfa": image.log_nfa,
                "anomaly_score": image.anomaly_score,
            }  # fmt: skip
            table.writerows(about | row for row in _rows(image.regions))
        for error in result.errors:
            table.writerow({"path": _cell(str(error.path)), "verdict": "unreadable", "message": _cell(error.message)})


def _rows(regions: Sequence[Detection]) -> Iterator[dict[str, Any]]:
    if not regions:
        yield {}
    for number, region in enumerate(regions, start=1):
        left, top, right, bottom = region.bounding_box
        yield {
            "region": number, "region_log_nfa": region.log_nfa, "area": region.area, "left": left, "top": top,
            "right": right, "bottom": bottom, "centroid_x": region.centroid[0], "centroid_y": region.centroid[1],
            "scale": region.scale, "is_whole_image": region.is_whole_image,
        }  # fmt: skip


def _cell(text: str) -> str:
    """`text` as a spreadsheet shows and does not compute it, whatever a file is called."""
    return inert(printable(text))


def stored_lines(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """The lines of a file that have an end: the place of each, itself, and what it says, which is {} where damaged.

    UflowError at a line of a newer uflow.
    """
    for place, line in _whole_lines(path):
        values = _values_of(line)
        refuse_newer(values.get("version"), path)
        yield place, line, values


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    place = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield place, line
            place += len(line)


def _values_of(line: bytes) -> dict[str, Any]:
    try:
        values = parse_json(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _stamp_in(values: Mapping[str, Any]) -> Stamp:
    return values.get("bytes", -1), values.get("modified_ns", 0)


def _image_of(values: Mapping[str, Any]) -> DetectedImage:
    """The image that the values of a line describe."""
    image = from_dict(DetectedImage, values)
    if str(image.path) != values["path"]:  # a name that is no Unicode
        image = dataclasses.replace(image, path=Path(values["path"]))
    return image
