"""Features of images, computed once and kept for every later run, one file per image.

A file is named by the SHA-256 of what the image shows and lies in a folder named by the digest of everything else that
its numbers depend on, so it cannot be stale. It carries a checksum, and it is written under a temporary name and then
renamed, so a kill leaves no half-written file. When the size limit is passed, the files used least recently are removed
first; those of a running training never are. Features are rounded to float16 whether they are kept or not, so a
training gives the same numbers with and without the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import os
import secrets
import shutil
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from uflow_cli.config import plain_size
from uflow_cli.errors import UflowError
from uflow_cli.features.records import RecordLayout, Records, pack, unpack
from uflow_cli.files import remove_litter, replacing, write_text
from uflow_cli.images import OPENCV_VERSION, Source, decoder_versions, done_ahead, pixels_of, survey_images
from uflow_cli.model import PREPROCESSING_VERSION, Model
from uflow_cli.schema import VERSION, refuse_newer

GIB = 2**30
FORMAT = 2  # of the files; raise it when their layout changes
SUFFIX = ".f16"
OLD_SUFFIX = ".features"  # format 1, many images in a file: no longer read, removed like files used long ago
EXTRACTION_BATCH = 8


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of features; `name` is its path below the cache folder."""

    name: str
    n_bytes: int
    last_used: float  # seconds since 1970


@dataclass(frozen=True)
class Summary:
    """The features that one extractor gave at one input size, with the same weights and versions."""

    extractor: str
    input_size: int | list[int]  # pixels: side, or height and width
    n_images: int  # views count as images
    n_bytes: int
    last_used: float  # seconds since 1970


class Lease:
    """Tells other processes which files of a cache this one uses or is about to write, until it ends or is forgotten.

    The list lies below the cache folder beside a lock that the system drops when the process dies.
    """

    def __init__(self, folder: Path, names: Iterable[str], record_bytes: int) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / f"{secrets.token_hex(8)}.json"
        lock = FileLock(path.with_suffix(".lock"), thread_local=False)
        lock.acquire(timeout=0)
        self._finalizer = weakref.finalize(self, _end_lease, path, lock, os.getpid())
        write_text(path, json.dumps({"version": VERSION, "record_bytes": record_bytes, "names": list(names)}))


def _end_lease(path: Path, lock: FileLock, owner: int) -> None:
    if os.getpid() != owner:  # a forked process collects what it inherited: the lease is not its own
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        lock.release()
        path.with_suffix(".lock").unlink(missing_ok=True)


@dataclass(frozen=True)
class CacheFolder:
    """A folder of features that holds at most `limit` bytes."""

    path: Path
    limit: int

    def files(self) -> list[KeptFile]:
        """All files of features, those used least recently first."""
        found = []
        for folder in self._folders():
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith((SUFFIX, OLD_SUFFIX)):
                        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                            status = entry.stat()
                            found.append(KeptFile(f"{folder.name}/{entry.name}", status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.last_used)

    def summarise(self) -> list[Summary]:
        """Kept features per extractor and input size, least recently used first; not those of an older format."""
        groups: dict[str, list[KeptFile]] = {}
        for file in self.files():
            if file.name.endswith(SUFFIX):
                groups.setdefault(file.name.partition("/")[0], []).append(file)
        summaries = []
        for folder, files in groups.items():
            about: dict[str, Any] = {}
            with contextlib.suppress(OSError, ValueError):
                about = json.loads((self.path / f"{folder}.json").read_text(encoding="utf-8"))
            name, size = str(about.get("extractor", "unknown")), about.get("input_size", 0)
            summaries.append(Summary(name, size, len(files), sum(f.n_bytes for f in files), files[-1].last_used))
        return sorted(summaries, key=lambda summary: summary.last_used)

    def clear(self) -> tuple[int, int]:
        """Remove all files that no running training uses: bytes removed, and bytes that stay."""
        if not self.path.is_dir():
            return 0, 0
        with self._explained(), self._alone():
            used, _ = self._leased()
            removed = sum(file.n_bytes for file in self.files() if file.name not in used and self._remove(file.name))
            busy = _folders_of(used)
            for folder in self._folders():
                with contextlib.suppress(OSError):  # not empty
                    if folder.name not in busy:  # somebody is about to write there
                        folder.rmdir()
                        (self.path / f"{folder.name}.json").unlink(missing_ok=True)
            return removed, sum(file.n_bytes for file in self.files())

    def reserve(self, names: Sequence[str], record_bytes: int) -> Lease | None:
        """Mark the files `names` as in use, and make room for those that are not there.

        Raises UflowError if there is no room, and removes nothing then. None for a folder that cannot be written but
        holds them all.
        """
        with self._explained():
            try:
                with self._alone():
                    self._make_room(set(names), record_bytes)
                    return Lease(self.path / "in-use", names, record_bytes)
            except (OSError, UflowError):
                if all((self.path / name).exists() for name in names):
                    return None
                raise

    def write(self, name: str, data: bytes) -> None:
        """Write the file `name`; UflowError if the disk refuses."""
        with self._explained(), replacing(self.path / name) as temporary:
            temporary.write_bytes(data)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.path.glob("*") if path.is_dir())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process removes files or marks them as in use; OSError for a folder that is read-only."""
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / "lock"):
            yield

    def _leased(self) -> tuple[set[str], int]:
        """Files that running processes use, and bytes of those still to come; dead processes' traces are removed."""
        used: set[str] = set()
        to_come = 0
        for path in self.path.glob("in-use/*.json"):
            lock = FileLock(path.with_suffix(".lock"), thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:  # its process lives
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    lease = json.loads(path.read_text(encoding="utf-8"))
                    refuse_newer(lease.get("version"), path)
                    names = set(lease["names"])
                    used |= names
                    to_come += lease["record_bytes"] * sum(not (self.path / name).exists() for name in names)
            else:
                _end_lease(path, lock, os.getpid())
        busy = _folders_of(used)
        for folder in self._folders():
            if folder.name not in busy:
                remove_litter(folder)  # of killed writers
        if not busy:
            remove_litter(self.path)
        return used, to_come

    def _make_room(self, names: set[str], record_bytes: int) -> None:
        """Remove files until those of `names` that are missing fit beside what other processes use or will write."""
        kept = self.files()
        n_bytes = record_bytes * len(names - {file.name for file in kept})
        if not n_bytes:
            return
        used, to_come = self._leased()
        held, free = sum(file.n_bytes for file in kept), shutil.disk_usage(self.path).free
        excess = to_come + n_bytes - min(self.limit - held, free)
        unused = [file for file in kept if file.name not in used and file.name not in names]
        removable = sum(file.n_bytes for file in unused)
        if removable < excess:
            in_use = held - removable + to_come
            raise UflowError(
                f"{n_bytes / GIB:.3g} GiB of features do not fit the cache {self.path}: it may hold "
                f"{self.limit / GIB:.3g} GiB, {in_use / GIB:.3g} GiB are in use, and its disk has "
                f"{free / GIB:.3g} GiB free; raise --cache-size, choose another --cache-dir, or take --no-cache"
            )
        for file in unused:
            if excess <= 0:
                break
            if self._remove(file.name):
                excess -= file.n_bytes

    def _remove(self, name: str) -> bool:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError:  # somebody else's
            return False
        return True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the disk refuses into a UflowError that says what to do."""
        try:
            yield
        except (OSError, UflowError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise UflowError(
                f"cannot keep features in {self.path}: {cause.strerror or cause}; "
                "choose another --cache-dir, free its disk, or take --no-cache"
            ) from error


def _folders_of(names: Iterable[str]) -> set[str]:
    return {name.partition("/")[0] for name in names}


def record_layout(model: Model) -> RecordLayout:
    """The layout of the features that `model` computes."""
    spec = model.extractor.spec
    grids = spec.grids(model.config.input_size)
    return RecordLayout(tuple((c, h, w) for c, (h, w) in zip(spec.channels, grids, strict=True)))


class FeatureCache:
    """The features of one model's extractor in `folder`, by the key of a `Source`."""

    def __init__(self, folder: CacheFolder, model: Model) -> None:
        self.folder, self.layout = folder, record_layout(model)
        self._about = {
            "extractor": model.config.extractor, "input_size": plain_size(model.config.input_size),
            "settings": feature_settings(model),
        }  # fmt: skip
        settings = json.dumps(self._about["settings"], sort_keys=True)
        self._name = hashlib.sha256(settings.encode()).hexdigest()[:32]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and (self.folder.path / self._file(key)).exists()

    def reserve(self, keys: Iterable[bytes]) -> Lease | None:
        """Mark the features of `keys` as in use and make room for what is missing; UflowError if there is none."""
        lease = self.folder.reserve([self._file(key) for key in keys], self.layout.n_bytes + 4)
        if lease and not (self.folder.path / f"{self._name}.json").exists():
            self.folder.write(f"{self._name}.json", json.dumps(self._about, indent=1).encode())
        return lease

    def find(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of `keys` whose files are whole; they count as used now."""

        def whole(part: Sequence[bytes]) -> list[bytes]:
            record = np.empty(self.layout.width, np.int16)
            return [key for key in part if self.read(key, record, check=True)]

        parts = (keys[start : start + 64] for start in range(0, len(keys), 64))
        return set(itertools.chain.from_iterable(done_ahead(whole, parts)))  # reading and CRC-32 leave Python free

    def read(self, key: bytes, record: NDArray[np.int16], *, check: bool = False) -> bool:
        """Fill `record` (n,) from the file of `key`; False if it is missing or, with `check`, not what was written.

        The checksum takes three times as long as reading, so it is checked once per run and not in every epoch.
        """
        path = self.folder.path / self._file(key)
        try:
            with path.open("rb", buffering=0) as file:
                whole = file.readinto(record.data) == record.nbytes and len(checksum := file.read(5)) == 4
        except OSError:
            return False
        if check and whole:
            whole = checksum == _checksum(key, record)
            with contextlib.suppress(OSError):  # somebody else's cache
                os.utime(path)
        return whole

    def write(self, key: bytes, record: NDArray[np.int16]) -> None:
        """Keep `record` (n,) under `key`; UflowError if the disk refuses."""
        self.folder.write(self._file(key), record.tobytes() + _checksum(key, record))

    def _file(self, key: bytes) -> str:
        return f"{self._name}/{key.hex()}{SUFFIX}"


def _checksum(key: bytes, record: NDArray[np.int16]) -> bytes:
    return zlib.crc32(record.data, zlib.crc32(key)).to_bytes(4, "little")


def feature_settings(model: Model) -> dict[str, Any]:
    """Everything but the image that features depend on; those of another engine or of a GPU are not the same bits."""
    return {
        "format": FORMAT,
        "extractor": json.loads(json.dumps(asdict(model.extractor.spec), default=str)),
        "weights": model.extractor.digest,
        "precision": model.extractor.precision,
        "input_size": plain_size(model.config.input_size),
        "preprocessing": PREPROCESSING_VERSION,
        "device": model.device.type,
        "versions": {
            "torch": torch.__version__,
            "timm": importlib.metadata.version("timm"),
            "opencv": OPENCV_VERSION,
            **decoder_versions(),
            **model.extractor.engine,
        },
    }


class FeatureStore:
    """Features of N images by number."""

    def __init__(self, layout: RecordLayout) -> None:
        self.layout = layout

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def n_bytes(self) -> int:
        """Memory that all records take."""
        return len(self) * self.layout.n_bytes

    def start_epoch(self, epoch: int) -> None:
        """Tell that `epoch` begins: features that are not kept show other views in each."""

    def records(self, indices: Sequence[int]) -> Records:
        """The records at `indices`, (B, n)."""
        raise NotImplementedError

    def read(self, indices: Sequence[int], *, device: torch.device) -> list[Tensor]:
        """Features of the images at `indices` as float32 on `device`, per scale (B, C_s, H_s, W_s)."""
        return unpack(_sent(torch.from_numpy(self.records(indices)), device), self.layout)


class ComputedFeatures(FeatureStore):
    """Features computed from the images whenever they are asked for; `sources_of(epoch)` are the images of an epoch."""

    def __init__(self, model: Model, sources_of: Callable[[int], Sequence[Source]]) -> None:
        super().__init__(record_layout(model))
        self._model, self._sources_of = model, sources_of
        self._sources = sources_of(0)

    def __len__(self) -> int:
        return len(self._sources)

    def start_epoch(self, epoch: int) -> None:
        """Turn to the views of `epoch`."""
        self._sources = self._sources_of(epoch)

    def records(self, indices: Sequence[int]) -> Records:
        """The records at `indices`, (B, n)."""
        return np.concatenate(list(_compute(self._model, [self._sources[i] for i in indices], self.layout)))


class KeptFeatures(ComputedFeatures):
    """Features read from `cache`; one whose file has vanished is computed and kept again."""

    def __init__(self, model: Model, sources_of: Callable[[int], Sequence[Source]], cache: FeatureCache) -> None:
        super().__init__(model, sources_of)
        self._cache = cache
        self._lease = cache.reserve(dict.fromkeys(source.key for source in self._sources))

    def start_epoch(self, epoch: int) -> None:
        """Nothing: what is kept stays the same."""

    def records(self, indices: Sequence[int]) -> Records:
        """The records at `indices`, (B, n)."""
        found = np.empty((len(indices), self.layout.width), dtype=np.int16)
        keys = [self._sources[index].key for index in indices]
        lost = [row for row, key in enumerate(keys) if not self._cache.read(key, found[row])]
        if lost:
            found[lost] = super().records([indices[row] for row in lost])
            for row in lost:
                with contextlib.suppress(UflowError):  # training goes on without it
                    self._cache.write(keys[row], found[row])
        return found


class ResidentFeatures(FeatureStore):
    """All features of `store`, as records, in the memory of `device`."""

    def __init__(self, store: FeatureStore, device: torch.device) -> None:
        super().__init__(store.layout)
        self._records = torch.empty((len(store), store.layout.width), dtype=torch.int16, device=device)
        for start in range(0, len(store), EXTRACTION_BATCH):
            part = range(start, min(start + EXTRACTION_BATCH, len(store)))
            self._records[start : part.stop] = torch.from_numpy(store.records(part)).to(device)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Sequence[int], *, device: torch.device) -> list[Tensor]:
        """Features of the images at `indices` as float32 on `device`, per scale (B, C_s, H_s, W_s)."""
        chosen = _sent(torch.tensor(indices, dtype=torch.int64), self._records.device)
        return unpack(self._records[chosen].to(device), self.layout)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, without waiting for a GPU to take it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _compute(model: Model, sources: Sequence[Source], layout: RecordLayout) -> Iterator[Records]:
    """Records of `sources` in batches of EXTRACTION_BATCH (B, n), images read ahead.

    In PyTorch the last batch is filled up with its last image: convolutions may round differently for another batch
    size, and an image's features shall not depend on how many others were missing beside it.
    """
    size = model.config.input_size
    files = [list(group) for _, group in itertools.groupby(sources, key=lambda source: source.path)]
    most = max(map(len, files), default=1)  # an image is decoded once for all its tiles that follow each other
    ahead = max(1, 2 * EXTRACTION_BATCH // most)
    pixels = itertools.chain.from_iterable(done_ahead(lambda file: pixels_of(file, size), files, ahead=ahead))
    while images := list(itertools.islice(pixels, EXTRACTION_BATCH)):
        n_more = EXTRACTION_BATCH - len(images) if model.extractor.is_batched else 0
        full = [*images, *[images[-1]] * n_more]
        yield pack([maps[: len(images)] for maps in model.features(full)], layout)


def features_of(
    model: Model, paths: Sequence[Path], *, cache: CacheFolder | None, on_progress: Callable[[int, int], None]
) -> FeatureStore:
    """Features of the images at `paths`, from `cache` where it has them; see `load_features`."""
    kept = FeatureCache(cache, model) if cache else None
    sources = survey_images(paths, known=kept, on_progress=lambda _done, _total: None)
    return load_features(model, lambda _epoch: sources, cache=kept, on_progress=on_progress)


def load_features(
    model: Model,
    sources_of: Callable[[int], Sequence[Source]],
    *,
    cache: FeatureCache | None,
    on_progress: Callable[[int, int], None],
) -> FeatureStore:
    """Features of the images `sources_of(0)`, in this order.

    With a `cache` they are read from it after those that it lacks were computed and added; `on_progress(done, total)`
    is called first with what was at hand, then after each batch. Without, they are computed whenever they are read, and
    `sources_of(epoch)` may show other views in each epoch. Raises ImageError, and UflowError for a full disk.
    """
    if cache is None:
        return ComputedFeatures(model, sources_of)
    store = KeptFeatures(model, sources_of, cache)
    sources = sources_of(0)
    keys = [source.key for source in sources]
    found = cache.find(list(dict.fromkeys(keys)))
    missing = {key: source for key, source in zip(keys, sources, strict=True) if key not in found}
    done = sum(key in found for key in keys)
    on_progress(done, len(keys))
    new = iter(missing)
    for records in _compute(model, list(missing.values()), cache.layout):
        for record, key in zip(records, new, strict=False):
            cache.write(key, record)
        done += len(records)
        on_progress(done, len(keys))
    if done < len(keys):
        on_progress(len(keys), len(keys))  # an image that comes twice was computed once
    return store
