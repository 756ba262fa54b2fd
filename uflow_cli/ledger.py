"""Whole numbers by text, for very many texts that a process must remember for as long as it runs."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_RECENT = 1024  # entries in a dictionary, before they are sorted into the others


class Ledger:
    """Numbers by text in 16 bytes each, where a dictionary takes some 250: of a text a digest of 64 bits is kept.

    That two of a million texts have the same digest is less likely than 1 in 10⁷. Numbers are of 64 bits with a sign.
    """

    def __init__(self) -> None:
        self._digests, self._numbers = np.empty(0, np.uint64), np.empty(0, np.int64)  # (n,), sorted by digest
        self._recent: dict[int, int] = {}

    def __setitem__(self, text: str, number: int) -> None:
        self._recent[_digest(text)] = number
        if len(self._recent) >= MOST_RECENT:
            self._sort_in()

    def get(self, text: str) -> int | None:
        """The number of `text`, None where it has none."""
        digest = _digest(text)
        if digest in self._recent:
            return self._recent[digest]
        place = int(np.searchsorted(self._digests, np.uint64(digest)))
        found = place < len(self._digests) and int(self._digests[place]) == digest
        return int(self._numbers[place]) if found else None

    def _sort_in(self) -> None:
        """Sort the recent ones into the others, whose arrays grow where they are: copies would stay in the heap."""
        digests = np.fromiter(self._recent, np.uint64, len(self._recent))
        numbers = np.fromiter(self._recent.values(), np.int64, len(digests))
        order = np.argsort(digests)
        digests, numbers = digests[order], numbers[order]
        places = np.searchsorted(self._digests, digests)
        known = places < len(self._digests)
        known[known] = self._digests[places[known]] == digests[known]
        self._numbers[places[known]] = numbers[known]
        _insert(self._digests, places[~known], digests[~known])
        _insert(self._numbers, places[~known], numbers[~known])
        self._recent.clear()


def _insert(array: NDArray[Any], places: NDArray[np.intp], values: NDArray[Any]) -> None:
    """Insert `values` into `array` before what is at `places`, which rise, as `numpy.insert` does in a copy."""
    end = len(array)
    array.resize(end + len(values), refcheck=False)
    for shift in range(len(values), 0, -1):
        place = int(places[shift - 1])
        array[place + shift : end + shift] = array[place:end]
        array[place + shift - 1] = values[shift - 1]
        end = place


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "little")
