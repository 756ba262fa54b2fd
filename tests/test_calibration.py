"""Background model and false-alarm threshold from good images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from products import plain_calibration

from uflow_cli.calibration import (
    Calibration,
    TailPrior,
    calibrate,
    choose_threshold,
    cross_fitted_lowest,
    fit_background,
    fit_curve,
    fit_curves,
    threshold_for_rate,
)
from uflow_cli.detection.detector import FalseAlarmCurve, counted_log_nfa, lowest_log_nfa
from uflow_cli.detection.nfa import Background, Regions
from uflow_cli.errors import UflowError
from uflow_cli.schema import from_dict, from_json, to_dict, to_json

SHARES = (0.5, 0.5)  # of the false alarms, for each of two scales


def calibration_of(values: list[float], *, shared: bool = False) -> Calibration:
    curve = FalseAlarmCurve((-4.0, 1.0), (-1.0, 0.5), 3.0, 2)
    n = len(values)
    return plain_calibration(10, lowest_log_nfa=tuple(sorted(values)), shared=shared, curves=(curve,), n_counted=n)


def regions_of(image: np.ndarray, scale: np.ndarray, log_nfa: np.ndarray) -> Regions:
    """A table of regions in which only these columns mean anything."""
    zeros = np.zeros(len(image))
    return Regions(image, scale, zeros, zeros, zeros, log_nfa, *[zeros] * 9)


def good_regions(rng: np.random.Generator, n_images: int, *, mean_depth: tuple[float, float] = (2.0, 0.7)) -> Regions:
    """Regions of good images at two scales, Poisson in number, whose log NFA falls off exponentially from 4."""
    columns = []
    for scale, (rate, depth) in enumerate(zip((30.0, 8.0), mean_depth, strict=True)):
        image = np.repeat(np.arange(n_images), rng.poisson(rate, n_images))
        columns.append((image, np.full(len(image), scale), 4.0 - rng.exponential(depth, len(image))))
    return regions_of(*[np.concatenate(column) for column in zip(*columns, strict=True)])


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
    """The definition (docs/method.md, section 5.5), over 4000 draws of 39 calibration images and one new one."""
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
    calibration = plain_calibration(4, 4, 4, mean_ratio=(1.0, 1.2, 0.9))
    assert calibration.misfits() == [1, 2]
    directions = [(text.split(":")[0], " more than" in text, " less than" in text) for text in calibration.warnings()]
    assert directions == [("scale 2", True, False), ("scale 3", False, True)]


def test_a_scored_image_is_judged_without_its_group():
    """Two groups, one of which is odd: with its own siblings in the curve it looks ordinary."""
    log_nfa = np.concatenate([np.linspace(-1.0, 0.0, 20), np.linspace(-9.0, -8.0, 20)])
    regions = regions_of(np.arange(40), np.zeros(40, dtype=int), log_nfa)
    settings = {"n_images": 40, "allowances": (1.0,), "scored": np.arange(40), "ceiling": 5.0}
    odd = slice(20, 40)
    alone = cross_fitted_lowest(regions, **settings)[odd]
    apart = cross_fitted_lowest(regions, **settings, groups=["a"] * 20 + ["b"] * 20)[odd]
    assert alone.mean() > -1.0
    assert apart.max() < -1.2


@pytest.mark.parametrize("n_images", [2, 5, 8, 40])
def test_false_detections_of_new_images_keep_the_promise_at_every_level(n_images):
    """The definition of NFA (docs/method.md, section 4.5): at log NFA < t, 10^t false detections per good image, in the mean."""
    rng = np.random.default_rng(n_images)
    levels, n_new, n_draws = np.array([1.0, 0.0, -1.0, -2.0]), 60, 400
    counts = np.empty((n_draws, len(levels)))
    for draw in counts:
        curves = fit_curves(good_regions(rng, n_images), n_images=n_images, n_scales=2)
        log_nfa = counted_log_nfa(good_regions(rng, n_new), curves, allowances=SHARES)
        draw[:] = [(log_nfa < t).sum() / n_new for t in levels]
    error = counts.std(axis=0) / np.sqrt(n_draws)
    assert (counts.mean(axis=0) <= 10**levels + 3 * error).all()
    shown = levels >= -np.log10(n_images) if n_images > 2 else levels > 0
    assert (counts.mean(axis=0) >= 0.3 * 10**levels - 3 * error)[shown].all()  # and it is not idle


def test_images_that_bring_several_regions_at_once_do_not_break_the_promise():
    rng = np.random.default_rng(11)
    counts = np.empty(600)
    for i in range(len(counts)):
        values = -rng.exponential(2.0, 70)  # one severity per image, four regions in each
        curve = fit_curve(np.repeat(values[:10], 4), np.repeat(np.arange(10), 4), n_images=10)
        counts[i] = 4 * (curve.expected(values[10:]) < -1.0).mean()
    assert counts.mean() <= 0.1 + 3 * counts.std() / np.sqrt(len(counts))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.2])
def test_cross_fitted_images_keep_the_promised_rate(rate):
    """As docs/method.md, section 5.5, but the same images also draw the curves; over 200 splits."""
    rng = np.random.default_rng(3)
    n_images, flagged = 100, []
    for _ in range(200):
        regions = good_regions(rng, n_images)
        curves = fit_curves(regions, n_images=n_images, n_scales=2)
        scored = cross_fitted_lowest(
            regions, n_images=n_images, allowances=SHARES, scored=np.arange(n_images), ceiling=3.0
        )
        threshold = threshold_for_rate(calibration_of(scored.tolist()), rate)
        new = good_regions(rng, 50)
        new = regions_of(new.image, new.scale, counted_log_nfa(new, curves, allowances=SHARES))
        flagged.append((lowest_log_nfa(new, n_images=50, ceiling=3.0) < threshold).mean())
    error = np.std(flagged) / np.sqrt(len(flagged))
    assert np.mean(flagged) <= rate + 3 * error
    assert np.mean(flagged) >= 0.4 * rate - 3 * error


def test_a_scored_image_has_no_say_in_the_curves_that_judge_it():
    rng = np.random.default_rng(4)
    regions = good_regions(rng, 12)
    before = cross_fitted_lowest(regions, n_images=12, allowances=SHARES, scored=np.arange(10), ceiling=3.0)
    log_nfa = regions.log_nfa.copy()
    own = np.flatnonzero(regions.image == 4)
    log_nfa[own[np.argsort(log_nfa[own])[1:]]] = 3.9  # of image 4 only the lowest region stays
    after = regions_of(regions.image, regions.scale, log_nfa)
    after_lowest = cross_fitted_lowest(after, n_images=12, allowances=SHARES, scored=np.arange(10), ceiling=3.0)
    whole = counted_log_nfa(regions, fit_curves(regions, n_images=12, n_scales=2), allowances=SHARES)
    assert after_lowest[4] >= before[4] - 1e-12
    assert before[4] != pytest.approx(whole[regions.image == 4].min())


@pytest.mark.parametrize("n_images", [2, 9, 50])
def test_curve_is_increasing_and_never_flat_below_what_was_seen(n_images):
    regions = good_regions(np.random.default_rng(5), n_images)
    for curve in fit_curves(regions, n_images=n_images, n_scales=2):
        assert len(curve.log_nfa) <= 45
        values = curve.expected(np.linspace(curve.log_nfa[-1], -1e4, 500))
        assert (np.diff(values[np.linspace(curve.log_nfa[-1], -1e4, 500) < curve.log_nfa[0]]) < 0).all()
        assert (np.diff(values) <= 0).all()
        assert values[-1] < -3


def test_curve_counts_regions_per_image():
    values = np.array([-3.0, -2.0, -1.5, 0.0, 1.0, 2.0])
    curve = fit_curve(values, np.array([0, 1, 1, 2, 2, 0]), n_images=6)
    assert curve.log_nfa[0] == 0.0  # the lowest of the third image: half of the images make the tail
    assert 10 ** curve.expected(0.0) == pytest.approx(4 / 6)
    assert 10 ** curve.expected(2.0) == pytest.approx(6 / 6)
    assert curve.exponent == 2
    assert curve.spread == pytest.approx(3.0 + 2.0)


def test_a_prior_counts_as_so_many_more_excesses():
    rng = np.random.default_rng(8)
    values, image = -rng.exponential(2.0, 40), np.arange(40)
    plain, informed = (fit_curve(values, image, n_images=40, prior=p) for p in (None, TailPrior(1.5, 8)))
    assert (informed.log_nfa, informed.log_count) == (plain.log_nfa, plain.log_count)  # what was counted stays
    assert (informed.exponent, informed.spread) == (plain.exponent + 8, pytest.approx(plain.spread + 12.0))


@pytest.mark.parametrize("n_images", [8, 15, 40])
def test_where_tails_are_as_the_prior_has_it_the_promise_is_kept_and_used_better(n_images):
    """Products whose mean excess has the prior's law: one false region in 100 images is promised, over 4,000 products."""
    rng, prior = np.random.default_rng(n_images), TailPrior(2.0, 8)
    excess = 1 / rng.gamma(prior.weight, 1 / (prior.weight * prior.excess), 4000)
    shares = {}
    for name, known in (("plain", None), ("informed", prior)):
        expected = []
        for mean in excess:
            curve = fit_curve(-rng.exponential(mean, n_images), np.arange(n_images), n_images=n_images, prior=known)
            depth = curve.spread * ((10 ** (curve.log_count[0] + 2)) ** (1 / curve.exponent) - 1)
            expected.append(math.exp((curve.log_nfa[0] - depth) / mean))  # exactly, of a further image
        shares[name] = np.array(expected)
    error = shares["informed"].std() / np.sqrt(len(excess))
    assert 0.008 - 3 * error < shares["informed"].mean() < 0.01 + 3 * error
    assert np.median(shares["informed"]) > np.median(shares["plain"])


def test_scale_without_a_region_counts_as_less_than_one_in_all_images():
    curve = fit_curve([], [], n_images=20)
    assert 10 ** curve.expected(0.0) == pytest.approx(1 / 20)
    assert curve.expected(-10.0) < curve.expected(-1.0) < curve.expected(0.0)


def test_equal_images_do_not_make_the_tail_steeper_than_the_background_law():
    curve = fit_curve(np.full(12, 1.0), np.arange(12), n_images=12)
    assert curve.spread == pytest.approx(5 / np.log(10))


@pytest.mark.parametrize("n_images", [1, 2, 5, 8])
def test_few_images_calibrate_and_say_what_they_can_promise(n_images):
    rng = np.random.default_rng(n_images)
    norms = [rng.chisquare(c, (n_images, side, side)).astype(np.float32) for c, side in ((20, 12), (30, 6))]
    calibration = calibrate(norms, n_channels=(20, 30), tests="by-size", reach=(4, 4), shared=True)
    assert calibration.n_images == calibration.n_counted == n_images
    assert len(calibration.curves) == (2 if n_images > 1 else 0)
    assert np.isfinite(calibration.lowest_log_nfa).all()
    with pytest.raises(UflowError, match=f"{n_images} held-out images"):
        threshold_for_rate(calibration, 0.01)
    _, promise = choose_threshold(calibration, nfa_threshold=-2.0, false_alarm_rate=None)
    assert ("extrapolated" in promise) == (n_images > 1)


def test_images_that_chose_the_epoch_draw_the_curves_and_promise_no_rate():
    rng = np.random.default_rng(6)
    selection, calibration = ([rng.chisquare(20, (n, 8, 8)).astype(np.float32)] for n in (5, 9))
    settings = {"n_channels": (20,), "tests": "by-size", "reach": (4,)}
    result = calibrate(calibration, selection=selection, **settings)
    assert (result.n_images, result.n_counted) == (9, 14)
    alone = calibrate(calibration, shared=True, **settings)
    assert (alone.n_images, alone.n_counted) == (9, 9)
    assert alone.curves != result.curves


def test_promise_tells_counted_from_extrapolated():
    calibration = calibration_of([-3.0, -1.0, 2.0, 4.0])
    assert "extrapolated" not in choose_threshold(calibration, nfa_threshold=None, false_alarm_rate=None)[1]
    assert "extrapolated" in choose_threshold(calibration, nfa_threshold=-1.0, false_alarm_rate=None)[1]


@pytest.mark.parametrize("missing", ["curves", "n_counted", "references", "background"])
def test_missing_key_is_an_error(missing):
    values = to_dict(calibration_of([1.0]))
    del values[missing]
    with pytest.raises(ValueError, match=missing):
        from_dict(Calibration, values)


@pytest.mark.parametrize("damage", [{"log_nfa": []}, {"spread": 0.0}, {"spread": float("nan")}, {"exponent": 0}])
def test_damaged_curve_is_an_error(damage):
    values = to_dict(calibration_of([1.0]))
    values["curves"][0].update(damage)
    with pytest.raises(ValueError, match=r"curve needs|finite number"):
        from_dict(Calibration, values)


def test_dict_round_trip_through_json():
    calibration = calibration_of([-1.5, 2.25], shared=True)
    assert from_json(Calibration, to_json(calibration)) == calibration


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), float("-inf")])
def test_a_threshold_is_finite(threshold: float) -> None:
    with pytest.raises(UflowError, match="a finite number is needed"):
        choose_threshold(calibration_of([0.0]), nfa_threshold=threshold, false_alarm_rate=None)
