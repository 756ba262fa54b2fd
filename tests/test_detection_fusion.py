"""Fused evidence: one defect is one detection with one outline, lots, whole images, and the promise on noise."""

from dataclasses import replace

import numpy as np
import pytest

from uflow_cli.calibration import Calibration, calibrate
from uflow_cli.calibration.fitting import fit_fusion
from uflow_cli.detection.detector import AREA_EXPONENT, WHOLE_SHARE, Detector
from uflow_cli.detection.evidence import image_levels
from uflow_cli.detection.masks import CONTRAST
from uflow_cli.detection.nfa import Background, chi2_log_tail, fuse_evidence
from uflow_cli.images import resize_map
from uflow_cli.schema import from_dict, to_dict

CHANNELS = (20, 30, 25)  # two scales of a flow, one witness beside it
SIZE = (120, 120)


def norms(n: int, *, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    sides = (12, 6, 6)
    return [rng.chisquare(c, (n, s, s)).astype(np.float32) for c, s in zip(CHANNELS, sides, strict=True)]


def calibrate_noise(*, log_lot: float = 0.0, n: int = 60) -> Calibration:
    return calibrate(
        norms(n, seed=1), n_channels=CHANNELS, tests="by-size", reach=(2, 2), is_fused=True, log_lot=log_lot
    )


def detector(*, log_lot: float = 0.0, n: int = 60) -> Detector:
    calibration = calibrate_noise(log_lot=log_lot, n=n)
    return Detector(
        calibration.background, "by-size", (2, 2), calibration.curves, fusion=calibration.fusion,
        log_lot=calibration.log_lot,
    )  # fmt: skip


def with_bump(at: tuple[int, int], *, seed: int = 5, height: float = 200.0) -> list[np.ndarray]:
    """One image with a defect of 4 x 4 fine cells at `at`."""
    fine, coarse, other = norms(1, seed=seed)
    fine[0, at[0] : at[0] + 4, at[1] : at[1] + 4] += height
    for u in (coarse, other):
        u[0, at[0] // 2 : at[0] // 2 + 2, at[1] // 2 : at[1] // 2 + 2] += height
    return [fine, coarse, other]


def test_one_defect_is_one_detection_with_its_outline():
    findings = detector().find(with_bump((4, 6)))
    [found] = [d for d in findings.detections(0, threshold=-1.0, size=SIZE) if not d.is_whole_image]
    mask = findings.mask(0, threshold=-1.0, size=SIZE)
    truth = np.zeros(SIZE, dtype=np.bool_)
    truth[40:80, 60:100] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6
    assert found.area == mask.sum()
    rows, columns = np.nonzero(mask)
    assert found.bounding_box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert found.centroid == pytest.approx((80, 60), abs=6)


def test_two_defects_are_two_detections():
    maps = [np.maximum(a, b) for a, b in zip(with_bump((0, 0)), with_bump((8, 8)), strict=True)]
    found = detector().find(maps).detections(0, threshold=-1.0, size=SIZE)
    assert len([d for d in found if not d.is_whole_image]) == 2


def test_regions_of_one_outline_are_parts_of_the_most_significant():
    maps = with_bump((4, 4))
    maps[0][0, 6] *= 0.8  # a dip that parts the bump into two regions of the tree
    findings = detector().find(maps)
    found = [d for d in findings.detections(0, threshold=2.0, size=SIZE) if d.parts]
    for detection in found:
        assert len(detection.parts) > 1
        assert detection.log_nfa == min(part.log_nfa for part in detection.parts)
    detections = findings.detections(0, threshold=2.0, size=SIZE)
    n_regions = sum(len(d.parts) or 1 for d in detections)
    assert n_regions == int((findings.regions.log_nfa < 2.0).sum())


@pytest.mark.parametrize("threshold", [-3.0, -1.0, 0.0, 1.5])
def test_the_mask_is_what_the_map_says_at_every_threshold(threshold):
    findings = detector().find(with_bump((4, 6)))
    mask = findings.mask(0, threshold=threshold, size=SIZE)
    np.testing.assert_array_equal(findings.log_nfa_map(0, size=SIZE) < threshold, mask)


def test_large_images_are_drawn_smaller_and_enlarged():
    findings = detector().find(with_bump((4, 6)))
    small, large = (findings.mask(0, threshold=-1.0, size=size) for size in (SIZE, (2400, 2400)))
    assert large.shape == (2400, 2400)
    assert large.mean() == pytest.approx(small.mean(), rel=0.1)


def test_images_smaller_than_the_grid_have_masks_too():
    findings = detector().find(with_bump((4, 6)))
    assert findings.mask(0, threshold=-1.0, size=(5, 5)).any()


def test_an_image_strange_everywhere_is_detected_as_a_whole():
    maps = [1.25 * u for u in norms(1, seed=9)]
    whole = [d for d in detector().find(maps).detections(0, threshold=-1.0, size=SIZE) if d.is_whole_image]
    assert len(whole) == 1
    assert whole[0].bounding_box == (0, 0, 120, 120)


def test_what_a_whole_image_says_leaves_out_what_does_not_count():
    maps = norms(3, seed=9)[0]
    shares = np.ones_like(maps)
    shares[:, :, 8:] = 0.0
    for power in (1.0, 3.0):
        inside = np.mean(maps[:, :, :8].astype(np.float64) ** power, axis=(1, 2)) ** (1 / power)
        np.testing.assert_allclose(image_levels(maps * shares, shares, power=power), inside)
        np.testing.assert_allclose(image_levels(maps[:, :, :8], power=power), inside)


def test_the_score_of_an_image_lies_between_that_of_its_mean_and_of_its_maximum():
    findings = detector().find([np.concatenate(pair) for pair in zip(norms(1, seed=9), with_bump((4, 6)), strict=True)])
    evidence = findings.evidence[0].astype(np.float64)
    lowest, highest = (1.0 - np.exp(-0.5 * of) for of in (evidence.mean(axis=(1, 2)), evidence.max(axis=(1, 2))))
    assert np.all((lowest < findings.scores) & (findings.scores < highest))
    assert findings.scores[0] < findings.scores[1]


def test_a_lot_adds_its_logarithm():
    maps, one, hundred = with_bump((4, 6)), detector(), detector(log_lot=2.0)
    np.testing.assert_allclose(hundred.find(maps).regions.log_nfa, one.find(maps).regions.log_nfa + 2.0)
    assert hundred.ceiling([(12, 12)]) == one.ceiling([(12, 12)]) + 2.0


def test_lots_leave_what_is_counted_as_it_is():
    single, lots = (
        calibrate(norms(30, seed=1), n_channels=CHANNELS, tests="by-size", reach=(2, 2), is_fused=True, log_lot=lot)
        for lot in (0.0, 2.0)
    )
    assert replace(lots, log_lot=0.0) == single
    assert lots.false_alarm_images(2.0) == single.false_alarm_images(0.0)
    assert lots.false_detections(1.0) == single.false_detections(-1.0)


@pytest.mark.parametrize(("log_lot", "threshold"), [(0.0, 0.0), (1.0, 0.0)])
def test_the_promise_holds_on_fresh_noise(log_lot, threshold):
    findings = detector(log_lot=log_lot).find(norms(400, seed=77))
    per_image = (findings.regions.log_nfa < threshold).sum() / 400
    promised = 10.0 ** (threshold - log_lot)
    assert 0.3 * promised < per_image < 1.6 * promised


def test_a_small_high_region_outranks_a_wide_faint_one():
    """Neighbouring cells are no independent witnesses: the law of independent ones would have it the other way round."""
    used = detector()
    assert used.fusion is not None
    law = used.fusion.law
    mean = law.degrees_of_freedom * law.scale
    small, wide = (2, 5.0), (100, 2.5)  # cells, times the mean
    tails = chi2_log_tail([small[1] * mean, wide[1] * mean], degrees_of_freedom=law.degrees_of_freedom, scale=law.scale)
    findings = used.find(with_bump((4, 6)))
    regions = findings.regions.select(np.array([0, 0]))
    regions = replace(
        regions, scale=np.zeros(2, np.int32), area=np.array([small[0], wide[0]]),
        peak=np.array([small[1] * mean, wide[1] * mean]), log_pfa=np.array([small[0], wide[0]]) * tails,
    )  # fmt: skip
    ranks = used.ranked(regions).log_nfa
    np.testing.assert_allclose(ranks, np.array([small[0], wide[0]]) ** AREA_EXPONENT * tails)
    assert ranks[0] < ranks[1]
    assert regions.log_pfa[0] > regions.log_pfa[1]


def test_whole_images_may_have_their_share_of_the_false_alarms():
    even = detector()
    assert even.allowances == (1 - WHOLE_SHARE, WHOLE_SHARE)
    assert even.fusion is not None
    rare = replace(even, fusion=replace(even.fusion, whole_share=0.5 * WHOLE_SHARE))
    maps = norms(30, seed=9)
    before, after = even.find(maps).regions, rare.find(maps).regions
    whole = before.scale == 1
    assert whole.any()
    np.testing.assert_allclose(after.log_nfa[whole], before.log_nfa[whole] + np.log10(2))
    assert (after.log_nfa[~whole] < before.log_nfa[~whole]).all()


def test_weights_share_between_flow_and_other_witnesses():
    maps = norms(10, seed=1)
    laws = [Background(float(c)) for c in CHANNELS]
    both = fit_fusion(maps, laws, n_flow=2, flow_share=0.6).weights
    assert both == pytest.approx((0.3, 0.3, 0.4))
    assert fit_fusion(maps[:2], laws[:2], n_flow=2, flow_share=0.6).weights == (0.5, 0.5)


@pytest.mark.parametrize(
    ("n_flow", "n_others", "expected"),
    [
        (4, 2, (0.15, 0.15, 0.05, 0.05, 0.36, 0.24)),
        (3, 2, (0.15, 0.15, 0.1, 0.36, 0.24)),
        (1, 1, (1 / 3, 2 / 3)),
        (3, 0, (0.375, 0.375, 0.25)),
    ],
)
def test_the_map_rests_on_the_fine_scales(n_flow, n_others, expected):
    maps = [np.random.default_rng(s).chisquare(8, (5, 4, 4)).astype(np.float32) for s in range(n_flow + n_others)]
    laws = [Background(8.0)] * len(maps)
    assert fit_fusion(maps, laws, n_flow=n_flow, flow_share=0.7).map_weights == pytest.approx(expected)


def test_what_a_source_without_weight_in_the_map_says_moves_no_outline():
    used = detector()
    assert used.fusion is not None
    fine_alone = replace(used, fusion=replace(used.fusion, map_weights=(1.0, 0.0, 0.0)))
    plain, spread = with_bump((4, 6)), with_bump((4, 6))
    spread[1][0, 2:4, 3:5] += 400.0  # stranger still, in a coarse source alone
    masks = [fine_alone.find(maps).mask(0, threshold=-1.0, size=SIZE) for maps in (plain, spread)]
    np.testing.assert_array_equal(*masks)
    assert masks[0].any()
    assert (used.find(plain).mask(0, threshold=-1.0, size=SIZE) != masks[0]).any()


def test_a_run_without_weights_of_the_map_outlines_the_evidence_as_before():
    used = detector()
    assert used.fusion is not None
    law = used.fusion.law
    before = replace(used, fusion=replace(used.fusion, map_weights=(), map_mean=0.0))
    findings = before.find(with_bump((4, 6)))
    evidence = findings.evidence[0][0]
    mean = law.degrees_of_freedom * law.scale
    inside = resize_map(evidence, SIZE) >= mean + CONTRAST * (evidence.max() - mean)
    differ = findings.mask(0, threshold=-1.0, size=SIZE) != inside
    assert np.count_nonzero(differ) <= 1  # on the very contour the last bit decides
    assert inside.any()
    record = to_dict(calibrate_noise())
    for name in ("map_weights", "map_mean", "image_power"):
        del record["fusion"][name]
    old = from_dict(Calibration, record).fusion
    assert old is not None
    assert (old.map_weights, old.image_power) == ((), 1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("map_weights", (0.5, 0.5)), ("map_weights", (0.0, 0.0, 0.0)), ("map_weights", (1.0, -0.5, 0.5)),
        ("map_mean", float("nan")), ("image_power", 0.0), ("image_power", float("inf")),
    ],
)  # fmt: skip
def test_a_damaged_map_is_refused(field, value):
    fusion = calibrate_noise().fusion
    assert fusion is not None
    with pytest.raises(ValueError, match=r"weights|out of range"):
        replace(fusion, **{field: value})


def test_the_mean_of_the_map_is_that_of_good_images():
    calibration = calibrate_noise()
    assert calibration.fusion is not None
    shown = detector().localised(norms(60, seed=1))
    assert calibration.fusion.map_mean == pytest.approx(float(shown.mean()))


@pytest.mark.parametrize("map_weights", [(), (0.5, 0.2, 0.3)])
def test_halved_halos_lie_between_all_and_none(map_weights):
    maps, fused = with_bump((4, 6)), detector()
    assert fused.fusion is not None
    fused = replace(fused, fusion=replace(fused.fusion, map_weights=map_weights))
    whole = fuse_evidence(maps, background=fused.background, weights=map_weights or fused.fusion.weights)
    shown = fused.localised(maps)
    assert np.all(shown <= whole + 1e-6)
    assert np.all(shown >= 0.5 * whole - 1e-6)
    assert (shown < whole - 1e-3).any()
