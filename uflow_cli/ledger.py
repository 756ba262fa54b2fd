"""Whole numbers by text, for very many texts that a process must remember for as long as it runs."""

from __future__ import annotations

import hashlib
import os

import numpy as np

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
        recent = np.fromiter(self._recent, np.uint64, len(self._recent))
        stays = ~np.isin(self._digests, recent)
        digests = np.concatenate([self._digests[stays], recent])
        numbers = np.concatenate([self._numbers[stays], np.fromiter(self._recent.values(), np.int64, len(recent))])
        order = np.argsort(digests)
        self._digests, self._numbers = digests[order], numbers[order]
        self._recent.clear()


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "little")
