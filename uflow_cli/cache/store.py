"""Features by image number: kept in memory-mapped files, on a device, or computed whenever they are asked for.

All three give the same numbers: what is computed goes through the same float16 rounding as what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uflow_cli.cache.ahead import done_ahead
from uflow_cli.cache.record import RecordLayout, Records, pack, unpack
from uflow_cli.cache.shard import Shard
from uflow_cli.cache.shelf import Place
from uflow_cli.cache.sources import Source
from uflow_cli.model import Model

EXTRACTION_BATCH = 8


class FeatureStore(Protocol):
    """Features of N images."""

    def __len__(self) -> int: ...

    @property
    def n_bytes(self) -> int:
        """Memory that all features take as they are kept."""
        ...

    def start_epoch(self, epoch: int) -> None:
        """Tell that `epoch` begins: features that are computed show other views in each."""
        ...

    def read(self, indices: Sequence[int], *, device: torch.device) -> list[Tensor]:
        """Features of the images at `indices` as float32 on `device`, per scale (B, C_s, H_s, W_s)."""
        ...


class KeptFeatures:
    """Features in memory-mapped shards: they take no memory that the system cannot have back."""

    def __init__(self, places: Sequence[Place], layout: RecordLayout) -> None:
        self.layout = layout
        numbers: dict[int, int] = {}
        self._shards: list[Shard] = []
        for place in places:
            if id(place.shard) not in numbers:
                numbers[id(place.shard)] = len(self._shards)
                self._shards.append(place.shard)
        self._shard = np.array([numbers[id(place.shard)] for place in places], dtype=np.int32)
        self._slot = np.array([place.slot for place in places], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._slot)

    @property
    def n_bytes(self) -> int:
        """Memory that all records take."""
        return len(self) * self.layout.n_bytes

    def start_epoch(self, epoch: int) -> None:
        """Nothing: what is kept stays the same."""

    def records(self, indices: Sequence[int]) -> Records:
        """The records at `indices`, (B, n)."""
        found = np.empty((len(indices), self.layout.width), dtype=np.int16)
        for row, index in enumerate(indices):
            found[row] = self._shards[self._shard[index]].records[self._slot[index]]
        return found

    def read(self, indices: Sequence[int], *, device: torch.device) -> list[Tensor]:
        """Features of the images at `indices` as float32 on `device`, per scale (B, C_s, H_s, W_s)."""
        return unpack(_sent(torch.from_numpy(self.records(indices)), device), self.layout)


class ResidentFeatures:
    """All features of a store, as they are kept, in the memory of `device`."""

    def __init__(self, store: KeptFeatures, device: torch.device) -> None:
        self.layout = store.layout
        self._records = torch.empty((len(store), store.layout.width), dtype=torch.int16, device=device)
        for start in range(0, len(store), EXTRACTION_BATCH):
            part = range(start, min(start + EXTRACTION_BATCH, len(store)))
            self._records[start : part.stop] = torch.from_numpy(store.records(part)).to(device)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def n_bytes(self) -> int:
        """Memory that all records take."""
        return len(self) * self.layout.n_bytes

    def start_epoch(self, epoch: int) -> None:
        """Nothing: what is kept stays the same."""

    def read(self, indices: Sequence[int], *, device: torch.device) -> list[Tensor]:
        """Features of the images at `indices` as float32 on `device`, per scale (B, C_s, H_s, W_s)."""
        chosen = _sent(torch.tensor(indices, dtype=torch.int64), self._records.device)
        return unpack(self._records[chosen].to(device), self.layout)


class ComputedFeatures:
    """Features computed from the images whenever they are asked for; `sources_of(epoch)` are the images of an epoch."""

    def __init__(self, model: Model, layout: RecordLayout, sources_of: Callable[[int], Sequence[Source]]) -> None:
        self.layout = layout
        self._model, self._sources_of = model, sources_of
        self._sources = sources_of(0)

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def n_bytes(self) -> int:
        """Memory that all features would take."""
        return len(self) * self.layout.n_bytes

    def start_epoch(self, epoch: int) -> None:
        """Turn to the views of `epoch`."""
        self._sources = self._sources_of(epoch)

    def read(self, indices: Sequence[int], *, device: torch.device) -> list[Tensor]:
        """Features of the images at `indices` as float32 on `device`, per scale (B, C_s, H_s, W_s)."""
        side = self._model.config.input_size
        images = list(done_ahead(lambda i: self._sources[i].pixels(side), indices))
        records = [
            extract_records(self._model, images[start : start + EXTRACTION_BATCH], self.layout)
            for start in range(0, len(images), EXTRACTION_BATCH)
        ]
        return unpack(_sent(torch.from_numpy(np.concatenate(records)), device), self.layout)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; a GPU takes it when it comes to it, and nobody waits."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def extract_records(model: Model, images: Sequence[NDArray[np.uint8]], layout: RecordLayout) -> Records:
    """Records (B, n) of up to EXTRACTION_BATCH images.

    The batch is filled up with its last image: convolutions may round differently for another batch size, and an
    image's features shall not depend on how many others were missing beside it.
    """
    full = [*images, *[images[-1]] * (EXTRACTION_BATCH - len(images))]
    return pack([maps[: len(images)] for maps in model.features(full)], layout)
