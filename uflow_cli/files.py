"""Files that are never half written, and the folder where those lie that can be made again."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from uflow_cli.errors import NoRoomError, UflowError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LONGEST_NAME = 255  # bytes, on all systems in use


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this system keeps what can be computed again."""
    if sys.platform == "win32":
        base = Path(environment.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "uflow"


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place at the end, or vanishes on an error. Parents are made.

    A `durable` file is on the disk before it takes the place, so that a loss of power does not leave it empty.
    Raises UflowError where a permission or the path does not allow it, NoRoomError where the disk takes nothing more.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            if durable:
                _flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        kind = NoRoomError if error.errno in NO_ROOM else UflowError
        raise kind(
            f"{path}: cannot be written ({error.strerror or error}); choose another folder or free its disk"
        ) from error


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write `text` as UTF-8: `path` is the whole new file or what it was before; UflowError if that fails."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write `data`: `path` is the whole new file or what it was before; UflowError if that fails."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def is_file_name(name: str) -> bool:
    """Whether a file of a folder may be called `name`: no path, no null byte, not too long."""
    return Path(name).name == name and "\0" not in name and len(os.fsencode(name)) <= LONGEST_NAME


def read_plain(path: Path) -> bytes:
    """The content of the file `path`; OSError, for devices and pipes too, which might never end."""
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise OSError(errno.EINVAL, "it is a device, pipe or socket, and a file is needed")
    return path.read_bytes()


def remove(path: Path) -> None:
    """Remove a file that must not stay, where it is there; UflowError if that fails."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UflowError(
            f"{path}: cannot be removed ({error.strerror or error}); see whether its disk can be written"
        ) from error


def discard(path: Path) -> None:
    """Remove a file that nobody needs any more; it stays where that is not allowed."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def remove_litter(folder: Path, *, below: bool = False) -> None:
    """Remove the temporary files that killed writers left in `folder`, or also `below` it; nobody may write there.

    They stay where that is not allowed.
    """
    for path in folder.glob("**/.????????.tmp" if below else ".????????.tmp"):
        discard(path)


def hold(file: IO[Any], refusal: str) -> None:
    """Keep the open `file` from other processes that would hold it too, until it is closed or this process dies.

    UflowError with the line `refusal` where one does. Windows and some network drives have no such locks.
    """
    if _held(file) is False:
        raise UflowError(refusal)


def _held(file: IO[Any]) -> bool | None:
    """Whether this process holds the open `file` now; None where there are no such locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def workshop(place: Path) -> Iterator[Path]:
    """A new folder beside `place` in which that is made, gone at the end; what is in its way goes to `old` in there.

    Of what killed processes left of theirs, an `old` whose place is empty goes back there, and the rest is removed.
    Raises OSError.
    """
    prefix = f".{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:8]}-"
    for lock in place.parent.glob(f"{prefix}*.lock"):
        with contextlib.suppress(FileNotFoundError, PermissionError), lock.open("rb") as file:
            if _held(file):
                old = lock.with_suffix("") / "old"
                if old.exists() and not place.exists():
                    old.rename(place)
                _remove_workshop(lock)
    lock, held = _new_lock(place.parent, prefix)
    with held:
        try:
            lock.with_suffix("").mkdir(mode=0o700)
            yield lock.with_suffix("")
        finally:
            _remove_workshop(lock)


def _new_lock(parent: Path, prefix: str) -> tuple[Path, IO[bytes]]:
    """A new file, open and held, which tells of the folder beside it that its maker is alive."""
    while True:
        handle, name = tempfile.mkstemp(dir=parent, prefix=prefix, suffix=".lock")
        lock, file = Path(name), os.fdopen(handle, "rb")
        if _held(file) is not False and lock.exists():
            return lock, file
        file.close()  # another process found it before it was held, and takes it for one that a kill left


def _remove_workshop(lock: Path) -> None:
    """Remove the folder of `lock`, and then the lock, by which the next one knows what a kill left in between."""
    folder = lock.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        with contextlib.suppress(OSError):  # Windows removes no open file
            lock.unlink()


def swap_folder(made: Path, folder: Path, *, old: Path) -> None:
    """Put `made` where `folder` is, which goes to `old`; back to how it was where that fails half-way."""
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    """The permissions that new files do not get; `mkstemp` would leave them to their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
