"""The measures of `uflow_cli.metrics` are equal to scikit-learn, to slow and plain versions, and to values known by hand."""

import math
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn import metrics as sklearn_metrics

from uflow_cli import metrics
from uflow_cli.metrics import pixels

Pairs = list[tuple[NDArray[Any], NDArray[np.bool_]]]
SPECIAL = [-np.inf, -2.5, -1.0, -1e-40, -0.0, 0.0, 1e-40, 0.5, 1.0, 1.0000001, 3e38, np.inf]


def random_pairs(seed: int, *, n_images: int = 4, n_values: int | None = 20, side: int = 24) -> Pairs:
    """Blobs on half of the images; scores with ties (`n_values` distinct ones) that are higher inside."""
    random = np.random.default_rng(seed)
    pairs: Pairs = []
    for index in range(n_images):
        smooth = ndimage.gaussian_filter(random.normal(size=(side, side)), 1.5)
        mask = smooth > np.quantile(smooth, 0.85) if index % 2 else np.zeros((side, side), dtype=np.bool_)
        score = random.normal(size=(side, side)) + 1.2 * mask
        if n_values is not None:
            score = np.round(score * n_values / 6) / 7
        pairs.append((score.astype(np.float32), mask))
    return pairs


def pixel_curve(pairs: Iterable[tuple[NDArray[Any], NDArray[np.bool_]]]) -> metrics.PixelCurve:
    scores = metrics.PixelScores()
    for score, mask in pairs:
        scores.add(score, mask)
    return scores.curve()


def bootstrap_interval(
    statistic: Callable[[NDArray[np.intp]], float], strata: Any, *, seed: int, n_resamples: int = 1000
) -> tuple[float, float]:
    of_all = metrics.bootstrap_intervals(
        lambda rows: {"it": statistic(rows)}, strata, seed=seed, n_resamples=n_resamples
    )
    return of_all["it"]


def flat(pairs: Pairs) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    return np.concatenate([s.ravel() for s, _ in pairs]), np.concatenate([m.ravel() for _, m in pairs])


def slow_aupro(pairs: Pairs, max_fpr: float) -> float:
    """The definition, threshold by threshold: overlap of each region and FPR, joined by straight lines."""
    scores, masks = flat(pairs)
    points = [(0.0, 0.0)]
    for threshold in np.unique(scores)[::-1]:
        overlaps = []
        for score, mask in pairs:
            regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
            overlaps += [np.mean(score[regions == number] >= threshold) for number in range(1, count + 1)]
        points.append((float(np.mean(scores[~masks] >= threshold)), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        end = min(x1, max_fpr)
        if x1 > x0 and end > x0:
            at_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + at_end) / 2
    return area / max_fpr


# Pixels


@pytest.mark.parametrize("n_values", [2, 5, 40, None])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_auroc_and_average_precision_equal_scikit_learn(seed: int, n_values: int | None) -> None:
    pairs = random_pairs(seed, n_values=n_values)
    scores, masks = flat(pairs)
    curve = pixel_curve(pairs)
    assert curve.auroc == pytest.approx(sklearn_metrics.roc_auc_score(masks, scores), abs=1e-12)
    assert curve.average_precision == pytest.approx(sklearn_metrics.average_precision_score(masks, scores), abs=1e-12)
    precision, recall, _ = sklearn_metrics.precision_recall_curve(masks, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-30)
    assert curve.f1_max == pytest.approx(f1.max(), abs=1e-12)


@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("n_values", [2, 5, 40, None])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_equals_the_plain_definition(seed: int, n_values: int | None, max_fpr: float) -> None:
    pairs = random_pairs(seed, n_values=n_values)
    assert pixel_curve(pairs).aupro(max_fpr) == pytest.approx(slow_aupro(pairs, max_fpr), abs=1e-12)


@settings(deadline=None, max_examples=150)
@given(
    hnp.arrays(np.float32, (2, 4, 5), elements=st.sampled_from(SPECIAL).map(np.float32)),
    hnp.arrays(np.bool_, (2, 4, 5)),
    st.sampled_from([0.1, 0.3, 1.0]),
)
def test_few_values_and_odd_ones_are_counted_exactly(
    scores: NDArray[Any], masks: NDArray[np.bool_], max_fpr: float
) -> None:
    pairs = list(zip(scores, masks, strict=True))
    curve = pixel_curve(pairs)
    if masks.all() or not masks.any():
        assert math.isnan(curve.auroc)
        assert math.isnan(curve.aupro())
        return
    ranks = np.unique(scores, return_inverse=True)[1]  # scikit-learn refuses infinite scores; ranks are the same
    assert curve.auroc == pytest.approx(sklearn_metrics.roc_auc_score(masks.ravel(), ranks.ravel()), abs=1e-12)
    assert curve.aupro(max_fpr) == pytest.approx(slow_aupro(pairs, max_fpr), abs=1e-12)


@settings(deadline=None)
@given(hnp.arrays(np.float32, 6, elements=st.floats(width=32, allow_nan=False)))
def test_keys_order_as_scores_do_and_give_them_back(scores: NDArray[np.float32]) -> None:
    keys = pixels.ordered_keys(scores)
    np.testing.assert_array_equal(pixels.scores_of(keys), scores)
    np.testing.assert_array_equal(keys[:, None] < keys[None], scores[:, None] < scores[None])


def test_metrics_do_not_change_under_increasing_maps_and_order_of_images() -> None:
    pairs = random_pairs(5)
    curve = pixel_curve(pairs)
    other = pixel_curve([(np.exp(score), mask) for score, mask in pairs[::-1]])
    assert other.auroc == pytest.approx(curve.auroc, abs=1e-12)
    assert other.aupro() == pytest.approx(curve.aupro(), abs=1e-12)
    assert other.f1_max == pytest.approx(curve.f1_max, abs=1e-12)


def test_perfect_inverted_and_constant_predictors_have_their_known_values() -> None:
    masks = [mask for _, mask in random_pairs(1)]
    share = np.mean(masks)
    perfect = pixel_curve([(mask.astype(np.float32), mask) for mask in masks])
    assert (perfect.auroc, perfect.average_precision, perfect.f1_max, perfect.aupro()) == (1.0, 1.0, 1.0, 1.0)
    inverted = pixel_curve([(1.0 - mask, mask) for mask in masks])
    assert (inverted.auroc, inverted.aupro()) == (0.0, 0.0)
    assert inverted.average_precision == pytest.approx(share)
    constant = pixel_curve([(np.zeros(mask.shape), mask) for mask in masks])
    assert constant.auroc == 0.5
    assert constant.average_precision == pytest.approx(share)
    assert constant.aupro() == pytest.approx(0.15)  # the diagonal up to 0.3, divided by 0.3
    assert constant.f1_max == pytest.approx(2 * share / (1 + share))


def test_small_regions_count_as_much_as_large_ones_and_touch_at_corners() -> None:
    mask = np.zeros((10, 10), dtype=np.bool_)
    mask[:4, :5] = True  # 20 pixels, found
    mask[8, 8] = mask[9, 9] = True  # 2 pixels that touch at a corner, missed
    score = np.where(mask, 0.0, 0.5)
    score[:4, :5] = 1.0
    curve = pixel_curve([(score, mask)])
    assert curve.n_regions == 2
    assert curve.aupro() == pytest.approx(0.5)
    assert curve.region_overlap.tolist() == pytest.approx([0.5, 1.0])


def test_missing_classes_are_nan() -> None:
    empty = np.zeros((4, 4), dtype=np.bool_)
    score = np.ones((4, 4), dtype=np.float32)
    no_defect = pixel_curve([(score, empty)])
    everything = pixel_curve([(score, ~empty)])
    nothing = pixel_curve([])
    for curve in (no_defect, everything, nothing):
        assert math.isnan(curve.auroc)
        assert math.isnan(curve.aupro())
    assert math.isnan(no_defect.average_precision)
    assert math.isnan(no_defect.f1_max)
    assert everything.average_precision == 1.0


@pytest.mark.parametrize(
    ("score", "mask"),
    [
        (np.zeros((3, 4)), np.zeros((4, 3), np.bool_)),
        (np.zeros((3, 4)), np.zeros((3, 4), np.uint8)),
        (np.full((3, 4), np.nan), np.zeros((3, 4), np.bool_)),
        (np.zeros(4), np.zeros(4, np.bool_)),
    ],
)
def test_what_cannot_be_counted_is_a_programming_mistake(score: NDArray[Any], mask: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|NaN"):
        metrics.PixelScores().add(score, mask)


@pytest.mark.parametrize("max_fpr", [0.0, -0.1, 1.1])
def test_aupro_is_refused_beyond_0_to_1(max_fpr: float) -> None:
    with pytest.raises(ValueError, match="max_fpr"):
        pixel_curve(random_pairs(0)).aupro(max_fpr)


@pytest.mark.parametrize("n_values", [15, None])
def test_pixels_counted_in_small_lots_count_the_same(monkeypatch: pytest.MonkeyPatch, n_values: int | None) -> None:
    pairs = random_pairs(3, n_images=8, n_values=n_values)
    expected = pixel_curve(pairs)
    monkeypatch.setattr(pixels, "WAITING_PIXELS", 100)
    scores = metrics.PixelScores()
    for index, (score, mask) in enumerate(pairs):
        scores.add(score, mask)
        assert scores.curve().auroc == pixel_curve(pairs[: index + 1]).auroc or index == 0
    curve = scores.curve()
    np.testing.assert_array_equal(curve.false_positives, expected.false_positives)
    np.testing.assert_array_equal(curve.false_positives_above, expected.false_positives_above)
    np.testing.assert_array_equal(curve.true_positives, expected.true_positives)
    np.testing.assert_allclose(curve.region_overlap, expected.region_overlap, rtol=1e-12)


def test_memory_follows_the_number_of_distinct_scores_and_not_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "WAITING_PIXELS", 1 << 16)
    random = np.random.default_rng(0)
    few = random.random(1000, dtype=np.float32)
    mask = np.zeros((128, 128), dtype=np.bool_)
    scores = metrics.PixelScores()
    tracemalloc.start()
    for _ in range(200):
        scores.add(random.choice(few, mask.shape), mask)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scores.curve().n_negative == 200 * 128 * 128
    assert held < 1 << 20  # 13 MB, had the pixels been kept


def test_beyond_so_many_distinct_scores_bins_bound_the_memory_and_hardly_move_the_measures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(1)
    pairs: Pairs = []
    for _ in range(100):
        mask = np.zeros((64, 64), dtype=np.bool_)
        mask[8:24, 16:28] = mask[40:50, 40:60] = True
        pairs.append(((1 / (1 + np.exp(-random.normal(size=mask.shape) - mask))).astype(np.float32), mask))
    exact = pixel_curve(pairs)
    monkeypatch.setattr(pixels, "WAITING_PIXELS", 1 << 14)
    monkeypatch.setattr(pixels, "MOST_SCORES", 1 << 15)
    scores = metrics.PixelScores()
    tracemalloc.start()
    for score, mask in pairs:
        scores.add(score, mask)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1 << 21  # 8 MB, had all distinct scores been kept
    binned = scores.curve()
    assert len(binned.true_positives) <= 1 << 15
    assert (binned.n_positive, binned.n_negative, binned.n_regions) == (
        exact.n_positive, exact.n_negative, exact.n_regions
    )  # fmt: skip
    assert binned.auroc == pytest.approx(exact.auroc, abs=1e-5)
    assert binned.average_precision == pytest.approx(exact.average_precision, abs=1e-4)
    assert binned.f1_max == pytest.approx(exact.f1_max, abs=1e-4)
    assert binned.aupro() == pytest.approx(exact.aupro(), abs=1e-5)


def test_a_fair_threshold_in_bins_lets_no_more_pixels_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MOST_SCORES", 1000)
    score = np.random.default_rng(2).normal(size=(64, 64)).astype(np.float32)
    scores = metrics.PixelScores()
    scores.add(score, np.zeros(score.shape, dtype=np.bool_))
    thresholds = [scores.threshold(allowed) for allowed in (0, 40, 400)]
    through = [np.count_nonzero(score > threshold) for threshold in thresholds]
    assert through[0] == 0
    assert 0 < through[1] <= 40 < through[2] <= 400


def test_resampled_curves_are_those_of_the_images_drawn() -> None:
    pairs = random_pairs(6, n_images=6)
    scores = metrics.PixelScores(resampling=True)
    for score, mask in pairs:
        scores.add(score, mask)
    curve_of = scores.curves_of_images()
    for drawn in ([0, 1, 2, 3, 4, 5], [1, 1, 4, 2]):
        expected = pixel_curve(pairs[index] for index in drawn)
        curve = curve_of(drawn)
        assert (curve.n_positive, curve.n_negative) == (expected.n_positive, expected.n_negative)
        assert curve.auroc == pytest.approx(expected.auroc, abs=1e-3)
        assert curve.aupro() == pytest.approx(expected.aupro(), abs=1e-3)
    with pytest.raises(ValueError, match="resampling"):
        metrics.PixelScores().curves_of_images()


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float32, (3, 4), elements=st.sampled_from(SPECIAL).map(np.float32)), st.integers(0, 14))
def test_the_fair_threshold_is_the_lowest_that_lets_so_many_pixels_through(scores: NDArray[Any], allowed: int) -> None:
    counted = metrics.PixelScores()
    counted.add(scores, np.zeros(scores.shape, dtype=np.bool_))
    threshold = counted.threshold(allowed)
    assert threshold in scores
    assert np.count_nonzero(scores > threshold) <= allowed
    below = np.unique(scores[scores < threshold])
    assert not len(below) or np.count_nonzero(scores > below[-1]) > allowed


def test_a_fair_threshold_of_nothing_is_a_programming_mistake() -> None:
    with pytest.raises(ValueError, match="of 0"):
        metrics.PixelScores().threshold(1)


# Masks


def test_iou_of_known_masks() -> None:
    left, top = np.zeros((4, 4), dtype=np.bool_), np.zeros((4, 4), dtype=np.bool_)
    left[:, :2], top[:2] = True, True
    assert metrics.iou(left, top) == pytest.approx(4 / 12)
    assert metrics.iou(left, left) == 1.0
    assert metrics.iou(left, ~left) == 0.0
    empty = np.zeros_like(left)
    assert metrics.iou(empty, empty) == 1.0
    assert metrics.iou(empty, left) == 0.0


@settings(deadline=None)
@given(hnp.arrays(np.bool_, (5, 6)), hnp.arrays(np.bool_, (5, 6)))
def test_iou_is_symmetric_and_equals_the_jaccard_score(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> None:
    assert metrics.iou(one, other) == metrics.iou(other, one)
    expected = sklearn_metrics.jaccard_score(one.ravel(), other.ravel(), zero_division=1.0)
    assert metrics.iou(one, other) == pytest.approx(expected)


def test_a_model_that_detects_nothing_scores_the_share_of_good_images() -> None:
    masks = [mask for _, mask in random_pairs(2, n_images=5)]
    mean = metrics.mean_iou([(np.zeros_like(mask), mask) for mask in masks])
    assert mean == metrics.MeanIou(0.6, 0.0)
    assert math.isnan(metrics.mean_iou([]).all_images)
    assert math.isnan(metrics.mean_iou([(masks[0], masks[0])]).defective_images)


def test_masks_that_are_not_masks_are_a_programming_mistake() -> None:
    mask = np.zeros((3, 3), dtype=np.bool_)
    for other in (mask.astype(np.uint8), mask[:2]):
        with pytest.raises(ValueError, match="bool"):
            metrics.iou(mask, other)
        with pytest.raises(ValueError, match="bool"):
            metrics.IouSweep([0.0]).add(mask.astype(np.float32), other)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, (3, 4, 5), elements=st.sampled_from([-7.0, -3.0, -1.0, 0.0, 2.5]).map(np.float32)),
    hnp.arrays(np.bool_, (3, 4, 5)),
)
def test_a_sweep_equals_thresholding_anew_each_time(log_nfa: NDArray[Any], masks: NDArray[np.bool_]) -> None:
    thresholds = [-8.0, -7.0, -3.0, -2.0, 0.0, 2.5, 9.0]
    sweep = metrics.IouSweep(thresholds)
    for values, mask in zip(log_nfa, masks, strict=True):
        sweep.add(values, mask)
    over_all, over_defective = sweep.means()
    for index, threshold in enumerate(thresholds):
        expected = metrics.mean_iou(zip(log_nfa < threshold, masks, strict=True))
        assert over_all[index] == pytest.approx(expected.all_images)
        assert over_defective[index] == pytest.approx(expected.defective_images, nan_ok=True)
    oracle = sweep.oracle()
    assert oracle.miou.all_images == over_all.max()
    assert oracle.threshold == thresholds[int(np.argmax(over_all))]


def test_the_oracle_searches_the_published_thresholds() -> None:
    thresholds = metrics.oracle_thresholds()
    assert (thresholds[0], thresholds[-1], len(thresholds)) == (-1000.0, 400.0, 1401)
    mask = np.zeros((6, 6), dtype=np.bool_)
    mask[2:4, 2:4] = True
    log_nfa = np.where(mask, -300.5, 20.0)
    sweep = metrics.IouSweep(thresholds)
    sweep.add(log_nfa, mask)
    sweep.add(np.full((6, 6), 477.0), np.zeros_like(mask))
    oracle = sweep.oracle()
    assert oracle.threshold == -300.0
    assert oracle.miou == metrics.MeanIou(1.0, 1.0)


def test_a_high_score_is_swept_by_its_negative() -> None:
    pairs = random_pairs(4)
    levels = np.linspace(-1.0, 2.0, 7)
    sweep = metrics.IouSweep(-levels[::-1])
    for score, mask in pairs:
        sweep.add(-score, mask)
    expected = [metrics.mean_iou((score > level, mask) for score, mask in pairs).all_images for level in levels]
    np.testing.assert_allclose(sweep.means()[0], expected[::-1])


@pytest.mark.parametrize("thresholds", [[], [1.0, 0.0], [0.0, 0.0], [[0.0]], [0.0, np.nan]])
def test_thresholds_out_of_order_are_a_programming_mistake(thresholds: Any) -> None:
    with pytest.raises(ValueError, match="rising"):
        metrics.IouSweep(thresholds)


def test_an_empty_sweep_has_no_oracle_and_a_map_with_nan_no_place() -> None:
    sweep = metrics.IouSweep([0.0])
    with pytest.raises(ValueError, match="no image"):
        sweep.oracle()
    with pytest.raises(ValueError, match="NaN"):
        sweep.add(np.full((2, 2), np.nan), np.zeros((2, 2), dtype=np.bool_))


# Images


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, 7.0]), st.booleans()), min_size=1, max_size=30))
def test_image_auroc_equals_scikit_learn(images: list[tuple[float, bool]]) -> None:
    scores, labels = [score for score, _ in images], [label for _, label in images]
    if all(labels) or not any(labels):
        assert math.isnan(metrics.auroc(scores, labels))
    else:
        assert metrics.auroc(scores, labels) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))


def test_image_auroc_of_perfect_inverted_and_constant_scores() -> None:
    labels = [False, True, True, False]
    assert metrics.auroc([1, 2, 3, 0], labels) == 1.0
    assert metrics.auroc([3, 1, 0, 2], labels) == 0.0
    assert metrics.auroc([5, 5, 5, 5], labels) == 0.5
    for scores in ([1.0, 2.0, 3.0], [1.0, np.nan, 2.0, 3.0]):
        with pytest.raises(ValueError, match="expected"):
            metrics.auroc(scores, labels)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 41), (11, 41), (41, 41), (500, 1000)])
def test_clopper_pearson_equals_scipy(count: int, total: int, confidence: float) -> None:
    expected = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
    low, high = metrics.clopper_pearson(count, total, confidence=confidence)
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)


def test_clopper_pearson_of_nothing_knows_nothing() -> None:
    assert metrics.clopper_pearson(0, 0) == (0.0, 1.0)
    for count, total, confidence in [(-1, 5, 0.9), (6, 5, 0.9), (1, 5, 1.0), (1, 5, 0.0)]:
        with pytest.raises(ValueError, match="expected"):
            metrics.clopper_pearson(count, total, confidence=confidence)


def test_rates_are_counted_per_kind_in_the_order_of_appearance() -> None:
    kinds = ["good", "scratch", "good", "dent", "scratch", "good"]
    rates = metrics.rates_by_kind([True, True, False, False, True, False], kinds)
    assert list(rates) == ["good", "scratch", "dent"]
    assert [(rate.count, rate.total) for rate in rates.values()] == [(1, 3), (2, 2), (0, 1)]
    assert rates["good"].value == pytest.approx(1 / 3)
    assert (rates["good"].low, rates["good"].high) == metrics.clopper_pearson(1, 3)
    assert math.isnan(metrics.rate([]).value)
    with pytest.raises(ValueError, match="kinds"):
        metrics.rates_by_kind([True], kinds)


def test_a_bootstrap_interval_is_near_the_known_one_and_repeats() -> None:
    values = np.random.default_rng(0).normal(size=400)
    strata = np.zeros(400)
    low, high = bootstrap_interval(lambda i: float(values[i].mean()), strata, seed=1)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert (low, high) == bootstrap_interval(lambda i: float(values[i].mean()), strata, seed=1)
    assert (low, high) != bootstrap_interval(lambda i: float(values[i].mean()), strata, seed=2)


def test_a_bootstrap_draws_within_strata() -> None:
    labels = np.array([True] * 3 + [False] * 7)
    counts = {3}
    bootstrap_interval(lambda i: counts.add(int(labels[i].sum())) or 0.0, labels, seed=0, n_resamples=50)  # type: ignore[func-returns-value]
    assert counts == {3}


def test_a_bootstrap_without_values_is_nan() -> None:
    assert all(map(math.isnan, bootstrap_interval(lambda _: float("nan"), [0, 1], seed=0, n_resamples=5)))
    assert all(map(math.isnan, bootstrap_interval(lambda _: 1.0, [], seed=0)))


def test_a_bootstrap_leaves_out_the_resamples_that_have_no_value() -> None:
    values = np.array([float("nan"), 2.0, 2.0])
    assert bootstrap_interval(lambda i: float(values[i].max()), np.zeros(3), seed=0) == (2.0, 2.0)


def test_pixels_that_are_not_counted_are_as_if_they_were_not_there():
    rng = np.random.default_rng(0)
    score, mask = rng.random((20, 30)), np.zeros((20, 30), dtype=np.bool_)
    mask[5:9, 3:12] = mask[12:16, 20:29] = True
    counted = np.zeros_like(mask)
    counted[:, :15] = True
    part, cropped = metrics.PixelScores(resampling=True), metrics.PixelScores(resampling=True)
    part.add(score, mask, counted=counted)
    cropped.add(score[:, :15], mask[:, :15])
    for curve, expected in (
        (part.curve(), cropped.curve()), (part.curves_of_images()([0]), cropped.curves_of_images()([0])),
    ):  # fmt: skip
        assert (curve.auroc, curve.aupro(), curve.average_precision) == (
            expected.auroc, expected.aupro(), expected.average_precision,
        )  # fmt: skip
