"""The cache folder: shards below one folder per settings, a size limit, and what is removed first to keep it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uflow_cli.cache.locking import lock_alone, turn
from uflow_cli.cache.shard import SUFFIX, Shard
from uflow_cli.errors import UflowError

GIB = 2**30


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this system keeps what can be computed again."""
    if sys.platform == "win32":
        base = Path(environment.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "uflow"


@dataclass(frozen=True)
class ShardFile:
    """A shard as a file: what the folder knows without opening it for reading."""

    path: Path
    n_bytes: int
    last_used: float  # seconds since 1970


@dataclass(frozen=True)
class CacheFolder:
    """A folder of shards that holds at most `limit` bytes; least recently used ones go first, used ones never."""

    path: Path
    limit: int

    def shards(self, settings: str | None = None) -> list[ShardFile]:
        """The shards, or those made with `settings`, oldest first."""
        found = []
        for path in sorted(self.path.glob(f"{settings or '*'}/*{SUFFIX}")):
            with contextlib.suppress(FileNotFoundError):  # another run removed it meanwhile
                status = path.stat()
                found.append(ShardFile(path, status.st_size, status.st_mtime))
        return found

    def create_shard(self, settings: str, *, capacity: int, record_bytes: int, about: Mapping[str, Any]) -> Shard:
        """A new shard for `capacity` records, room for which is made; UflowError if there is none."""
        with self._turn():
            self._make_room(capacity * record_bytes)
            with self.explained():
                folder = self.path / settings
                folder.mkdir(exist_ok=True)
                return Shard.create(folder, capacity=capacity, record_bytes=record_bytes, about=about)

    def make_room(self, n_bytes: int) -> None:
        """Remove least recently used shards until `n_bytes` fit; UflowError, and nothing removed, if they cannot."""
        with self._turn():
            self._make_room(n_bytes)

    def clear(self) -> tuple[int, int]:
        """Remove every shard that no run uses: bytes removed, and bytes that stay."""
        if not self.path.is_dir():
            return 0, 0
        with self._turn():
            removed = sum(shard.n_bytes for shard in self.shards() if _try_alone(shard.path, remove=True))
            return removed, sum(shard.n_bytes for shard in self.shards())

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One run at a time makes or removes shards."""
        with contextlib.ExitStack() as stack:
            with self.explained():
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(turn(self.path / "lock"))
            yield

    def _make_room(self, n_bytes: int) -> None:
        shards = self.shards()
        used = sum(shard.n_bytes for shard in shards)
        free = shutil.disk_usage(self.path).free
        excess = max(used + n_bytes - self.limit, n_bytes - free)
        if excess <= 0:
            return
        unused = [shard for shard in shards if _try_alone(shard.path, remove=False)]
        removable = sum(shard.n_bytes for shard in unused)
        if removable < excess:
            raise UflowError(
                f"{n_bytes / GIB:.3g} GiB of features do not fit the cache {self.path}: it may hold "
                f"{self.limit / GIB:.3g} GiB, {(used - removable) / GIB:.3g} GiB are in use, and its disk has "
                f"{free / GIB:.3g} GiB free; raise --cache-size, choose another --cache-dir, or take --no-cache"
            )
        for shard in sorted(unused, key=lambda shard: shard.last_used):
            if excess <= 0:
                break
            if _try_alone(shard.path, remove=True):
                excess -= shard.n_bytes

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What the disk refuses, as a UflowError that says what to do."""
        try:
            yield
        except OSError as error:
            raise UflowError(
                f"cannot keep features in {self.path}: {error.strerror or error}; "
                "choose another --cache-dir, free its disk, or take --no-cache"
            ) from error


@dataclass(frozen=True)
class Summary:
    """What the cache holds of one extractor at one input size, with the same weights and versions."""

    extractor: str
    input_size: int
    n_images: int  # views count as images
    n_bytes: int
    last_used: float  # seconds since 1970


def summarise(folder: CacheFolder) -> list[Summary]:
    """What `folder` holds, least recently used first; damaged shards are left out."""
    parts: dict[str, list[Summary]] = {}
    for file in folder.shards():
        shard = Shard.open(file.path)
        if shard is not None:
            name, side = str(shard.about.get("extractor")), int(shard.about.get("input_size", 0))
            part = Summary(name, side, shard.n_used, file.n_bytes, file.last_used)
            parts.setdefault(file.path.parent.name, []).append(part)
            shard.close()
    whole = [
        Summary(
            same[0].extractor, same[0].input_size, sum(part.n_images for part in same),
            sum(part.n_bytes for part in same), max(part.last_used for part in same),
        )
        for same in parts.values()
    ]  # fmt: skip
    return sorted(whole, key=lambda summary: summary.last_used)


def _try_alone(path: Path, *, remove: bool) -> bool:
    """Whether nobody uses the shard at `path`, and with `remove` whether it was removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if not lock_alone(descriptor):
            return False
        if remove:
            path.unlink()  # while nobody can begin to use it
            with contextlib.suppress(OSError):  # its folder holds others
                path.parent.rmdir()
    except OSError:  # somebody else's
        return False
    finally:
        os.close(descriptor)
    return True
