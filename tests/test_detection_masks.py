"""Outlines: masks and maps agree at every threshold, follow U, and do not depend on significance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import log_pfa_map

from uflow_cli.detection.masks import (
    OUTLINE_LEVEL,
    ScaleRegions,
    log_nfa_map,
    mask_below,
    published_log_nfa_map,
    published_mask_below,
    scale_regions,
)
from uflow_cli.detection.nfa import Background, a_contrario, log_n_tests
from uflow_cli.images import drawing, resize_map

BACKGROUND = [Background(20.0), Background(30.0)]
CEILING = 5.0


def bumpy_norms(seed: int) -> list[np.ndarray]:
    """U maps of two scales for two images: noise, and bumps in the second image."""
    rng = np.random.default_rng(seed)
    fine, coarse = rng.chisquare(20, (2, 12, 12)), rng.chisquare(30, (2, 6, 6))
    fine[1, 3:6, 7:10] += 120
    coarse[1, 2:4, 3:5] += 100
    return [fine.astype(np.float32), coarse.astype(np.float32)]


def lone_cell(log_nfa: float, *, peak: float = 100.0, side: int = 9) -> ScaleRegions:
    """A region of one cell in the middle of a flat map of U = 10."""
    norm = np.full((side, side), 10.0, np.float32)
    values, level = np.full((side, side), CEILING), np.full((side, side), np.inf, np.float32)
    middle = (side // 2, side // 2)
    norm[middle], values[middle], level[middle] = peak, log_nfa, peak
    return ScaleRegions(values, level, norm, CEILING)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(6, 60), st.integers(6, 60), st.floats(-20, 4.9))
def test_map_below_any_threshold_is_the_mask(seed, height, width, threshold):
    norms = bumpy_norms(seed)
    result = a_contrario(norms, background=BACKGROUND)
    for index in range(2):
        scales = scale_regions(result, norms, index=index, ceiling=CEILING)
        mask = mask_below(scales, threshold=threshold, size=(height, width))
        values = log_nfa_map(scales, size=(height, width))
        clear = np.abs(values - threshold) > 1e-4  # the map is float32
        assert (mask == (values < threshold))[clear].all()


def test_the_mask_of_a_large_image_is_that_of_its_map(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = bumpy_norms(3)
    scales = scale_regions(a_contrario(norms, background=BACKGROUND), norms, index=1, ceiling=CEILING)
    whole = mask_below(scales, threshold=0.0, size=(90, 70))
    published = published_log_nfa_map(scales, size=(90, 70)) < 0
    monkeypatch.setattr(drawing, "STRIP_PIXELS", 900)
    assert whole.any()
    assert published.any()
    np.testing.assert_array_equal(mask_below(scales, threshold=0.0, size=(90, 70)), whole)
    np.testing.assert_array_equal(published_mask_below(scales, threshold=0.0, size=(90, 70)), published)


def test_cells_carry_the_log_nfa_and_level_of_their_region():
    norms = bumpy_norms(1)
    result = a_contrario(norms, background=BACKGROUND)
    scales = scale_regions(result, norms, index=1, ceiling=CEILING)
    regions = result.regions
    for i in np.flatnonzero(regions.image == 1):
        cells = result.labels[regions.scale[i]][1] == regions.label[i]
        scale = scales[regions.scale[i]]
        assert np.allclose(scale.log_nfa[cells], min(regions.log_nfa[i], CEILING))
        assert np.allclose(scale.level[cells], regions.level[i])
        assert scale.squared_norm[cells].min() == pytest.approx(regions.level[i])
    outside = result.labels[0][1] < 0
    assert np.isinf(scales[0].level[outside]).all()
    assert (scales[0].log_nfa[outside] == CEILING).all()


def test_outline_of_a_lone_cell_does_not_depend_on_its_significance():
    masks = [mask_below([lone_cell(log_nfa)], threshold=0.0, size=(180, 180)) for log_nfa in (-0.1, -20.0, -4500.0)]
    assert masks[0].any()
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    published = [published_log_nfa_map([lone_cell(v)], size=(180, 180)) < 0 for v in (-0.1, -20.0, -4500.0)]
    assert published[0].sum() < published[1].sum() < published[2].sum()


def test_outline_is_where_u_between_the_cells_reaches_the_level():
    scale = lone_cell(-3.0, peak=19.0)  # U falls linearly from 19 to 10 over one cell: 17.1 is reached at 19 / 90 of it
    mask = mask_below([scale], threshold=0.0, size=(9 * 30, 9 * 30))
    row = mask[4 * 30 + 15]
    assert row.sum() == pytest.approx(2 * 30 * (19 - OUTLINE_LEVEL * 19) / 9, abs=1.5)
    assert mask[:, 4 * 30 + 15].sum() == pytest.approx(row.sum(), abs=1)


def test_nothing_is_drawn_further_than_a_cell_from_the_region():
    scale = lone_cell(-3.0)
    high = replace(scale, squared_norm=np.full_like(scale.squared_norm, 1000.0))  # all of U is above the level
    mask = mask_below([high], threshold=0.0, size=(90, 90))
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (35, 54, 35, 54)
    np.testing.assert_array_equal(log_nfa_map([high], size=(90, 90)) < 0, mask)


def test_without_regions_the_map_is_the_ceiling_and_the_mask_empty():
    flat = [np.full((1, 4, 4), 1.0, np.float32), np.full((1, 2, 2), 1.0, np.float32)]
    scales = scale_regions(a_contrario(flat, background=BACKGROUND), flat, index=0, ceiling=CEILING)
    assert (log_nfa_map(scales, size=(8, 8)) == np.float32(CEILING)).all()
    assert not mask_below(scales, threshold=0.0, size=(8, 8)).any()


def test_published_map_is_up_sampled_log_pfa_beside_a_constant_number_of_tests():
    norms = bumpy_norms(2)
    result = a_contrario(norms, background=BACKGROUND, tests="paper")
    n_tests = log_n_tests([(12, 12), (6, 6)])
    scales = scale_regions(result, norms, index=1, ceiling=n_tests)
    maps = [resize_map(log_pfa_map(result, scale)[1], (48, 48)) for scale in range(2)]
    expected = n_tests + np.minimum(*maps)
    np.testing.assert_allclose(published_log_nfa_map(scales, size=(48, 48)), expected, atol=1e-3)
