"""A file of records that many runs read at once and one run fills.

Header (4096 bytes: a magic line, then JSON), a table of slots, and as many records of equal size. A slot holds the key
of its record and the record's CRC-32, and is written after the record: a kill at any moment leaves either both or an
empty slot. Nothing is trusted until its CRC-32 was computed again, so that torn or damaged records are noticed.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uflow_cli.cache.locking import lock_alone, lock_shared
from uflow_cli.cache.record import Records

SUFFIX = ".features"
KEY_BYTES = 32
_MAGIC = b"uflow features 1\n"
_PAGE = 4096
_SLOT = np.dtype([("key", f"V{KEY_BYTES}"), ("crc", "<u4"), ("used", "<u4")])
_BINARY = getattr(os, "O_BINARY", 0)


class Shard:
    """An open shard, marked as in use until it is closed or forgotten."""

    def __init__(self, path: Path, descriptor: int, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, about
        self._descriptor = descriptor
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        self.capacity, self.n_bytes = int(about["capacity"]), int(about["record_bytes"])  # slots; size of a record
        self._data = _data_start(self.capacity)
        self._read_table()
        self.records = self._map()

    @classmethod
    def open(cls, path: Path) -> Shard | None:
        """The shard at `path`; None if it is gone or about to be, damaged, or holds nothing."""
        try:
            try:
                descriptor = os.open(path, os.O_RDWR | _BINARY)
            except PermissionError:
                descriptor = os.open(path, os.O_RDONLY | _BINARY)  # somebody else's cache: it can be read
        except OSError:
            return None
        about = _read_about(descriptor) if lock_shared(descriptor) else None
        if about is None:
            os.close(descriptor)
            return None
        shard = cls(path, descriptor, about)
        if shard.n_used < len(shard.records):
            shard._give_back_unused()
            if not lock_shared(descriptor):
                shard.close()
                return None
        return shard

    @classmethod
    def create(cls, folder: Path, *, capacity: int, record_bytes: int, about: Mapping[str, Any]) -> Shard:
        """An empty shard in `folder` with its disk space claimed; OSError if there is too little of it."""
        about = {**about, "capacity": capacity, "record_bytes": record_bytes}
        header = _MAGIC + json.dumps(about).encode()
        if len(header) > _PAGE:
            raise ValueError(f"a shard's header of {len(header)} bytes does not fit {_PAGE}")
        path = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{SUFFIX}"  # names sort by age
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            lock_shared(descriptor)
            _claim(descriptor, _data_start(capacity) + capacity * record_bytes)
            _write(descriptor, header, 0)
            return cls(path, descriptor, about)
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Mark as no longer in use."""
        self._finalizer()

    def entries(self) -> Iterator[tuple[bytes, int]]:
        """Key and slot of every record, as far as the records are there."""
        for slot in np.flatnonzero(self._slots["used"][: len(self.records)] == 1).tolist():
            yield self._slots["key"][slot].tobytes(), slot

    def holds(self, key: bytes, slot: int) -> bool:
        """Whether `slot` is that of `key`'s record; its shard may have been made anew since."""
        return slot < len(self.records) and self._slots["key"][slot].tobytes() == key

    def is_whole(self, slot: int) -> bool:
        """Whether the record in `slot` is what was written."""
        return zlib.crc32(self.records[slot].data) == int(self._slots["crc"][slot])

    def add(self, keys: Sequence[bytes], records: Records) -> list[int]:
        """Write `records`, one per key, and give their slots; OSError if the disk refuses."""
        slots = range(self.n_used, self.n_used + len(keys))
        for slot, key, record in zip(slots, keys, np.ascontiguousarray(records), strict=True):
            _write(self._descriptor, record.data, self._data + slot * self.n_bytes)
            entry = np.array((np.void(key), zlib.crc32(record.data), 1), _SLOT)
            _write(self._descriptor, entry.tobytes(), _PAGE + slot * _SLOT.itemsize)
            self._slots[slot] = entry
        self.n_used += len(keys)
        return list(slots)

    def _map(self) -> NDArray[np.int16]:
        """The records that the file is long enough for, (n, width), mapped into memory and not yet read."""
        size = os.fstat(self._descriptor).st_size
        n_records = min(self.capacity, max(0, size - self._data) // self.n_bytes)
        shape = (n_records, self.n_bytes // 2)
        if n_records == 0:
            return np.zeros(shape, np.int16)
        with open(self._descriptor, "rb", closefd=False) as file:
            mapped = np.memmap(file, dtype=np.int16, mode="r", offset=self._data, shape=shape)
        return mapped.view(np.ndarray)  # the same memory, quicker to index

    def _read_table(self) -> None:
        table = _read(self._descriptor, self.capacity * _SLOT.itemsize, _PAGE)
        n_slots = len(table) // _SLOT.itemsize
        self._slots = np.zeros(self.capacity, _SLOT)
        self._slots[:n_slots] = np.frombuffer(table, _SLOT, count=n_slots)
        self.n_used = int(np.flatnonzero(self._slots["used"] == 1).max(initial=-1)) + 1  # slots up to the last in use

    def _give_back_unused(self) -> None:
        """Return to the disk what a killed run had claimed and not filled."""
        if not lock_alone(self._descriptor):  # its writer lives
            return
        self._read_table()  # nobody adds to it any more
        try:
            os.ftruncate(self._descriptor, self._data + self.n_used * self.n_bytes)
        except OSError:
            return  # somebody else's cache
        self.records = self._map()


def _read_about(descriptor: int) -> dict[str, Any] | None:
    """What a shard's header says; None if it is not one."""
    header = _read(descriptor, _PAGE, 0)
    if not header.startswith(_MAGIC):
        return None
    try:
        about = json.loads(header.removeprefix(_MAGIC).rstrip(b"\0"))
        return dict(about) if int(about["capacity"]) > 0 and int(about["record_bytes"]) > 0 else None
    except (ValueError, KeyError, TypeError):
        return None


def _data_start(capacity: int) -> int:
    return -(-(_PAGE + capacity * _SLOT.itemsize) // _PAGE) * _PAGE


def _claim(descriptor: int, n_bytes: int) -> None:
    """Claim `n_bytes` of disk now, so that a full disk is an error before the work and not after it."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, n_bytes)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot
                raise
    os.ftruncate(descriptor, n_bytes)


def _read(descriptor: int, n_bytes: int, offset: int) -> bytes:
    """Up to `n_bytes`, fewer at the end of the file."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    pieces = []
    while n_bytes and (piece := os.read(descriptor, n_bytes)):
        pieces.append(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)


def _write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data`; through the file and not through the map, where a full disk would kill the process."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
