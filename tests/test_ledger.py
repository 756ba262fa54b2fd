"""A ledger remembers what a dictionary does, in far less memory."""

from __future__ import annotations

import random
import tracemalloc

from uflow_cli.ledger import MOST_RECENT, Ledger


def test_it_tells_what_a_dictionary_tells():
    rng, ledger, known = random.Random(0), Ledger(), {}
    for _ in range(5 * MOST_RECENT):
        text, number = f"a/{rng.randrange(3 * MOST_RECENT)}\udcff.png", rng.randrange(-(2**63), 2**63)
        ledger[text] = known[text] = number
    assert all(ledger.get(f"a/{i}\udcff.png") == known.get(f"a/{i}\udcff.png") for i in range(3 * MOST_RECENT))
    assert ledger.get("") is None


def test_many_entries_take_few_bytes():
    ledger, n = Ledger(), 40 * MOST_RECENT
    tracemalloc.start()
    for number in range(n):
        ledger[f"/a/folder/with/images/{number:06d}.png"] = number
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 20 * n
