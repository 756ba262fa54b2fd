"""The engine against plain references, the laws of probability, and the facts of the method."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import get_args

import mpmath
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats
from skimage.morphology import max_tree as skimage_max_tree

from uflow_cli.detection import nfa
from uflow_cli.detection.nfa import Background

TAILS = get_args(nfa.Tail)
TESTS = get_args(nfa.Tests)

# Few distinct values, many ties; with 4 degrees of freedom they lie on both sides of the mean.
tied_maps = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 9))
backgrounds = st.builds(Background, st.sampled_from([0.5, 2.0, 4.0, 7.3]), st.sampled_from([0.7, 1.0, 1.3]))


def cell_log_tail(background: Background, tail: nfa.Tail, level: float) -> float:
    """log10 of the tail of one cell of U = `level`."""
    k, scale = background.degrees_of_freedom, background.scale
    return float(nfa.chi2_log_tail(level, degrees_of_freedom=k, scale=scale, tail=tail))


def detect(u: np.ndarray, k: float, **options: object) -> nfa.AContrario:
    """One map at one scale."""
    return nfa.a_contrario([u[None]], background=[Background(k)], **options)  # type: ignore[arg-type]


def cells_of_regions(labels: np.ndarray) -> set[frozenset[tuple[int, int]]]:
    """The regions of a label map as sets of cells."""
    return {frozenset(map(tuple, np.argwhere(labels == i).tolist())) for i in range(labels.max() + 1)}


def noise(seed: int, shape: tuple[int, ...], k: float) -> np.ndarray:
    return np.random.default_rng(seed).chisquare(k, shape).astype(np.float32)


# --- Regions equal the literal procedure ------------------------------------------------------------------------------


def assert_equals_oracle(u: np.ndarray, background: Background, tail: nfa.Tail, tests: nfa.Tests) -> None:
    log_tail = partial(cell_log_tail, background, tail)
    expected = oracles.regions(u, log_tail)
    log_pfa, labels = oracles.paint(u.shape, expected, log_tail)

    found = nfa.a_contrario([u[None]], background=[background], tail=tail, tests=tests)

    np.testing.assert_array_equal(found.labels[0][0], labels)
    np.testing.assert_array_equal(oracles.log_pfa_map(found)[0], log_pfa)
    table = found.regions
    assert table.label.tolist() == list(range(len(expected)))
    assert table.level.tolist() == [node.level for node in expected]
    assert table.area.tolist() == [node.area for node in expected]
    assert table.log_pfa.tolist() == [node.area * log_tail(node.level) for node in expected]
    assert table.peak.tolist() == [max(float(u[cell]) for cell in node.cells) for node in expected]
    np.testing.assert_allclose(
        table.total, [sum(float(u[cell]) for cell in node.cells) for node in expected], rtol=1e-14
    )
    if tests == "paper":
        log_n_tests = np.full(len(expected), nfa.log_n_tests([u.shape]))
    else:
        log_n_tests = nfa.log_n_tests_by_size([u.shape], table.area)
    np.testing.assert_array_equal(table.log_nfa, log_n_tests + table.log_pfa)
    for i, node in enumerate(expected):
        cells = np.array(sorted(node.cells))
        assert (table.top[i], table.left[i]) == tuple(cells.min(axis=0))
        assert (table.bottom[i], table.right[i]) == tuple(cells.max(axis=0) + 1)
        np.testing.assert_allclose((table.row[i], table.column[i]), cells.mean(axis=0), rtol=1e-14)


@given(tied_maps, backgrounds, st.sampled_from(TAILS), st.sampled_from(TESTS))
@settings(max_examples=4000, deadline=None)
def test_regions_equal_iterated_prune_and_merge_on_maps_with_ties(
    u: np.ndarray, background: Background, tail: nfa.Tail, tests: nfa.Tests
) -> None:
    assert_equals_oracle(u, background, tail, tests)


@given(st.integers(0, 2**32), st.integers(14, 18), st.integers(14, 18), st.sampled_from(TAILS), st.sampled_from(TESTS))
@settings(max_examples=40, deadline=None)
def test_regions_equal_iterated_prune_and_merge_on_float_maps(
    seed: int, height: int, width: int, tail: nfa.Tail, tests: nfa.Tests
) -> None:
    assert_equals_oracle(noise(seed, (height, width), 8), Background(8), tail, tests)


@given(
    st.integers(0, 2**32),
    st.integers(14, 64),
    st.integers(14, 64),
    st.sampled_from(TAILS),
    st.sampled_from([None, 0, 1]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_regions_equal_a_bottom_up_pass_over_the_tree_of_scikit_image(
    seed: int, height: int, width: int, tail: nfa.Tail, decimals: int | None, smooth: bool
) -> None:
    u = noise(seed, (height, width), 8)
    if smooth:
        u = np.cumsum(np.cumsum(u - 8, axis=0), axis=1)
        u = (u - u.min()) / 8
    if decimals is not None:
        u = u.round(decimals)
    u = np.asarray(u, dtype=np.float32)
    log_tail = partial(cell_log_tail, Background(8), tail)
    expected = sorted(oracles.bottom_up_regions(u, *skimage_max_tree(u, connectivity=1), log_tail))
    table = detect(u, 8, tail=tail).regions
    assert sorted(zip(table.level, table.area, table.log_pfa, strict=True)) == expected
    tree = nfa.max_tree(u)
    assert sorted(oracles.bottom_up_regions(u, tree.parent, tree.order, log_tail)) == expected
    log_pfa = tree.log_pfa(Background(8), tail=tail)
    assert set(table.log_pfa) <= set(log_pfa[tree.canonical])


# --- Max-tree ---------------------------------------------------------------------------------------------------------


def tree_as_components(score: np.ndarray, tree: nfa.MaxTree) -> dict[oracles.Cells, float]:
    """Each node's cells, gathered by walking from every pixel to the root."""
    cells: dict[int, set[tuple[int, int]]] = {}
    for p in range(score.size):
        node = p if tree.canonical[p] else int(tree.parent[p])
        while True:
            cells.setdefault(node, set()).add(divmod(p, score.shape[1]))
            if tree.parent[node] == node:
                break
            node = int(tree.parent[node])
    return {frozenset(members): float(score.flat[node]) for node, members in cells.items()}


@given(tied_maps)
@settings(max_examples=1000, deadline=None)
def test_nodes_are_the_components_of_every_upper_level_set(score: np.ndarray) -> None:
    tree = nfa.max_tree(score)
    assert tree_as_components(score, tree) == oracles.components(score)


@given(tied_maps)
@settings(max_examples=500, deadline=None)
def test_a_parent_comes_first_lies_lower_and_is_larger(score: np.ndarray) -> None:
    tree = nfa.max_tree(score)
    flat = score.ravel()
    rank = np.empty(flat.size, int)
    rank[tree.order] = np.arange(flat.size)
    root = tree.order[0]
    nodes = np.flatnonzero(tree.canonical)
    below = nodes[nodes != root]
    assert tree.parent[root] == root
    assert tree.area[root] == flat.size
    assert (tree.area[tree.parent[below]] > tree.area[below]).all()
    assert (flat[tree.parent[below]] < flat[below]).all()
    assert (tree.level == flat).all()
    others = np.flatnonzero(~tree.canonical)
    assert tree.canonical[tree.parent].all()
    assert (flat[tree.parent[others]] == flat[others]).all()
    assert (tree.parent[others] < others).all()  # canonical: the first pixel of its node's level
    assert (rank[tree.parent[tree.order[1:]]] < np.arange(1, flat.size)).all()
    assert (np.lexsort((np.arange(flat.size), flat)) == tree.order).all()


@given(st.integers(0, 2**32), st.integers(3, 40), st.integers(3, 40), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_areas_and_levels_equal_scikit_image(seed: int, height: int, width: int, decimals: int) -> None:
    score = np.random.default_rng(seed).normal(size=(height, width)).round(decimals).astype(np.float32)
    tree = nfa.max_tree(score)
    parent, order = skimage_max_tree(score, connectivity=1)
    parent, flat = parent.ravel(), score.ravel()
    area = np.ones(flat.size, int)
    for p in order[:0:-1]:
        area[parent[p]] += area[p]
    canonical = np.flatnonzero((flat[parent] != flat) | (np.arange(flat.size) == order[0]))
    ours = np.flatnonzero(tree.canonical)
    assert sorted(zip(flat[canonical], area[canonical], strict=True)) == sorted(
        zip(flat[ours], tree.area[ours], strict=True)
    )


@given(tied_maps)
@settings(max_examples=300, deadline=None)
def test_increasing_maps_leave_the_tree_alone(score: np.ndarray) -> None:
    tree = nfa.max_tree(score)
    for increased in (np.exp(score), 3 * score - 40, np.sqrt(score), -1 / (score + 1)):
        other = nfa.max_tree(increased)
        np.testing.assert_array_equal(tree.parent, other.parent)
        np.testing.assert_array_equal(tree.order, other.order)
        np.testing.assert_array_equal(tree.area, other.area)


def test_infinities_are_levels_like_any_other_and_zeros_are_one_value() -> None:
    tree = nfa.max_tree(np.array([[-np.inf, 1.0, np.inf, 0.0, -0.0]], np.float32))
    assert tree.area.tolist() == [5, 2, 1, 4, 4]
    assert tree.parent.tolist() == [0, 3, 1, 0, 3]


# --- Symmetry ---------------------------------------------------------------------------------------------------------


@given(tied_maps, st.sampled_from(TAILS))
@settings(max_examples=500, deadline=None)
def test_regions_turn_with_the_map(u: np.ndarray, tail: nfa.Tail) -> None:
    plain = detect(u, 4, tail=tail)
    for turn in (np.flipud, np.fliplr, np.transpose):
        turned = detect(np.ascontiguousarray(turn(u)), 4, tail=tail)
        assert cells_of_regions(turned.labels[0][0]) == cells_of_regions(turn(plain.labels[0][0]))
        np.testing.assert_array_equal(oracles.log_pfa_map(turned)[0], turn(oracles.log_pfa_map(plain)[0]))


@given(tied_maps, st.sampled_from(TAILS))
@settings(max_examples=300, deadline=None)
def test_the_unit_of_u_does_not_matter(u: np.ndarray, tail: nfa.Tail) -> None:
    plain = nfa.a_contrario([u[None]], background=[Background(4)], tail=tail)
    rescaled = nfa.a_contrario([u[None] * 0.125], background=[Background(4, scale=0.125)], tail=tail)
    np.testing.assert_array_equal(plain.labels[0], rescaled.labels[0])
    np.testing.assert_array_equal(plain.regions.log_pfa, rescaled.regions.log_pfa)


@given(st.integers(0, 2**32), st.sampled_from([(28, 28), (5, 300), (64, 40)]))
@settings(max_examples=50, deadline=None)
def test_areas_and_boxes_are_those_of_the_label_map(seed: int, shape: tuple[int, int]) -> None:
    found = detect(noise(seed, shape, 3), 3)
    labels, table = found.labels[0][0], found.regions
    np.testing.assert_array_equal(table.area, np.bincount(labels[labels >= 0], minlength=len(table)))
    assert (table.log_pfa < 0).all()
    _, first = np.unique(labels[labels >= 0], return_index=True)
    assert (np.diff(first) > 0).all()  # labels in the order of the regions' first cells
    assert (table.area <= (table.bottom - table.top) * (table.right - table.left)).all()
    assert ((table.top <= table.row) & (table.row <= table.bottom - 1)).all()


# --- Maps one can check by hand ---------------------------------------------------------------------------------------


def two_bumps(second: bool) -> np.ndarray:
    """12x12 map with a gently sloping background below the mean and one or two 2x2 bumps above it."""
    n_channels = 64
    row, column = np.mgrid[:12, :12]
    u = 0.8 * n_channels - 1e-4 * n_channels * np.hypot(row - 2.5, column - 2.5)
    u[2:4, 2:4] = 1.5 * n_channels
    if second:
        u[8:10, 8:10] = 1.6 * n_channels
    return u


@pytest.mark.parametrize(("second", "lowest", "lowest_published"), [(False, -5.3, -46.9), (True, -7.2, -46.9)])
def test_the_clamp_keeps_the_bumps_where_the_published_formula_keeps_the_whole_map(
    second: bool, lowest: float, lowest_published: float
) -> None:
    u = two_bumps(second)
    bumps = np.zeros((12, 12), bool)
    bumps[2:4, 2:4] = True
    bumps[8:10, 8:10] = second
    clamped, published = detect(u, 64), detect(u, 64, tail="published")
    np.testing.assert_array_equal(clamped.labels[0][0] >= 0, bumps)
    assert len(clamped.regions) == 1 + second
    assert clamped.regions.log_pfa.min() == pytest.approx(lowest, abs=0.05)
    assert len(published.regions) == 1
    assert published.regions.area[0] == 144
    assert published.regions.log_pfa[0] == pytest.approx(lowest_published, abs=0.05)


def test_twins_of_equal_log_pfa_are_two_regions() -> None:
    u = np.full((1, 7), 10, np.float32)
    u[0, [1, 5]] = 200
    found = detect(u, 64)
    assert found.regions.area.tolist() == [1, 1]
    assert found.regions.log_pfa[0] == found.regions.log_pfa[1]
    assert found.labels[0][0].tolist() == [[-1, 0, -1, -1, -1, 1, -1]]


def test_a_fork_absorbs_its_children_only_if_it_is_at_least_as_improbable() -> None:
    k = 10.0
    assert detect(np.array([[30, 29, 30]], np.float32), k).regions.area.tolist() == [3]
    assert detect(np.array([[30, 11, 30]], np.float32), k).regions.area.tolist() == [1, 1]


def test_ties_go_to_the_leaf_of_a_chain_and_to_the_fork_of_a_merge() -> None:
    # So far out the logarithm is lost in the level: equal area * level is equal log_pfa, here to the last bit.
    once, twice, thrice = 6.5 * 2.0**80, 13.0 * 2.0**80, 19.5 * 2.0**80
    tails = [float(nfa.chi2_log_tail(u, degrees_of_freedom=2)) for u in (once, twice, thrice)]
    assert (2 * tails[0], 3 * tails[0]) == (tails[1], tails[2])
    assert detect(np.array([[twice, once]], np.float32), 2).regions.area.tolist() == [1]
    assert detect(np.array([[thrice, once, thrice]], np.float32), 2).regions.area.tolist() == [3]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (6, 7)])
@pytest.mark.parametrize(("level", "n_regions"), [(200.0, 1), (64.0, 0), (10.0, 0), (0.0, 0)])
def test_a_constant_map_is_one_region_above_the_mean_and_none_below(
    shape: tuple[int, int], level: float, n_regions: int
) -> None:
    found = detect(np.full(shape, level, np.float32), 64)
    assert len(found.regions) == n_regions
    if n_regions:
        assert found.regions.area[0] == math.prod(shape)
        assert (found.labels[0] == 0).all()


@pytest.mark.parametrize("tail", TAILS)
def test_zeros_and_huge_values_stay_finite(tail: nfa.Tail) -> None:
    u = np.zeros((8, 8), np.float32)
    u[4:, 4:] = np.finfo(np.float32).max
    u[0, 0] = np.finfo(np.float32).smallest_subnormal
    found = detect(u, 4, tail=tail)
    assert np.isfinite(found.regions.log_nfa).all()
    assert np.isfinite(found.regions.log_pfa).all()
    assert found.labels[0][0, 7, 7] >= 0


# --- Number of tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((28, 14), 476.9237108556737),
        ((56, 28, 14), 1908.823190893022),
        ((64, 32, 16), 2493.272003150328),
        ((112, 56, 28), 7636.421621030014),
        ((128,), 9974.216909837652),
    ],
)
def test_log_n_tests_of_known_grids(sides: tuple[int, ...], expected: float) -> None:
    assert nfa.log_n_tests([(side, side) for side in sides]) == pytest.approx(expected, rel=0, abs=1e-9)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_log_n_tests_equals_the_sum_of_eq_9(grids: list[tuple[int, int]]) -> None:
    alpha, beta = mpmath.mpf("0.316915"), mpmath.mpf("4.062570")
    with mpmath.workdps(40):
        total = mpmath.fsum(
            height * width * mpmath.fsum(alpha * beta**r / r for r in range(1, height * width + 1))
            for height, width in grids
        )
        expected = float(mpmath.log10(total))
    assert nfa.log_n_tests(grids) == pytest.approx(expected, rel=1e-13, abs=1e-12)


def test_log_n_tests_by_size_of_known_grids() -> None:
    grids = [(28, 28), (14, 14)]
    by_size = nfa.log_n_tests_by_size(grids, [1, 9])
    expected = [math.log10(980 * 784 * 0.316915 * 4.062570**n / n) for n in (1, 9)]
    np.testing.assert_allclose(by_size, expected, rtol=1e-14)
    assert by_size.round(1).tolist() == [6.0, 9.9]
    assert nfa.log_n_tests_by_size(grids, [[2], [3]]).shape == (2, 1)


def test_all_scales_of_a_batch_share_one_number_of_tests() -> None:
    maps = [noise(1, (2, 28, 28), 16), noise(2, (2, 14, 14), 8)]
    laws = [Background(16), Background(8)]
    table = nfa.a_contrario(maps, background=laws, tests="paper").regions
    np.testing.assert_array_equal(table.log_nfa, 476.92371085567373 + table.log_pfa)
    table = nfa.a_contrario(maps, background=laws).regions
    expected = nfa.log_n_tests_by_size([(28, 28), (14, 14)], table.area) + table.log_pfa
    np.testing.assert_array_equal(table.log_nfa, expected)


# --- Tails ------------------------------------------------------------------------------------------------------------

DEGREES = [0.3, 1.0, 2.0, 7.5, 26.0, 192.0, 816.0, 5000.0]


@pytest.mark.parametrize("k", DEGREES)
@pytest.mark.parametrize("ratio", [1e-6, 0.3, 0.99, 0.9999999, 1.0000001, 1.005, 1.01, 1.02, 1.5, 3.0, 1e6])
def test_chernoff_is_its_formula_above_the_mean_and_published_everywhere(k: float, ratio: float) -> None:
    x = k * ratio
    with mpmath.workdps(60):
        t = mpmath.mpf(x) / mpmath.mpf(k)
        expected = float(-mpmath.mpf(k) / 2 * (t - 1 - mpmath.log(t)) / mpmath.log(10))
    published = float(nfa.chi2_log_tail(x, degrees_of_freedom=k, tail="published"))
    clamped = float(nfa.chi2_log_tail(x, degrees_of_freedom=k, tail="chernoff"))
    assert published == pytest.approx(expected, rel=1e-13)
    assert clamped == (published if x > k else 0.0)


@pytest.mark.parametrize("tail", TAILS)
def test_the_tail_of_a_scaled_law_is_the_tail_of_the_unscaled_quotient(tail: nfa.Tail) -> None:
    x = np.linspace(0, 40, 100)
    scaled = nfa.chi2_log_tail(x * 0.7, degrees_of_freedom=7.3, scale=0.7, tail=tail)
    np.testing.assert_allclose(scaled, nfa.chi2_log_tail(x, degrees_of_freedom=7.3, tail=tail), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("k", DEGREES)
def test_chernoff_bounds_the_tail_and_falls(k: float) -> None:
    x = np.concatenate([np.linspace(0, 3 * k, 2001), k * np.geomspace(3, 1e4, 100)])
    exact = stats.chi2.logsf(x, k) / math.log(10)
    bound = nfa.chi2_log_tail(x, degrees_of_freedom=k)
    assert (bound >= exact).all()
    assert (np.diff(bound) <= 0).all()
    assert exact[0] == bound[0] == 0


@pytest.mark.parametrize("k", DEGREES)
@pytest.mark.parametrize("ratio", [1.0, 1.001, 1.1, 1.5, 3.0, 50.0])
def test_chernoff_bounds_the_tail_where_scipy_underflows(k: float, ratio: float) -> None:
    with mpmath.workdps(60):
        tail = mpmath.gammainc(mpmath.mpf(k) / 2, mpmath.mpf(k * ratio) / 2, regularized=True)
        exact = float(mpmath.log10(tail))
    assert float(nfa.chi2_log_tail(k * ratio, degrees_of_freedom=k)) >= exact


# --- The definition: at most epsilon false detections per good image --------------------------------------------------


@pytest.fixture(scope="module")
def good_images() -> list[np.ndarray]:
    """U of 3000 good images under an ideal model, at the paper's grids and channels."""
    return [noise(7, (3000, 28, 28), 816), noise(8, (3000, 14, 14), 192)]


@pytest.mark.parametrize("tests", TESTS)
def test_good_images_have_at_most_epsilon_detections(good_images: list[np.ndarray], tests: nfa.Tests) -> None:
    table = nfa.a_contrario(good_images, background=[Background(816), Background(192)], tests=tests).regions
    for log_epsilon in (-2, -1, 0, 1, 2, 3):
        per_image = (table.log_nfa < log_epsilon).sum() / 3000
        assert per_image <= 10.0**log_epsilon, (log_epsilon, per_image)
    if tests == "by-size":  # slack, but not idle
        assert (table.log_nfa < 3).any()


def test_the_published_number_of_tests_leaves_hundreds_of_decades(good_images: list[np.ndarray]) -> None:
    table = nfa.a_contrario(good_images, background=[Background(816), Background(192)], tests="paper").regions
    assert table.log_nfa.min() > 465


@pytest.mark.parametrize(("scale", "expected"), [(0, [1.54, 0.130, 0.0135]), (1, [0.342, 0.025, 0.0025])])
def test_regions_of_ideal_noise_are_as_many_as_measured(
    good_images: list[np.ndarray], scale: int, expected: list[float]
) -> None:
    k = (816, 192)[scale]
    table = nfa.a_contrario([good_images[scale]], background=[Background(k)], tail="published").regions
    counts = [(table.log_pfa < -decades).sum() for decades in (2, 3, 4)]
    for count, rate in zip(counts, expected, strict=True):
        assert abs(count - 3000 * rate) < 5 * math.sqrt(3000 * rate)
    if scale == 0:
        assert len(table) / 3000 == pytest.approx(154, abs=2)
        assert table.area.mean() == pytest.approx(1.35, abs=0.02)


def test_a_planted_blob_is_found() -> None:
    u = noise(3, (28, 28), 816)
    u[10:14, 5:9] *= 1.5
    found = detect(u, 816)
    table = found.regions.select(found.regions.log_nfa < 0)
    assert len(table) == 1
    assert (table.top[0], table.left[0], table.bottom[0], table.right[0]) == (10, 5, 14, 9)
    assert (table.row[0], table.column[0]) == pytest.approx((11.5, 6.5), abs=0.5)
    assert table.area[0] >= 13


# --- Batches, threads, tables -----------------------------------------------------------------------------------------


def same_bits(a: nfa.AContrario, b: nfa.AContrario) -> bool:
    columns = nfa.Regions.__dataclass_fields__
    return all(getattr(a.regions, c).tobytes() == getattr(b.regions, c).tobytes() for c in columns) and all(
        x.tobytes() == y.tobytes() for x, y in zip(a.labels, b.labels, strict=True)
    )


@pytest.mark.parametrize("tail", TAILS)
def test_one_thread_gives_the_same_bits_as_many(tail: nfa.Tail) -> None:
    maps = [noise(1, (9, 100, 90), 6), noise(2, (9, 50, 45), 12), noise(3, (9, 25, 23), 24)]
    run = partial(nfa.a_contrario, maps, background=[Background(6), Background(12), Background(24)], tail=tail)
    alone = run(n_threads=1)
    for n_threads in (0, 2, 3, 16):
        assert same_bits(alone, run(n_threads=n_threads))


def test_rows_are_ordered_by_image_scale_and_label_and_a_batch_is_its_images() -> None:
    maps = [noise(1, (4, 20, 21), 6), noise(2, (4, 10, 11), 12)]
    laws = [Background(6), Background(12)]
    batch = nfa.a_contrario(maps, background=laws)
    key = np.stack([batch.regions.label, batch.regions.scale, batch.regions.image])
    assert (np.lexsort(key) == np.arange(len(batch.regions))).all()
    for image in range(4):
        alone = nfa.a_contrario([u[image : image + 1] for u in maps], background=laws)
        rows = batch.regions.select(batch.regions.image == image)
        np.testing.assert_array_equal(rows.log_nfa, alone.regions.log_nfa)
        for s in range(2):
            np.testing.assert_array_equal(batch.labels[s][image], alone.labels[s][0])


def test_select_takes_masks_indices_and_slices() -> None:
    table = detect(noise(5, (20, 20), 6), 6).regions
    assert len(table.select(table.area > 1)) == (table.area > 1).sum()
    assert table.select([2, 0]).label.tolist() == [2, 0]
    assert table.select(slice(3)).label.tolist() == [0, 1, 2]
    assert len(table.select([])) == 0
    assert len(table.select(np.zeros(len(table), bool))) == 0


# --- Evidence of several sources --------------------------------------------------------------------------------------

sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)


@given(sizes, st.integers(0, 2**32), st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=4, max_size=4))
@settings(max_examples=150, deadline=None)
def test_evidence_equals_its_formula_up_sampled_by_numpy(
    shapes: list[tuple[int, int]], seed: int, weights: list[float]
) -> None:
    laws = [Background(k, scale) for k, scale in ((4.0, 1.0), (7.3, 0.7), (26.0, 1.3), (2.0, 5.0))][: len(shapes)]
    maps = [noise(seed + s, (2, *shape), 6) * 2 for s, shape in enumerate(shapes)]
    weights = weights[: len(shapes)]
    found = nfa.fuse_evidence(maps, background=laws, weights=weights)
    means = [(law.degrees_of_freedom, law.degrees_of_freedom * law.scale) for law in laws]
    for image in range(2):
        expected = oracles.evidence([u[image] for u in maps], means, weights)
        np.testing.assert_allclose(found[image], expected, rtol=2e-6, atol=1e-7)


@given(tied_maps)
@settings(max_examples=100, deadline=None)
def test_evidence_of_one_source_has_the_regions_of_its_map_above_the_mean(u: np.ndarray) -> None:
    evidence = nfa.fuse_evidence([u[None]], background=[Background(4)])[0]
    assert ((evidence > 0) == (u > 4)).all()
    clamped, increased = nfa.max_tree(np.maximum(u, 4)), nfa.max_tree(evidence)
    np.testing.assert_array_equal(clamped.parent, increased.parent)


def test_regions_of_fused_evidence_equal_the_literal_procedure() -> None:
    maps = [noise(1, (1, 16, 16), 6), noise(2, (1, 8, 8), 12), noise(3, (1, 4, 4), 24)]
    evidence = nfa.fuse_evidence(maps, background=[Background(6), Background(12), Background(24)])
    k = float(2 * evidence.mean() ** 2 / evidence.var())
    law = Background(k, float(evidence.mean() / k))
    assert_equals_oracle(evidence[0], law, "chernoff", "by-size")


def test_weights_are_equal_if_not_given_and_no_evidence_is_zero() -> None:
    maps = [noise(1, (3, 16, 16), 6), noise(2, (3, 8, 8), 12)]
    laws = [Background(6), Background(12)]
    plain = nfa.fuse_evidence(maps, background=laws)
    assert plain.tobytes() == nfa.fuse_evidence(maps, background=laws, weights=[2.0, 2.0], n_threads=1).tobytes()
    assert plain.shape == (3, 16, 16)
    assert not nfa.fuse_evidence([np.full((1, 3, 3), 6.0)], background=[Background(6)]).any()


# --- Sixteen million pixels -------------------------------------------------------------------------------------------


def spiral(side: int) -> np.ndarray:
    """A path that winds to the middle, falling all the way: the deepest tree, and the longest region."""
    u = np.full((side, side), 0.5, np.float32)
    for turn in range(0, side // 2, 2):
        ring = np.s_[turn : side - turn]
        u[turn, ring] = u[side - 1 - turn, ring] = 1.0
        u[ring, turn] = u[ring, side - 1 - turn] = 1.0
    return u * np.linspace(2, 1, side * side, dtype=np.float32).reshape(side, side)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "ramp", "spiral", "checkerboard"])
def test_sixteen_million_pixels_need_no_recursion(kind: str) -> None:
    side = 4096
    u = {
        "noise": lambda: noise(1, (side, side), 6),
        "ramp": lambda: np.linspace(0, 20, side * side, dtype=np.float32).reshape(side, side),
        "spiral": lambda: spiral(side) * 6,
        "checkerboard": lambda: (np.indices((side, side), np.uint8).sum(axis=0) % 2 * 10).astype(np.float32),
    }[kind]()
    found = detect(u, 6)
    labels, table = found.labels[0][0], found.regions
    np.testing.assert_array_equal(table.area, np.bincount(labels[labels >= 0], minlength=len(table)))
    assert len(table) == {"ramp": 1, "checkerboard": side * side // 2}.get(kind, len(table))
    middle = np.s_[2000:2064, 2000:2064]  # far from its border, regions of noise do not know the rest of the map
    if kind == "noise":
        inner = detect(np.ascontiguousarray(u[middle]), 6).labels[0][0][16:-16, 16:-16]
        np.testing.assert_array_equal(inner >= 0, labels[middle][16:-16, 16:-16] >= 0)


@pytest.mark.slow
def test_the_tree_of_sixteen_million_pixels_needs_no_recursion() -> None:
    side = 4096
    tree = nfa.max_tree(np.linspace(0, 20, side * side, dtype=np.float32).reshape(side, side))
    assert tree.area[0] == side * side


@pytest.mark.slow
def test_map_of_more_than_two_to_the_31_bytes() -> None:
    """A bump in the last corner of a map whose bytes a 32-bit offset cannot count."""
    side = 23_200
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 12 * 2**30:
        pytest.skip("needs 12 GiB of free memory")
    u = np.zeros((1, side, side), np.float32)
    assert u.nbytes > 2**31
    u[0, -3:-1, -4:-1] = 200.0
    found = nfa.a_contrario([u], background=[Background(64)])
    [row] = range(len(found.regions))
    box = [getattr(found.regions, name)[row] for name in ("top", "left", "bottom", "right", "area")]
    assert box == [side - 3, side - 4, side - 1, side - 1, 6]
    assert found.labels[0][0, -2, -2] == 0
    assert found.labels[0][0, -1, -1] == -1
    assert found.labels[0][0, 0, 0] == -1
