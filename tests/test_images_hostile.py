"""Damaged files and files that lie: an image as Pillow sees it or one line, in bounded memory, and never a crash."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hostile import run_cases, told
from hostile_images import SUFFIXES, Reading, bombs, damaged_files

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="watches itself by Linux's means"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning"),
]


def test_what_cannot_be_an_image_is_one_line_and_the_rest_is_what_pillow_sees(tmp_path: Path) -> None:
    """Every 17th of the files that benchmarks/hostile_images.py makes, some of each format."""
    made = [file for number, file in enumerate(damaged_files(seed=1)) if number % 17 == 0]
    assert {kind for kind, _, _ in made} == set(SUFFIXES)
    outcome = run_cases(Reading(made, tmp_path), range(len(made)), folder=tmp_path)
    assert not outcome.faults, told(outcome)
    assert outcome.words["refused"] > 100
    assert sum(n for word, n in outcome.words.items() if word.startswith("as Pillow")) > 20


def test_a_small_file_that_claims_to_be_large_takes_no_memory(tmp_path: Path) -> None:
    claims = ("2147483647", "60000x60000")  # which a WebP cannot make: it has 14 bits for each
    made = [made for made in bombs() if made[0] != "WEBP" and any(claim in made[1] for claim in claims)]
    outcome = run_cases(Reading(made, tmp_path), range(len(made)), folder=tmp_path)
    assert not outcome.faults, told(outcome)
    assert outcome.words["refused"] > len(made) // 2
    assert outcome.peak_bytes < 2**28
