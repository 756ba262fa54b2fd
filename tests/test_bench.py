"""Timings: contenders take turns, ratios are to the first, and every part runs."""

from __future__ import annotations

import json
import time

import torch

from uflow_cli.bench import Comparison, bench_to_dict, n_comparisons, run_bench, time_comparison


def test_contenders_take_turns_and_the_first_round_is_not_counted():
    calls = []
    contenders = {"a": lambda turn: calls.append(("a", turn)), "b": lambda turn: calls.append(("b", turn))}
    timings = time_comparison(Comparison("c", "map", 1, contenders), rounds=3)
    assert calls == [(name, turn) for turn in range(4) for name in ("a", "b")]
    assert [t.contender for t in timings] == ["a", "b"]


def test_ratio_is_to_the_first_and_time_is_per_item():
    contenders = {"short": lambda _: time.sleep(0.01), "long": lambda _: time.sleep(0.04)}
    short, long = time_comparison(Comparison("c", "image", 2, contenders), rounds=3)
    assert short.ratio == 1.0
    assert 2.0 < long.ratio < 6.0
    assert 4.0 < short.milliseconds < 15.0
    assert short.lower <= short.milliseconds <= short.upper


def test_every_part_is_timed_without_data():
    advanced = []
    bench = run_bench(["nfa", "pipeline"], quick=True, seed=0, device=torch.device("cpu"), on_progress=advanced.append)
    assert sum(advanced) == n_comparisons(["nfa", "pipeline"], quick=True)
    assert len({t.comparison for t in bench.timings}) == sum(advanced)
    assert all(t.milliseconds > 0 for t in bench.timings)
    assert bench.peak_memory_mib > 100
    values = json.loads(json.dumps(bench_to_dict(bench)))
    assert values["machine"]["torch"] == torch.__version__.split("+")[0]
    assert values["seed"] == 0
