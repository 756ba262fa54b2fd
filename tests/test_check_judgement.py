"""Judgements of promises: rarely wrong where the promise is kept, and right where it is clearly broken."""

from __future__ import annotations

import numpy as np
import pytest

from uflow_cli.check.judgement import Verdict, judge_count, judge_rate, worst


def judged_rates(*, n_fresh, n_calibration, rank, shift, n_repeats=400):
    """Verdicts where fresh values lie `shift` standard deviations below those of the calibration."""
    rng = np.random.default_rng(1)
    verdicts = []
    for _ in range(n_repeats):
        threshold = np.sort(rng.normal(size=n_calibration))[rank - 1]
        flagged = int((rng.normal(size=n_fresh) - shift < threshold).sum())
        verdicts.append(
            judge_rate(
                flagged, n_fresh, rank=rank, n_calibration=n_calibration, promised=rank / (n_calibration + 1)
            ).verdict
        )
    return {verdict: verdicts.count(verdict) / n_repeats for verdict in Verdict}


@pytest.mark.parametrize(("n_calibration", "rank"), [(8, 1), (19, 1), (76, 7)])
def test_a_kept_rate_is_seldom_called_broken_however_few_images_calibrated(n_calibration, rank):
    shares = judged_rates(n_fresh=100, n_calibration=n_calibration, rank=rank, shift=0.0)
    assert shares[Verdict.BROKEN] <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_a_rate_far_above_the_promise_is_called_broken_and_never_kept():
    shares = judged_rates(n_fresh=100, n_calibration=76, rank=7, shift=1.0)
    assert shares[Verdict.BROKEN] > 0.95
    assert shares[Verdict.HOLDS] == 0.0


def test_a_rate_twice_the_promise_is_seldom_called_kept():
    rng = np.random.default_rng(2)
    verdicts = [
        judge_rate(int(rng.binomial(200, 0.1)), 200, rank=50, n_calibration=999, promised=0.05).verdict
        for _ in range(400)
    ]
    assert verdicts.count(Verdict.HOLDS) / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_few_images_cannot_tell_and_say_how_many_would():
    few = judge_rate(0, 10, rank=4, n_calibration=79, promised=0.05)
    assert few.verdict is Verdict.CANNOT_TELL
    n = 10 + few.n_more
    assert judge_rate(0, n, rank=4, n_calibration=79, promised=0.05).verdict is Verdict.HOLDS
    assert judge_rate(0, n // 2, rank=4, n_calibration=79, promised=0.05).verdict is Verdict.CANNOT_TELL


@pytest.mark.parametrize("mean", [1.0, 0.1])
def test_counts_that_keep_the_promise_are_seldom_called_broken(mean):
    rng = np.random.default_rng(3)
    judged = [judge_count(rng.poisson(mean, 100), promised=mean) for _ in range(400)]
    assert sum(j.verdict is Verdict.BROKEN for j in judged) / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    covered = sum(j.low <= mean <= j.high for j in judged) / 400
    assert covered >= 0.93


def test_clustered_counts_are_judged_by_their_clusters():
    rng = np.random.default_rng(4)
    clustered = [10 * rng.poisson(0.1, 100) for _ in range(400)]  # one per image, in tens
    broken = sum(judge_count(counts, promised=1.0).verdict is Verdict.BROKEN for counts in clustered) / 400
    assert broken < 0.1
    assert judge_count(10 * rng.poisson(0.6, 100), promised=1.0).verdict is Verdict.BROKEN


def test_no_detection_at_all_keeps_the_promise_once_there_are_enough_images():
    assert judge_count(np.zeros(1, dtype=np.int64), promised=1.0).verdict is Verdict.CANNOT_TELL
    assert judge_count(np.zeros(2, dtype=np.int64), promised=1.0).verdict is Verdict.HOLDS
    small = judge_count(np.zeros(10, dtype=np.int64), promised=0.01)
    assert small.verdict is Verdict.CANNOT_TELL
    assert judge_count(np.zeros(10 + small.n_more, dtype=np.int64), promised=0.01).verdict is Verdict.HOLDS


def test_the_worst_verdict_stands_for_all():
    holds = judge_count(np.zeros(100, dtype=np.int64), promised=1.0)
    broken = judge_count(np.full(100, 5), promised=1.0)
    unknown = judge_count(np.zeros(1, dtype=np.int64), promised=0.1)
    assert worst([holds, unknown, broken]) is Verdict.BROKEN
    assert worst([holds, unknown]) is Verdict.CANNOT_TELL
    assert worst([holds]) is Verdict.HOLDS


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="flagged"):
        judge_rate(3, 2, rank=1, n_calibration=8, promised=0.1)
    with pytest.raises(ValueError, match="no image"):
        judge_count(np.zeros(0, dtype=np.int64), promised=1.0)
