"""Commands that are killed, or whose disk is full or read-only, where they change a file: see `benchmarks/faults.py`."""

from __future__ import annotations

import os
import random

import pytest
from fault_injection import Stage
from fault_scenarios import archive, at_an_address, scenarios, write_base
from faults import broken_at_each_change

N_BREAKS = int(os.environ.get("UFLOW_TEST_FAULTS", "1"))  # of each kind and command
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("faults").resolve()


@pytest.fixture(scope="module")
def stage(root):
    stage = Stage(root / "output.txt")
    write_base(stage, root / "base")
    return stage


NAMES = ["detect --report", "download", "check --recalibrate, exported", "report"]


@pytest.mark.parametrize("name", NAMES)
def test_no_break_loses_anything_and_the_same_command_goes_on(stage, root, name):
    with at_an_address(archive(root / "base" / "data")) as address:
        [scenario] = [one for one in scenarios(root / "base", address, None) if one.name == name]
        kinds = ("kill", "full", "readonly")
        found = broken_at_each_change(stage, scenario, root, kinds=kinds, most=N_BREAKS, rng=random.Random(name))
    assert any(struck for struck, _ in found.values())
