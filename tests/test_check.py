"""Check of a run on fresh good images: verdicts, drift, likely causes and a new calibration."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from products import good_image, plain_calibration

from uflow_cli.calibration import Reference, calibrate, fit_reference, position_levels
from uflow_cli.check import check_run
from uflow_cli.check.judgement import Verdict, likely_cause, measure_drift
from uflow_cli.errors import UflowError
from uflow_cli.images import write_png
from uflow_cli.run.record import BEFORE_RECALIBRATION_NAME, load_run
from uflow_cli.schema import to_json

CPU = torch.device("cpu")


@pytest.fixture
def run(small_run, tmp_path):
    return load_run(shutil.copytree(small_run, tmp_path / "run"))


def images_of(folder, n, change=lambda image: image, *, first=500):
    for i in range(n):
        write_png(folder / f"{i:03d}.png", change(good_image(first + i)))
    return sorted(folder.iterdir())


def test_new_lighting_breaks_the_promise(run, tmp_path):
    paths = images_of(tmp_path / "dark", 16, lambda image: (image * 0.3).astype(np.uint8))
    result = check_run(run, paths, device="cpu")
    assert result.verdict is Verdict.BROKEN
    assert result.cause
    assert any(drift.moved for drift in result.scales)
    assert result.flagged
    values = json.loads(to_json(result))
    assert values["verdict"] == "broken"


CHANNELS = (16, 40)
GRIDS = ((28, 28), (14, 14))


def noise(n, *, seed, gain=lambda n, h, w: np.ones((n, h, w))):
    """U maps of n images at two scales: chi-square noise times `gain` (n, h, w)."""
    rng = np.random.default_rng(seed)
    return [
        (rng.chisquare(c, (n, h, w)) * gain(n, h, w)).astype(np.float32)
        for c, (h, w) in zip(CHANNELS, GRIDS, strict=True)
    ]


def calibration_of(norms):
    return calibrate(norms, n_channels=CHANNELS, tests="by-size", reach=(12, 4))


def corner(n, h, w):
    gain = np.ones((n, h, w))
    gain[:, : h // 4, 3 * w // 4 :] = 3.0
    return gain


def some(n, h, w):
    gain = np.ones((n, h, w))
    gain[:2] = 1.4
    return gain


@pytest.mark.parametrize(
    ("gain", "n_flagged", "cause"),
    [
        (lambda n, h, w: np.full((n, h, w), 1.5), 20, "lighting"),
        (corner, 20, "around 85% from the left, 15% from the top"),
        (some, 2, "2 of 20 images are unlike the others"),
        (lambda n, h, w: np.ones((n, h, w)), 2, "small marks"),
    ],
)
def test_the_likely_cause_follows_from_where_and_in_which_images_the_energy_rose(gain, n_flagged, cause):
    calibration = calibration_of(noise(30, seed=0))
    flagged = np.arange(20) < n_flagged
    assert cause in likely_cause(calibration, noise(20, seed=1, gain=gain), flagged)


def test_an_over_fitted_flow_is_told_before_anything_else():
    calibration = calibration_of([1.3 * u for u in noise(30, seed=0)])
    assert "over-fitted" in likely_cause(calibration, noise(20, seed=1, gain=corner), np.ones(20, dtype=np.bool_))


def test_drift_is_none_for_images_alike_and_measured_for_others():
    calibration = calibration_of(noise(30, seed=0))
    assert not any(drift.moved for drift in measure_drift(calibration, noise(20, seed=1)))
    risen = measure_drift(calibration, noise(20, seed=1, gain=lambda n, h, w: np.full((n, h, w), 1.2)))
    assert all(drift.moved for drift in risen)
    assert risen[0].v_now / risen[0].v_then == pytest.approx(1.2, abs=0.02)


def test_images_like_those_of_the_calibration_are_not_called_broken(run, tmp_path):
    result = check_run(run, images_of(tmp_path / "same", 16), device="cpu")
    assert result.verdict is not Verdict.BROKEN
    assert not result.cause


def test_two_images_cannot_tell_and_say_how_many_more(run, tmp_path):
    result = check_run(run, images_of(tmp_path / "two", 2), device="cpu", false_alarm_rate=0.2)
    assert result.verdict is Verdict.CANNOT_TELL
    assert result.n_more_images > 0


def test_recalibration_makes_the_promise_hold_again_and_keeps_the_old_one(run, tmp_path):
    paths = images_of(tmp_path / "dark", 40, lambda image: (image * 0.3).astype(np.uint8))
    before = (run.folder / "config.json").read_text()
    (run.folder / ".a1b2c3d4.tmp").write_bytes(b"half")  # of one that was killed
    result = check_run(run, paths[:20], device="cpu", recalibrate=True)
    assert result.verdict is Verdict.BROKEN  # told of the promise as it was
    assert (run.folder / BEFORE_RECALIBRATION_NAME).read_text() == before
    fresh = load_run(run.folder)
    assert result.recalibrated
    assert not list(run.folder.glob(".*"))
    assert fresh.calibration.n_images == 20
    assert dataclasses.replace(fresh, calibration=run.calibration) == run
    assert check_run(fresh, paths[20:], device="cpu").verdict is not Verdict.BROKEN


def test_what_cannot_be_done_is_told_and_changes_nothing(run, tmp_path):
    before = (run.folder / "config.json").read_text()
    paths = images_of(tmp_path / "few", 3)
    with pytest.raises(UflowError, match="at least 8"):
        check_run(run, paths, device="cpu", recalibrate=True)
    with pytest.raises(UflowError, match="cannot be promised"):
        check_run(run, paths, device="cpu", false_alarm_rate=0.001)
    with pytest.raises(UflowError, match="no images"):
        check_run(run, [], device="cpu")
    bare = dataclasses.replace(run, calibration=plain_calibration(4))
    with pytest.raises(UflowError, match="no calibration to check"):
        check_run(bare, paths, device="cpu")
    assert (run.folder / "config.json").read_text() == before


def test_an_unreadable_image_is_named_and_the_others_are_judged(run, tmp_path):
    paths = images_of(tmp_path / "some", 4)
    paths[1].write_bytes(b"no image")
    result = check_run(run, paths, device="cpu")
    assert result.n_images == 3
    assert result.errors[0].path == paths[1]


def test_positions_are_pooled_by_their_mean():
    u = np.arange(2 * 30 * 20, dtype=np.float32).reshape(2, 30, 20)
    levels = position_levels(u, n_channels=4)
    assert levels.shape == (10, 7)  # cells of 3, the last column narrower
    assert levels[0, 0] == pytest.approx(u[:, :3, :3].mean() / 4)
    assert levels[-1, -1] == pytest.approx(u[:, 27:, 18:].mean() / 4)
    small = position_levels(u[:, :3, :5], n_channels=1)
    assert small.shape == (3, 5)


def test_a_reference_holds_levels_of_images_and_quantiles_of_cells():
    u = np.random.default_rng(0).chisquare(16, (50, 28, 28)).astype(np.float32)
    reference = fit_reference(u, n_channels=16)
    assert isinstance(reference, Reference)
    assert len(reference.image_levels) == 50
    assert np.mean(reference.image_levels) == pytest.approx(1.0, abs=0.01)
    assert list(reference.quantiles) == sorted(reference.quantiles)
    assert len(json.dumps(dataclasses.asdict(reference))) < 4000
