"""Files that come into a folder, each as soon as it is complete: by events of the system, or by listing it."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from uflow_cli.errors import UflowError
from uflow_cli.images import IMAGE_SUFFIXES, ROI_FOLDER
from uflow_cli.inputs import EarlierPictures

RESCAN = 60.0  # seconds: events get lost where very many come at once
GLANCE = 0.2  # seconds between looks at files that are not complete

State = tuple[int, int]  # bytes and time of change of a file


def arrivals(
    folder: Path, *, without: Sequence[Path] = (), poll: float | None = None, settle: float = 1.0,
    is_over: Callable[[], bool], on_trouble: Callable[[str], None],
) -> Generator[Path, None, None]:  # fmt: skip
    """The image files in `folder` and below it, those that are there and those that come, until `is_over`.

    A file is complete when size and time of change were the same for `settle` seconds, or at once when it is renamed
    into its place. It comes again whenever it has changed. The folders `without` are not looked at, nor what is
    hidden or was left there by detections. With `poll` the folder is listed every so many seconds; that needs no
    events, which network drives do not have, and no watchdog. `on_trouble` hears why a listing failed, once.
    UflowError where watchdog is missing.
    """
    hidden = [path.resolve() for path in without]
    events: queue.SimpleQueue[tuple[Path, bool]] = queue.SimpleQueue()
    waiting: dict[Path, tuple[State, float]] = {}  # what a file was like, and since when
    given: dict[Path, State] = {}
    next_scan, trouble = 0.0, ""
    with contextlib.nullcontext() if poll else _observed(folder, events):
        while not is_over():
            now = time.monotonic()
            if now >= next_scan:
                next_scan = now + (poll or RESCAN)
                try:
                    listed = list(_images_in(folder, hidden))
                    trouble = ""
                except OSError as error:
                    listed = []
                    if trouble != (trouble := f"{folder}: cannot be listed ({error.strerror}); trying again"):
                        on_trouble(trouble)
                else:
                    given = {path: given[path] for path in listed if path in given}
                for path in listed:
                    if given.get(path) != _state(path):
                        waiting.setdefault(path, ((-1, 0), now))
            for path, is_renamed in _taken(events):
                if path == folder:
                    next_scan = now
                elif _is_wanted(path, folder, hidden):
                    waiting[path] = (_state(path), now - settle) if is_renamed else waiting.get(path, ((-1, 0), now))
            ready = []
            for path, (before, since) in list(waiting.items()):
                state = _state(path)
                if state[0] < 0:
                    del waiting[path]
                elif state != before:
                    waiting[path] = (state, now)
                elif now - since >= settle and state[0] > 0:
                    if given.get(path) != state:
                        ready.append((state[1], path))
                    given[path] = state
                    del waiting[path]
            for _, path in sorted(ready):
                if is_over():
                    return
                yield path
            if not ready:
                time.sleep(min(GLANCE, poll or GLANCE))


@contextlib.contextmanager
def _observed(folder: Path, events: queue.SimpleQueue[tuple[Path, bool]]) -> Iterator[None]:
    """Put the files that come into `folder` into `events`, and whether each was renamed into its place."""
    try:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler  # noqa: TID251
        from watchdog.observers import Observer  # noqa: TID251
    except ModuleNotFoundError as error:
        raise UflowError(
            "watching needs watchdog: pip install uflow-cli[watch]; or list every --poll SECONDS"
        ) from error

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            is_renamed = event.event_type == "moved"
            if event.is_directory and event.event_type in ("created", "moved"):
                events.put((folder, False))  # a whole folder came: look at all
            elif not event.is_directory and event.event_type in ("created", "modified", "closed", "moved"):
                name: Any = event.dest_path if is_renamed else event.src_path
                events.put((Path(os.fsdecode(name)), is_renamed))

    observer = Observer()
    observer.schedule(Handler(), str(folder), recursive=True)
    try:
        observer.start()
    except OSError as error:
        raise UflowError(f"{folder}: cannot be watched ({error.strerror}); list it every --poll SECONDS") from error
    try:
        yield
    finally:
        observer.stop()
        observer.join()


def _taken(events: queue.SimpleQueue[tuple[Path, bool]]) -> Iterator[tuple[Path, bool]]:
    with contextlib.suppress(queue.Empty):
        while True:
            yield events.get_nowait()


def _images_in(folder: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    """The image files below `folder`. Raises OSError where it cannot be listed."""
    os.scandir(folder).close()
    earlier = EarlierPictures({})
    for place, folders, names in os.walk(folder):
        at = Path(place)
        folders[:] = [name for name in folders if name != ROI_FOLDER and not _is_hidden(at / name, hidden)]
        for name in names:
            path = at / name
            if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".") and path not in earlier:
                yield path


def _is_wanted(path: Path, folder: Path, hidden: Sequence[Path]) -> bool:
    """What `_images_in` says of one path."""
    above = [folder / part for part in list(path.relative_to(folder).parents)[:-1]]
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path not in EarlierPictures({})
        and not any(part.name == ROI_FOLDER or _is_hidden(part, hidden) for part in above)
    )  # fmt: skip


def _is_hidden(folder: Path, hidden: Sequence[Path]) -> bool:
    return folder.name.startswith(".") or folder.resolve() in hidden


def _state(path: Path) -> State:
    try:
        found = path.stat()
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns
