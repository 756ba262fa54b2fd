"""Prediction: masks, maps and regions agree with each other and with the threshold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from products import defective_image, good_image

from uflow_cli.checkpoint import load_model, load_run
from uflow_cli.images import resize_map
from uflow_cli.nfa import Background, a_contrario
from uflow_cli.prediction import (
    detected_regions,
    detection_mask,
    log_nfa_ceiling,
    log_nfa_map,
    lowest_log_nfa,
    predict,
    upsample_by_median,
)

BACKGROUND = [Background(20.0), Background(30.0)]


@pytest.fixture(scope="module")
def loaded(small_run):
    run = load_run(small_run)
    return load_model(run, device=torch.device("cpu")), run.calibration


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
    assert bad.score > good.score
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


@pytest.mark.parametrize("tests", ["paper", "by-size"])
@pytest.mark.parametrize("threshold", [0.0, -3.0, 4.0])
@pytest.mark.parametrize("size", [(12, 12), (97, 61), (48, 200)])
def test_map_below_the_threshold_is_the_mask(tests, threshold, size):
    result = a_contrario(bumpy_norms(4), background=BACKGROUND, tests=tests)
    ceiling = log_nfa_ceiling(result, tests=tests)
    threshold += log_nfa_ceiling(result, tests="by-size") - ceiling if tests == "paper" else 0.0
    for index in range(3):
        regions = detected_regions(result, index=index, threshold=threshold)
        mask = detection_mask(result, regions, index=index, size=size)
        below = log_nfa_map(result, index=index, ceiling=ceiling, size=size) < threshold
        assert (mask != below).mean() <= 0.002  # pixels exactly half-way may differ by rounding


def test_lowest_log_nfa_is_the_ceiling_without_regions():
    flat = [np.full((1, 4, 4), 1.0, np.float32), np.full((1, 2, 2), 1.0, np.float32)]
    result = a_contrario(flat, background=BACKGROUND)
    ceiling = log_nfa_ceiling(result, tests="by-size")
    assert lowest_log_nfa(result, ceiling=ceiling).tolist() == [ceiling]
    assert (log_nfa_map(result, index=0, ceiling=ceiling, size=(8, 8)) == np.float32(ceiling)).all()


def test_planted_bump_is_the_lowest_and_only_its_image():
    result = a_contrario(bumpy_norms(5), background=BACKGROUND)
    lowest = lowest_log_nfa(result, ceiling=log_nfa_ceiling(result, tests="by-size"))
    assert lowest.argmin() == 1
    assert lowest[1] < -20
    assert (lowest[[0, 2]] > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 23), st.integers(1, 23), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_median_cut_at_any_threshold_is_the_indicator_cut_at_one_half(h, w, height, width, seed):
    cells = np.random.default_rng(seed).integers(0, 4, (h, w)).astype(np.float32)
    median = upsample_by_median(cells, (height, width))
    for threshold in (0.5, 1.5, 2.5):
        indicator = resize_map((cells < threshold).astype(np.float32), (height, width))
        clear = np.abs(indicator - 0.5) > 1e-3
        assert ((median < threshold) == (indicator >= 0.5))[clear].all()


def test_median_at_the_same_size_changes_nothing():
    cells = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    np.testing.assert_array_equal(upsample_by_median(cells, (5, 7)), cells)
