"""Count float32 scores exactly, pixel after pixel, in memory that follows the number of distinct scores.

Some millions of scores are kept as they come; then they are sorted, and equal ones joined into one with a count, in
8 bytes. There are 8.4 million float32 values from 0.5 to 1, however many pixels share them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SLICE = 1 << 20  # distinct scores merged at a time


@dataclass(frozen=True)
class _Run:
    """Keys in rising order; per key how many pixels have it (None: one each, keys may repeat) and their weight."""

    keys: NDArray[np.uint32]
    counts: NDArray[np.uint32] | None
    weights: Floats | None


class ScoreCounts:
    """Exact counts per distinct key: an unsorted buffer, and sorted runs, each over twice as long as the next."""

    def __init__(self, *, buffer: int, weighted: bool) -> None:
        self.total = 0
        self._keys = np.empty(buffer, dtype=np.uint32)
        self._weights = np.empty(buffer) if weighted else None
        self._buffered = 0
        self._sorted_to = 0  # of the buffer
        self._runs: list[_Run] = []

    def add(self, keys: NDArray[np.uint32], weights: Floats | None = None) -> None:
        """Count keys (N,), with weights (N,) if they are weighted. Raises OverflowError beyond 2^32 pixels."""
        self.total += len(keys)
        if self.total >> 32:
            raise OverflowError("more than 2^32 pixels: their counts do not fit")
        while len(keys):
            room = slice(self._buffered, self._buffered + len(keys))
            written = len(self._keys[room])
            self._keys[room] = keys[:written]
            if self._weights is not None and weights is not None:
                self._weights[room] = weights[:written]
                weights = weights[written:]
            keys = keys[written:]
            self._buffered += written
            if self._buffered == len(self._keys):
                self._flush()

    def at_least(self, keys: NDArray[np.uint32]) -> Floats:
        """Count the pixels whose key is at least each of `keys` (N,)."""
        return self._count(keys, side="left")

    def above(self, keys: NDArray[np.uint32]) -> Floats:
        """Count the pixels whose key is larger than each of `keys` (N,)."""
        return self._count(keys, side="right")

    def lowest(self) -> int:
        """Return the lowest key that was counted."""
        return min(int(run.keys[0]) for run in self._sorted())

    def merged(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], Floats]:
        """Return distinct keys, their counts and summed weights."""
        if not self.total:
            return np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0)
        run = _merge(self._sorted())
        assert run.counts is not None
        assert run.weights is not None
        return run.keys, run.counts, run.weights

    def _count(self, keys: NDArray[np.uint32], *, side: Any) -> Floats:
        counted = np.zeros(len(keys))
        for run in self._sorted():
            below = np.searchsorted(run.keys, keys, side=side)
            if run.counts is None:
                counted += len(run.keys) - below
            else:
                summed = np.concatenate([[0], np.cumsum(run.counts, dtype=np.int64)])
                counted += summed[-1] - summed[below]
        return counted

    def _sorted(self) -> list[_Run]:
        """Sort the buffer where it stands, and return it as one more run."""
        keys = self._keys[: self._buffered]
        weights = None if self._weights is None else self._weights[: self._buffered]
        if self._sorted_to < self._buffered:
            if weights is None:
                keys.sort()
            else:
                order = np.argsort(keys, kind="stable")
                keys[:], weights[:] = keys[order], weights[order]
            self._sorted_to = self._buffered
        return [*self._runs, _Run(keys, None, weights)] if len(keys) else self._runs

    def _flush(self) -> None:
        """Turn the full buffer into a run, together with the runs that are not much longer."""
        runs = self._sorted()
        joined, length = 1, self._buffered
        while joined < len(runs) and len(runs[-joined - 1].keys) <= 2 * length:
            length += len(runs[-joined - 1].keys)
            joined += 1
        self._runs = [*runs[:-joined], _merge(runs[-joined:])]
        self._buffered = self._sorted_to = 0


def _merge(runs: list[_Run]) -> _Run:
    """Merge runs into one of distinct keys, slice by slice, so that little more than the result is made."""
    cuts = np.unique(max((run.keys for run in runs), key=len)[_SLICE::_SLICE])
    bounds = [[0, *np.searchsorted(run.keys, cuts), len(run.keys)] for run in runs]
    pieces = [
        _joined([_part(run, slice(*bound[i : i + 2])) for run, bound in zip(runs, bounds, strict=True)])
        for i in range(len(cuts) + 1)
    ]
    return _Run(
        np.concatenate([piece.keys for piece in pieces]),
        np.concatenate([piece.counts for piece in pieces if piece.counts is not None]),
        None if runs[0].weights is None else np.concatenate([p.weights for p in pieces if p.weights is not None]),
    )


def _part(run: _Run, part: slice) -> _Run:
    counts = np.ones(len(run.keys[part]), dtype=np.uint32) if run.counts is None else run.counts[part]
    return _Run(run.keys[part], counts, None if run.weights is None else run.weights[part])


def _joined(runs: list[_Run]) -> _Run:
    """Merge a few short runs at once."""
    keys = np.concatenate([run.keys for run in runs])
    counts = np.concatenate([run.counts for run in runs if run.counts is not None])
    order = np.argsort(keys, kind="stable")  # of sorted runs: linear
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(keys)), np.bool_), keys[1:] != keys[:-1]]))
    weights = None
    if runs[0].weights is not None:
        weights = np.add.reduceat(
            np.concatenate([run.weights for run in runs if run.weights is not None])[order], first
        )
    return _Run(keys[first], np.add.reduceat(counts[order], first, dtype=np.uint32), weights)


def ordered_keys(score: NDArray[Any]) -> NDArray[np.uint32]:
    """Map float32 scores to uint32 of the same order: flip all bits of negative numbers, the sign of the others."""
    scores = score.astype(np.float32) + np.float32(0.0)  # -0.0 becomes 0.0: they are equal
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    bits = scores.view(np.uint32)
    return bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


def scores_of(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Undo `ordered_keys`."""
    bits = keys ^ np.where(keys >> 31, np.uint32(0x80000000), np.uint32(0xFFFFFFFF))
    return bits.astype(np.uint32).view(np.float32)
