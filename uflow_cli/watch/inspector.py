"""The inspection of what comes into a folder: each image once, also over restarts and kills at any moment.

For each file, in this order: its pictures and its errands are written, then its line, which makes it done; then it is
moved, and the errands may be done. A restart puts right what a kill left undone between them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sqlite3
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

from uflow_cli.config import DeviceChoice, Runtime
from uflow_cli.detect import settings_digest, write_pictures
from uflow_cli.detection.prediction import Prediction
from uflow_cli.detection.stream import UnreadableImage
from uflow_cli.errors import ImageError, UflowError
from uflow_cli.files import remove_litter, replacing
from uflow_cli.images import page_of, pages_of
from uflow_cli.memory import HeapTrimmer
from uflow_cli.results import (
    LINES_NAME,
    MASKS,
    OVERLAYS,
    DetectedImage,
    Stamp,
    Terms,
    line_of,
    lines_file,
    mirrored_name,
    stamp_of,
    stored_lines,
)
from uflow_cli.run.detector import open_detector
from uflow_cli.run.record import Run
from uflow_cli.watch.arrivals import arrivals
from uflow_cli.watch.errands import Errand, Errands

ERRANDS = "errands"
CACHE_KIB = 256  # of what is done in memory; SQLite's own choice grows for 40,000 images


@dataclass(frozen=True)
class Watched:
    """A folder that images come into, where their results go, and where they are moved afterwards (None: they stay).

    UflowError where there is no such folder, or images would be moved to where they come from.
    """

    folder: Path
    out: Path
    good: Path | None = None
    defect: Path | None = None
    masks: bool = True
    overlays: bool = True

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise UflowError(f"{self.folder}: no such folder; name one that images come into")
        for place in (self.good, self.defect):
            if place is not None and place.exists() and not place.is_dir():
                raise UflowError(f"{place}: is no folder; name one that images can be moved to")
            if place is not None and place.resolve() == self.folder.resolve():
                raise UflowError(f"{place}: images moved there would come again; choose a folder that is not watched")

    @property
    def without(self) -> list[Path]:
        """Folders in which no image is a new one."""
        return [folder for folder in (self.out, self.good, self.defect) if folder is not None]


class Done:
    """The stamp of each image that is done, by its path as it came: in a file of its own, for there is no end of them.

    The file has no name and goes with the process; `detections.jsonl` is what lasts.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # any thread may collect it
        weakref.finalize(self, self._table.close)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._table.execute("CREATE TABLE done (page BLOB PRIMARY KEY, bytes INT, modified_ns INT) WITHOUT ROWID")

    def add(self, page: Path, stamp: Stamp) -> None:
        """`page` is done as it was with `stamp`, which takes the place of an earlier one."""
        self._table.execute("REPLACE INTO done VALUES (?, ?, ?)", (os.fsencode(page), *stamp))

    def stamp(self, page: Path) -> Stamp | None:
        """The stamp that `page` had when it was last done."""
        found = self._table.execute("SELECT bytes, modified_ns FROM done WHERE page = ?", (os.fsencode(page),))
        stamp: Stamp | None = found.fetchone()
        return stamp


class Inspector:
    """Inspects one file after the other, and remembers in `detections.jsonl` which are done."""

    def __init__(
        self, watched: Watched, terms: Terms, errands: Errands, file: FileIO, *,
        predict: Callable[[Path], Prediction],
    ) -> None:  # fmt: skip
        self._watched, self._terms, self._errands, self._file, self._predict = watched, terms, errands, file, predict
        self._done = Done()
        self.n_images = self.n_defects = 0
        self._recover()

    def inspect(self, file: Path) -> list[str]:
        """The lines of the images in `file` that were not done; none where it changes while it is read, or is gone."""
        stamp = stamp_of(file)
        pages = pages_of(file)
        if stamp[0] < 0 or all(self._done.stamp(page) == stamp for page in pages):
            return []
        found = [self._found(page, stamp) for page in pages]
        if stamp_of(file) != stamp:
            return []
        place = self._place(file, stamp, found)
        lines = []
        for page, one in zip(pages, found, strict=True):
            if self._done.stamp(page) != stamp:
                lines.append(self._commit(page, replace(one, path=_moved(page, file, place)), stamp))
        _move(file, place)
        for page in pages:
            self._errands.release(number_of(page, stamp))
        return lines

    def _found(self, page: Path, stamp: Stamp) -> DetectedImage | UnreadableImage:
        watched = self._watched
        name = mirrored_name(page, Path(os.path.abspath(watched.folder)))  # noqa: PTH100 - as mirrored_name does
        if self._done.stamp(page) not in (None, stamp):  # another image of this name was there before
            name = name.with_name(f"{name.stem}~{number_of(page, stamp)}.png")
        try:
            prediction = self._predict(page)
            return write_pictures(
                page, prediction, watched.out, name, masks=watched.masks, overlays=watched.overlays, rle=False
            )
        except ImageError as error:
            return UnreadableImage(page, str(error))

    def _place(self, file: Path, stamp: Stamp, found: Sequence[DetectedImage | UnreadableImage]) -> Path:
        """Where `file` goes: with the defects if any page has one, nowhere if any cannot be read."""
        images = [one for one in found if isinstance(one, DetectedImage)]
        if len(images) < len(found):
            return file
        folder = self._watched.defect if any(image.is_defect for image in images) else self._watched.good
        if folder is None:
            return file
        place = folder / file.relative_to(self._watched.folder)
        return place.with_stem(f"{place.stem}~{number_of(file, stamp)}") if place.exists() else place

    def _commit(self, page: Path, found: DetectedImage | UnreadableImage, stamp: Stamp) -> str:
        number = number_of(page, stamp)
        line = line_of(found, stamp, self._terms, source=str(page), id=number)
        self._errands.write(number, json.loads(line))
        data = line.encode()
        while data:
            data = data[self._file.write(data) :]
        self._done.add(page, stamp)
        self.n_images += 1
        self.n_defects += isinstance(found, DetectedImage) and found.is_defect
        return line

    def _recover(self) -> None:
        """Remember what is done, and move and release what a kill left behind."""
        path, end = self._watched.out / LINES_NAME, 0
        done = set()
        to_move: dict[Path, tuple[Path, Stamp]] = {}
        waiting = set(self._errands.waiting())
        for place, line, values in stored_lines(path):
            end = place + len(line)
            if "source" not in values:
                continue
            source, stamp = Path(values["source"]), (values["bytes"], values["modified_ns"])
            self._done.add(source, stamp)
            if values["id"] in waiting:
                done.add(values["id"])
            came = page_of(source)[0]
            target = page_of(Path(values["path"]))[0]
            if target != came and stamp_of(came) == stamp:
                to_move[came] = target, stamp
        for came, (target, stamp) in to_move.items():
            if all(self._done.stamp(page) == stamp for page in pages_of(came)):  # or else its other pages come first
                _move(came, target)
        self._file.truncate(end)
        for folder in (MASKS, OVERLAYS, ERRANDS):
            remove_litter(self._watched.out / folder, below=True)
        for number in sorted(waiting):
            (self._errands.release if number in done else self._errands.forget)(number)


def number_of(page: Path, stamp: Stamp) -> str:
    """What tells this image from all others that have come or will come under this name."""
    return hashlib.sha256(os.fsencode(page) + b"\0%d\0%d" % stamp).hexdigest()[:16]


def watch_folder(
    run: Run, watched: Watched, *, device: DeviceChoice = "auto", runtime: Runtime = "auto",
    nfa_threshold: float | None = None, false_alarm_rate: float | None = None, roi: Path | None = None,
    poll: float | None = None, settle: float = 1.0, kinds: Sequence[Errand] = (),
    is_over: Callable[[], bool], on_line: Callable[[str], object], on_trouble: Callable[[str], None],
) -> tuple[int, int]:  # fmt: skip
    """Inspect the images that are in a folder and those that come, until `is_over`; how many, and how many defects.

    `on_line` hears of the line of each in detections.jsonl, `on_trouble` of what goes on all the same. See `arrivals`
    for `poll` and `settle`. UflowError where nothing more can be written, or another process writes there.
    """
    detector = open_detector(
        run, device=device, runtime=runtime, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate, roi=roi
    )
    errands = Errands(watched.out / ERRANDS, list(kinds), on_trouble)
    terms = Terms(run.folder, detector.threshold, settings_digest(detector, roi), roi)
    with lines_file(watched.out) as file:
        inspector = Inspector(watched, terms, errands, file, predict=detector.detect)
        coming = arrivals(
            watched.folder, without=watched.without, poll=poll, settle=settle, is_over=is_over, on_trouble=on_trouble
        )
        heap = HeapTrimmer()
        with errands.at_work(), contextlib.closing(coming):
            for path in coming:
                for line in inspector.inspect(path):
                    on_line(line)
                heap.tick()
    return inspector.n_images, inspector.n_defects


def _moved(page: Path, file: Path, place: Path) -> Path:
    """The path of a `page` of `file` once that is at `place`."""
    number = page_of(page)[1]
    return place if page == file else place / f"{place.stem}_page{number}{place.suffix}"


def _move(file: Path, place: Path) -> None:
    """Move `file` to `place`, which is whole at every moment, also on another disk; nothing where it is gone."""
    if file == place:
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.rename(place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with replacing(place) as temporary:
                shutil.copyfile(file, temporary)
                shutil.copystat(file, temporary)
            file.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UflowError(f"{file}: cannot be moved to {place} ({error.strerror}); check its permissions") from error
