"""Timings: contenders take turns, ratios are to the first, and every part runs."""

from __future__ import annotations

import json

import pytest
import torch

from uflow_cli.bench import Comparison, n_comparisons, run_bench, time_comparison
from uflow_cli.schema import to_json


def test_contenders_take_turns_and_the_first_round_is_not_counted():
    calls = []
    contenders = {"a": lambda turn: calls.append(("a", turn)), "b": lambda turn: calls.append(("b", turn))}
    timings = time_comparison(Comparison("c", "map", 1, contenders), rounds=3)
    assert calls == [(name, turn) for turn in range(4) for name in ("a", "b")]
    assert [t.contender for t in timings] == ["a", "b"]


def test_ratio_is_to_the_first_and_time_is_per_item(monkeypatch):
    """A clock that only the contenders move on: no time of this machine is in it."""
    now = [0.0]
    monkeypatch.setattr("uflow_cli.bench.time.perf_counter", lambda: now[0])

    def takes(*seconds):
        return lambda turn: now.__setitem__(0, now[0] + seconds[turn % len(seconds)])

    contenders = {"short": takes(0.01, 0.008, 0.012), "long": takes(0.04)}
    short, long = time_comparison(Comparison("c", "image", 2, contenders), rounds=3)
    assert (short.ratio, long.ratio) == (1.0, pytest.approx(4.0))
    assert (short.milliseconds, long.milliseconds) == (pytest.approx(5.0), pytest.approx(20.0))
    assert short.lower < short.milliseconds < short.upper
    assert long.lower == pytest.approx(long.upper)


def test_every_part_is_timed_without_data():
    advanced = []
    bench = run_bench(["nfa", "pipeline"], quick=True, seed=0, device=torch.device("cpu"), on_progress=advanced.append)
    assert sum(advanced) == n_comparisons(["nfa", "pipeline"], quick=True)
    assert len({t.comparison for t in bench.timings}) == sum(advanced)
    assert all(t.milliseconds > 0 for t in bench.timings)
    assert bench.peak_memory_mib > 100
    values = json.loads(to_json(bench))
    assert values["machine"]["torch"] == torch.__version__.split("+")[0]
    assert values["seed"] == 0
