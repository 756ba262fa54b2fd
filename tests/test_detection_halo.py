"""Halo suppression: it clears what surrounds a peak, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import log_pfa_map

from uflow_cli.detection.evidence import clear_halos
from uflow_cli.detection.nfa import Background, a_contrario

LAW = Background(20.0, 1.5)  # mean 30


def test_ordinary_noise_is_left_alone():
    u = np.clip(np.random.default_rng(0).normal(30, 4, (2, 14, 14)), 10, 55).astype(np.float32)
    [cleared] = clear_halos([u], background=[LAW], reach=[4])
    np.testing.assert_array_equal(cleared, u)


def test_halo_of_a_peak_goes_and_the_peak_stays():
    u = np.full((1, 14, 14), 25.0, np.float32)
    u[0, 4:9, 4:9] = 30 * 8.0  # below half of the peak in the logarithm
    u[0, 6, 6] = 30 * 100.0
    u[0, 6, 7] = 30 * 12.0  # above
    [cleared] = clear_halos([u], background=[LAW], reach=[4])
    assert cleared[0, 6, 6] == u[0, 6, 6]
    assert cleared[0, 6, 7] == u[0, 6, 7]
    assert cleared[0, 5, 5] == pytest.approx(30.0)
    assert cleared[0, 0, 0] == 25.0


def test_a_halo_ends_where_the_flow_does_not_reach():
    u = [np.full((1, n, n), 60.0, np.float32) for n in (64, 32)]
    for scale in u:
        scale[0, 0, 0] = 30 * 100.0
    fine, coarse = clear_halos(u, background=[LAW, LAW], reach=[12, 4])
    assert fine[0, 0, 12] == pytest.approx(30.0)
    assert fine[0, 0, 13] == 60.0
    assert coarse[0, 0, 4] == pytest.approx(30.0)
    assert coarse[0, 0, 5] == 60.0


def test_evidence_never_grows():
    rng = np.random.default_rng(1)
    u = (30 * np.exp(rng.normal(0, 1.5, (3, 16, 16)))).astype(np.float32)
    u[0, 0, 0] = 0.0
    [cleared] = clear_halos([u], background=[LAW], reach=[4])
    assert (cleared <= u).all()
    before, after = (log_pfa_map(a_contrario([x], background=[LAW])) for x in (u, cleared))
    assert after.min() >= before.min() - 1e-6


def test_images_do_not_shadow_each_other():
    u = np.full((2, 8, 8), 60.0, np.float32)
    u[0, 3, 3] = 3000.0
    [cleared] = clear_halos([u], background=[LAW], reach=[4])
    assert (cleared[1] == 60.0).all()
