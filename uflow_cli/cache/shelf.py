"""What the cache folder holds for one model's settings: find records by key, add new ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uflow_cli.cache.folder import CacheFolder
from uflow_cli.cache.record import RecordLayout, Records
from uflow_cli.cache.settings import feature_settings, record_layout, settings_digest
from uflow_cli.cache.shard import Shard
from uflow_cli.model import Model

FIND_BATCH = 64  # records that a thread checks in one go
SHARD_BYTES = 2**30  # at most; what is removed from the cache is removed by the shard


@dataclass(frozen=True)
class Place:
    """Where a record is."""

    shard: Shard
    slot: int


class Shelf:
    """The records of one model's settings in `folder`. Of records with the same key, the one stored first is taken."""

    def __init__(self, folder: CacheFolder, model: Model) -> None:
        self.folder = folder
        self.layout: RecordLayout = record_layout(model)
        settings = feature_settings(model)
        self._settings = settings_digest(settings)
        self._about: dict[str, Any] = {
            "extractor": model.config.extractor, "input_size": model.config.input_size, "settings": settings
        }  # fmt: skip
        self._index: dict[bytes, list[tuple[Path, int]]] = {}
        self._filling: Shard | None = None
        self._to_come = 0
        for file in folder.shards(self._settings):
            shard = Shard.open(file.path)
            if shard is not None:
                if shard.n_bytes == self.layout.n_bytes:
                    for key, slot in shard.entries():
                        self._index.setdefault(key, []).append((file.path, slot))
                shard.close()

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def find(self, keys: Sequence[bytes]) -> list[Place | None]:
        """The place of each key's record, checked to be whole. Their shards stay in use."""
        shards: dict[Path, Shard | None] = {}
        for path in sorted({path for key in keys for path, _ in self._index.get(key, ())}):
            shards[path] = shard = Shard.open(path)
            if shard is not None:
                with contextlib.suppress(OSError):  # somebody else's cache
                    os.utime(path)  # least recently used goes first

        def place(key: bytes) -> Place | None:
            for path, slot in self._index.get(key, ()):
                shard = shards[path]
                if shard is not None and shard.holds(key, slot) and shard.is_whole(slot):
                    return Place(shard, slot)
            return None  # none, or damaged: what takes its place will be found behind it

        parts = (keys[start : start + FIND_BATCH] for start in range(0, len(keys), FIND_BATCH))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # reading and CRC-32 leave Python free
            return [found for part in pool.map(lambda part: [place(key) for key in part], parts) for found in part]

    def expect(self, n_records: int) -> None:
        """Make room for `n_records` that `add` will bring; UflowError, before any work, if there is none."""
        self._to_come = n_records
        if n_records:
            self.folder.make_room(n_records * self.layout.n_bytes)

    def add(self, keys: Sequence[bytes], records: Records) -> list[Place]:
        """Keep `records` (B, n) under `keys`; UflowError if the disk refuses."""
        places: list[Place] = []
        while len(places) < len(keys):
            shard = self._shard_with_room()
            batch = slice(len(places), len(places) + shard.capacity - shard.n_used)
            with self.folder.explained():
                slots = shard.add(keys[batch], records[batch])
            places += [Place(shard, slot) for slot in slots]
        self._to_come -= len(keys)
        return places

    def _shard_with_room(self) -> Shard:
        if self._filling is None or self._filling.n_used == self._filling.capacity:
            capacity = max(1, min(self._to_come, SHARD_BYTES // self.layout.n_bytes))
            self._filling = self.folder.create_shard(
                self._settings, capacity=capacity, record_bytes=self.layout.n_bytes, about=self._about
            )
        return self._filling
