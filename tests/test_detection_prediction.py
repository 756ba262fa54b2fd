"""Prediction: masks, maps and regions agree with each other and with the threshold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from products import defective_image, good_image

from uflow_cli.detection.detector import Detector, FalseAlarmCurve, Findings, lowest_log_nfa
from uflow_cli.detection.nfa import Background, a_contrario
from uflow_cli.detection.prediction import predict
from uflow_cli.images import resize_map
from uflow_cli.run.record import load_model, load_run

BACKGROUND = (Background(20.0), Background(30.0))


@pytest.fixture(scope="module")
def loaded(small_run):
    run = load_run(small_run)
    model = load_model(run, device=torch.device("cpu"))
    return model, run.calibration.detector(model)


def bumpy_norms(seed: int) -> list[np.ndarray]:
    """U maps of two scales for three images: noise, and a bump in the second image."""
    rng = np.random.default_rng(seed)
    fine, coarse = rng.chisquare(20, (3, 12, 12)), rng.chisquare(30, (3, 6, 6))
    fine[1, 3:6, 7:10] += 120
    coarse[1, 2:4, 3:5] += 100
    return [fine.astype(np.float32), coarse.astype(np.float32)]


def test_a_planted_defect_is_found_where_it_is(loaded):
    image, mask = defective_image(300)
    [bad, good] = predict(*loaded, [image, good_image(301)])
    assert bad.is_defect
    assert bad.log_nfa < good.log_nfa
    assert bad.anomaly_score > good.anomaly_score
    assert (bad.mask & mask).sum() > 0.5 * mask.sum()
    assert bad.score_map.shape == bad.log_nfa_map.shape == (256, 256)
    score = resize_map(bad.score_map, (96, 96))
    assert score[mask].mean() > score[~mask].mean() + 0.02


def test_predictions_do_not_depend_on_the_batch(loaded):
    images = [good_image(1), defective_image(2)[0], good_image(3, side=64)]
    together = predict(*loaded, images)
    for image, prediction in zip(images, together, strict=True):
        [alone] = predict(*loaded, [image])
        assert alone.log_nfa == pytest.approx(prediction.log_nfa, rel=1e-4, abs=1e-3)
        np.testing.assert_allclose(alone.score_map, prediction.score_map, atol=1e-4)
        assert alone.mask.shape == image.shape[:2]


def test_lower_threshold_finds_no_more(loaded):
    image, _ = defective_image(302)
    masks = [predict(*loaded, [image], threshold=t)[0].mask for t in (3.0, 0.0, -5.0, -1e9)]
    for larger, smaller in itertools.pairwise(masks):
        assert not (smaller & ~larger).any()
    assert not masks[-1].any()


def test_detections_stand_in_order_and_inside_the_image(loaded):
    image = np.concatenate([defective_image(303)[0], defective_image(304)[0]], axis=1)
    [prediction] = predict(*loaded, [image], threshold=5.0)
    values = [d.log_nfa for d in prediction.detections]
    assert values == sorted(values)
    assert prediction.log_nfa == pytest.approx(min(values))
    for d in prediction.detections:
        left, top, right, bottom = d.bounding_box
        assert 0 <= left < right <= image.shape[1]
        assert 0 <= top < bottom <= image.shape[0]
        assert left <= d.centroid[0] <= right
        assert top <= d.centroid[1] <= bottom
        assert 0 < d.area <= (right - left) * (bottom - top) * 1.01
        assert d.scale in (1, 2, 3)


def test_planted_bump_is_the_lowest_and_only_its_image():
    result = a_contrario(bumpy_norms(5), background=BACKGROUND)
    lowest = lowest_log_nfa(result.regions, n_images=3, ceiling=7.0)
    assert lowest.argmin() == 1
    assert lowest[1] < -20
    assert (lowest[[0, 2]] > 0).all()


def test_detected_regions_are_below_the_threshold_most_significant_first():
    norms = bumpy_norms(6)
    result = a_contrario(norms, background=BACKGROUND)
    detected = Findings(result, tuple(norms), 7.0).detections(1, threshold=4.0, size=(96, 96))
    log_nfa = np.array([detection.log_nfa for detection in detected])
    assert (log_nfa < 4.0).all()
    assert (np.diff(log_nfa) >= 0).all()
    assert len(detected) == ((result.regions.image == 1) & (result.regions.log_nfa < 4.0)).sum()


def test_curves_replace_the_log_nfa_of_the_law_and_keep_the_regions():
    curves = (FalseAlarmCurve((-2.0, 3.0), (-1.0, 0.5), 4.0, 3), FalseAlarmCurve((0.0, 6.0), (-0.5, 1.0), 2.0, 5))
    norms, reach = bumpy_norms(7), (4, 4)
    plain = Detector(BACKGROUND, "by-size", reach).find(norms).result
    counted = Detector(BACKGROUND, "by-size", reach, curves).find(norms).result
    for a, b in zip(plain.labels, counted.labels, strict=True):
        np.testing.assert_array_equal(a, b)
    for scale, curve in enumerate(curves):
        rows = plain.regions.scale == scale
        expected = curve.expected(plain.regions.log_nfa[rows]) + np.log10(2)
        np.testing.assert_allclose(counted.regions.log_nfa[rows], expected)


def test_ceiling_is_a_false_region_per_cell_or_the_tests_of_a_cell():
    grids = [(28, 28), (14, 14)]
    curves = (FalseAlarmCurve((0.0,), (0.0,), 1.0, 1),) * 2
    assert Detector(BACKGROUND, "by-size", (4, 4), curves).ceiling(grids) == pytest.approx(np.log10(980))
    assert Detector(BACKGROUND, "by-size", (4, 4)).ceiling(grids) == pytest.approx(6.0, abs=0.1)
    assert Detector(BACKGROUND, "paper", (4, 4)).ceiling(grids) == pytest.approx(476.92371)
