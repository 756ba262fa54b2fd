"""Background model and false-alarm threshold from good images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from uflow_cli.calibration import (
    Calibration,
    calibration_from_dict,
    calibration_to_dict,
    fit_background,
    threshold_for_rate,
)
from uflow_cli.errors import UflowError
from uflow_cli.nfa import Background


def calibration_of(values: list[float], *, shared: bool = False) -> Calibration:
    return Calibration((Background(10.0, 1.0),), (1.0,), (10,), tuple(sorted(values)), shared)


def test_background_of_ideal_noise_is_the_chi_square_law():
    u = np.random.default_rng(0).chisquare(60, (50, 28, 28)).astype(np.float32)
    background, ratio = fit_background(u, n_channels=60)
    assert ratio == pytest.approx(1.0, abs=0.01)
    assert background.degrees_of_freedom == pytest.approx(60, rel=0.03)
    assert background.degrees_of_freedom * background.scale == pytest.approx(60, rel=0.01)


def test_background_follows_heavier_tails_with_fewer_degrees_of_freedom():
    u = 2.5 * np.random.default_rng(1).chisquare(20, (50, 28, 28)).astype(np.float32)
    background, ratio = fit_background(u, n_channels=60)
    assert ratio == pytest.approx(2.5 * 20 / 60, rel=0.02)
    assert background.degrees_of_freedom == pytest.approx(20, rel=0.05)
    assert background.scale == pytest.approx(2.5, rel=0.05)


def test_degrees_of_freedom_never_exceed_the_channels():
    constant = np.full((3, 4, 4), 7.0, dtype=np.float32)
    assert fit_background(constant, n_channels=9)[0] == Background(9.0, 7.0 / 9.0)


def test_background_without_positive_values_is_refused():
    with pytest.raises(ValueError, match="positive"):
        fit_background(np.zeros((2, 3, 3), dtype=np.float32), n_channels=4)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.5])
def test_share_of_good_images_flagged_keeps_the_promised_rate(rate):
    """The definition (METHOD 7.3), over 4000 draws of 39 calibration images and one new one."""
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(4000, 40))
    flagged = [draw[-1] < threshold_for_rate(calibration_of(draw[:-1].tolist()), rate) for draw in draws]
    assert np.mean(flagged) <= rate + 3 * np.sqrt(rate * (1 - rate) / 4000)
    assert np.mean(flagged) >= rate - 1 / 40 - 3 * np.sqrt(rate * (1 - rate) / 4000)  # and it is not idle


def test_smallest_rate_is_granted_and_less_is_an_error_that_names_it():
    calibration = calibration_of([-3.0, -1.0, 2.0, 4.0])
    assert threshold_for_rate(calibration, 0.2) == -3.0
    with pytest.raises(UflowError, match=r"4 held-out images.*0\.2000.*at least 99"):
        threshold_for_rate(calibration, 0.01)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(UflowError, match="between 0 and 1"):
        threshold_for_rate(calibration_of([0.0]), rate)


def test_false_alarms_count_images_strictly_below():
    assert calibration_of([-2.0, 0.0, 0.0, 3.0]).false_alarm_images(0.0) == 1


def test_misfits_name_the_scales_outside_the_range():
    calibration = Calibration((Background(1.0),) * 3, (1.0, 1.2, 0.9), (4, 4, 4), (0.0,), False)
    assert calibration.misfits() == [1, 2]


def test_dict_round_trip_through_json():
    calibration = calibration_of([-1.5, 2.25], shared=True)
    assert calibration_from_dict(json.loads(json.dumps(calibration_to_dict(calibration)))) == calibration
