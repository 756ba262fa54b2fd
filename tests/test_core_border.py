"""The border between Python and the native core: arrays, errors, threads."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from uflow_cli import _core  # noqa: TID251 (the border itself is under test)
from uflow_cli.detection import nfa
from uflow_cli.detection.nfa import Background

OPTIONS = {"degrees_of_freedom": [4.0], "scales": [1.0], "tests": "paper", "tail": "chernoff", "n_threads": 1}
GOOD = np.ones((1, 3, 4), np.float32)
N_EXAMPLES = int(os.environ.get("UFLOW_EXAMPLES", "80"))
TYPES = ("<f4", ">f4", "f2", "<f8", ">f8", "i1", "u1", "<i4", ">i8", "?", "c8", "O", "U3", "M8[s]")
LAYOUTS = {
    "plain": lambda a: a,
    "of columns": np.asfortranarray,
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1] if a.ndim else a,
    "with gaps": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "spread": lambda a: np.broadcast_to(a[:1], a.shape) if a.ndim and a.shape[0] else a,
    "misaligned": lambda a: misaligned(a),
}
NUMBERS = st.one_of(
    st.floats(0, 64, width=16),
    st.sampled_from([0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 6e4, 1e-7]),
    st.integers(0, 3),
)


def misaligned(array: np.ndarray) -> np.ndarray:
    """`array` at an odd address, where its type allows that."""
    if array.dtype.hasobject:
        return array
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    result = raw.view(array.dtype).reshape(array.shape) if array.nbytes else array
    result[...] = array
    return result


@st.composite
def odd_arrays(draw: st.DrawFn, *, ndim: int) -> np.ndarray:
    """Arrays of any type and layout, most of `ndim` axes, with any values; some may not be written to."""
    axes = draw(st.sampled_from([ndim] * 6 + [0, 1, 2, 3, 4]))
    shape = draw(array_shapes(min_dims=axes, max_dims=axes, min_side=0, max_side=4) if axes else st.just(()))
    kind = np.dtype(draw(st.sampled_from(("<f4",) * 10 + TYPES)))
    values = draw(arrays(np.float64, shape, elements=NUMBERS, fill=st.just(1.0)))
    with np.errstate(all="ignore"):
        array = np.nan_to_num(values).astype("i8").astype(kind) if kind.kind in "iuM" else values.astype(kind)
    array = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](np.asarray(array))
    array.flags.writeable = array.flags.writeable and draw(st.booleans())
    return array


def same(one: object, other: object) -> bool:
    """Whether two results of the core are the same to the bit."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return len(one) == len(other) and all(map(same, one, other))


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(odd_arrays(ndim=3), odd_arrays(ndim=2))
def test_any_array_is_computed_on_as_a_plain_copy_of_it_or_refused(u: np.ndarray, score: np.ndarray) -> None:
    def fused(a: np.ndarray) -> object:
        return _core.fuse_evidence([a], [4.0], [1.0], [1.0], n_threads=1)

    before = u.tobytes(), score.tobytes()
    for call, array in ((core, u), (fused, u), (_core.max_tree, score)):
        try:
            found = call(array)
        except (TypeError, ValueError) as error:
            assert str(error)  # noqa: PT017 - not every array is refused
            continue
        assert array.dtype == np.float32
        assert array.dtype.isnative
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert same(found, call(array.copy()))
    assert before == (u.tobytes(), score.tobytes())


@settings(max_examples=N_EXAMPLES, deadline=None)
@given(odd_arrays(ndim=3))
def test_the_friendly_layer_takes_any_numbers_however_they_lie(u: np.ndarray) -> None:
    def found(array: np.ndarray) -> object:
        result = nfa.a_contrario([array], background=[Background(4)], n_threads=1)
        return [
            *result.labels,
            *(getattr(result.regions, name) for name in ("image", "log_pfa", "log_nfa", "area", "row")),
        ]

    with np.errstate(all="ignore"):
        try:
            plain = np.array(u.tolist(), np.float32).reshape(u.shape)
        except (TypeError, ValueError):
            plain = None
        is_sound = plain is not None and u.ndim == 3 and u.size and bool(np.all((plain >= 0) & (plain < np.inf)))
        if is_sound and u.dtype.kind in "fiub":
            assert same(found(u), found(plain))
        elif u.dtype.kind in "fiub":
            with pytest.raises(ValueError, match="squared_norms"):
                found(u)


def core(u: object, **changes: object) -> object:
    return _core.find_regions([u], **{**OPTIONS, **changes})  # type: ignore[arg-type, list-item]


@pytest.mark.parametrize(
    "u",
    [
        GOOD.astype(np.float64),
        GOOD.astype(np.int32),
        GOOD.astype(">f4"),
        GOOD[:, :, ::2],
        np.asfortranarray(np.ones((2, 3, 4), np.float32)),
        GOOD.tolist(),
        None,
    ],
    ids=["float64", "int32", "big-endian", "strided", "fortran", "list", "none"],
)
def test_the_core_copies_nothing_so_other_arrays_are_type_errors(u: object) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        core(u)
    if isinstance(u, np.ndarray):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            _core.max_tree(u[0])
        with pytest.raises(TypeError, match="incompatible function arguments"):
            _core.fuse_evidence([u], [4.0], [1.0], [1.0], n_threads=1)


@pytest.mark.parametrize(
    ("u", "changes", "message"),
    [
        (GOOD[0], {}, r"a map of squared norms is \(images, height, width\)"),
        (GOOD[None], {}, r"a map of squared norms is \(images, height, width\)"),
        (np.ones((1, 0, 4), np.float32), {}, "a map needs at least one pixel"),
        (np.full((1, 2, 2), np.nan, np.float32), {}, "values must be finite and not negative"),
        (np.full((1, 2, 2), np.inf, np.float32), {}, "values must be finite and not negative"),
        (np.full((1, 2, 2), -1, np.float32), {}, "values must be finite and not negative"),
        (GOOD, {"tests": "Paper"}, "tests must be paper or by-size, not Paper"),
        (GOOD, {"tail": "chi2"}, "tail must be chernoff or published, not chi2"),
        (GOOD, {"scales": []}, "every scale needs its degrees of freedom and its scale"),
        (GOOD, {"scales": [0.0]}, "degrees of freedom and scale must be positive and finite"),
        (GOOD, {"degrees_of_freedom": [np.inf]}, "degrees of freedom and scale must be positive and finite"),
        (GOOD, {"degrees_of_freedom": [1e-320]}, "degrees of freedom or scale are too extreme"),
    ],
)
def test_the_core_checks_what_it_needs(u: np.ndarray, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        core(u, **changes)


def test_the_core_takes_no_scales_for_an_error() -> None:
    with pytest.raises(ValueError, match=r"^the number of tests needs at least one grid$"):
        _core.find_regions([], [], [], tests="paper", tail="chernoff", n_threads=1)


def test_the_core_refuses_images_that_not_all_scales_have() -> None:
    laws = {"degrees_of_freedom": [4.0, 4.0], "scales": [1.0, 1.0], "tests": "paper", "tail": "chernoff"}
    with pytest.raises(ValueError, match=r"^all scales need the same images$"):
        _core.find_regions([GOOD, np.ones((2, 3, 4), np.float32)], **laws, n_threads=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("maps", "changes", "message"),
    [
        ([], {}, "evidence needs at least one source"),
        ([GOOD[0]], {}, r"a map of squared norms is \(images, height, width\)"),
        ([np.ones((1, 0, 4), np.float32)], {}, "a map needs at least one pixel"),
        ([GOOD * np.float32(np.nan)], {}, "values must be finite and not negative"),
        ([GOOD, np.ones((2, 3, 4), np.float32)], {}, "all sources need the same images"),
        ([GOOD], {"weights": []}, "every source needs its degrees of freedom, its scale and its weight"),
        ([GOOD], {"weights": [-1.0]}, "weights must be finite and not negative"),
        ([GOOD], {"weights": [0.0]}, "weights need a positive, finite sum"),
        ([GOOD], {"scales": [0.0]}, "degrees of freedom and scale must be positive and finite"),
    ],
)
def test_the_core_checks_sources_of_evidence(maps: list[np.ndarray], changes: dict[str, object], message: str) -> None:
    n = len(maps)
    options = {"degrees_of_freedom": [4.0] * n, "scales": [1.0] * n, "weights": [1.0] * n, "n_threads": 1, **changes}
    with pytest.raises(ValueError, match=f"^{message}$"):
        _core.fuse_evidence(maps, **options)  # type: ignore[arg-type]


def test_wrong_sources_of_evidence_are_told_apart() -> None:
    with pytest.raises(ValueError, match="1 sources of evidence, but 2 weights"):
        nfa.fuse_evidence([GOOD], background=[Background(4)], weights=[1, 1])
    with pytest.raises(ValueError, match=r"squared_norms\[1\] must be finite and not negative, but spans nan"):
        nfa.fuse_evidence([GOOD, GOOD * np.nan], background=[Background(4)] * 2)
    with pytest.raises(ValueError, match="n_threads must be 0"):
        nfa.fuse_evidence([GOOD], background=[Background(4)], n_threads=-1)


@pytest.mark.parametrize(
    ("maps", "background", "message"),
    [
        ([], [], "squared_norms is empty"),
        ([GOOD[0]], [Background(4)], r"squared_norms\[0\] must be \(images, height, width\), but has shape \(3, 4\)"),
        ([GOOD, np.ones((1, 0, 4))], [Background(4)] * 2, r"squared_norms\[1\] is empty: shape \(1, 0, 4\)"),
        ([GOOD], [Background(4)] * 2, "1 scales of squared_norms, but 2 backgrounds"),
        ([GOOD, np.ones((2, 2, 2))], [Background(4)] * 2, r"all scales need the same images, but there are \[1, 2\]"),
        ([GOOD * np.nan], [Background(4)], r"squared_norms\[0\] must be finite and not negative, but spans nan"),
        ([GOOD * np.inf], [Background(4)], "must be finite and not negative, but spans inf"),
        ([-GOOD], [Background(4)], "must be finite and not negative, but spans -1.0"),
    ],
)
def test_wrong_maps_are_told_apart(maps: list[np.ndarray], background: list[Background], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nfa.a_contrario(maps, background=background)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tests": "eq9"}, "tests must be one of paper, by-size, not 'eq9'"),
        ({"tail": "normal"}, "tail must be one of chernoff, published, not 'normal'"),
        ({"n_threads": -1}, "n_threads must be 0"),
    ],
)
def test_wrong_options_are_told_apart(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nfa.a_contrario([GOOD], background=[Background(4)], **options)  # type: ignore[arg-type]


def test_other_wrong_arguments_are_told_apart() -> None:
    for law in ((0.0, 1.0), (-1.0, 1.0), (np.nan, 1.0), (4.0, 0.0), (4.0, np.inf)):
        with pytest.raises(ValueError, match="of a background must be positive and finite"):
            Background(*law)
    with pytest.raises(ValueError, match="area is at least 1 cell"):
        nfa.log_n_tests_by_size([(2, 2)], [0])
    for grids in ([], [(0, 3)], [(-2, -2)]):
        with pytest.raises(ValueError, match="grids must be"):
            nfa.log_n_tests(grids)
    for x in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="x must be finite and not negative"):
            nfa.chi2_log_tail(x, degrees_of_freedom=3)
    with pytest.raises(ValueError, match=r"^max_tree: the score has a NaN$"):
        nfa.max_tree(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"score must be \(height, width\)"):
        nfa.max_tree(np.ones(4))
    with pytest.raises(ValueError, match="x must be finite and not negative"):
        nfa.max_tree(np.array([[-1.0, 2.0]])).log_pfa(Background(4))


@pytest.mark.parametrize(
    "u",
    [
        GOOD.astype(np.float64),
        np.ones((1, 3, 8))[:, :, ::2],
        np.asfortranarray(GOOD),
        GOOD.astype(np.int64),
        GOOD.tolist(),
    ],
    ids=["float64", "strided", "fortran", "int64", "list"],
)
def test_the_friendly_layer_takes_whatever_can_be_made_float32(u: object) -> None:
    found = nfa.a_contrario([u], background=[Background(0.5)])  # type: ignore[list-item]
    assert found.regions.area.tolist() == [12]


def test_inputs_are_left_alone_and_may_be_read_only() -> None:
    u = np.random.default_rng(0).chisquare(4, (1, 9, 9)).astype(np.float32)
    before = u.copy()
    u.flags.writeable = False
    nfa.a_contrario([u], background=[Background(4)])
    nfa.max_tree(u[0])
    np.testing.assert_array_equal(u, before)


def test_results_have_the_documented_types_and_own_their_memory() -> None:
    found = nfa.a_contrario([GOOD * 9, GOOD * 8], background=[Background(4), Background(4)])
    assert [m.dtype for m in found.labels] == [np.int32, np.int32]
    assert [m.shape for m in found.labels] == [(1, 3, 4)] * 2
    kinds = {name: getattr(found.regions, name).dtype for name in nfa.Regions.__dataclass_fields__}
    assert {name for name, kind in kinds.items() if kind == np.float64} == {
        "level",
        "log_pfa",
        "log_nfa",
        "row",
        "column",
        "peak",
        "total",
    }
    assert {name for name, kind in kinds.items() if kind == np.int64} == {"area"}
    column = found.regions.area
    del found
    assert column.tolist() == [12, 12]
    column[0] = 5  # writeable


LONG = np.random.default_rng(0).chisquare(4, (1, 2000, 2000)).astype(np.float32)


def test_another_thread_keeps_running_during_a_long_call() -> None:
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    with ThreadPoolExecutor(1) as pool:
        ticking = pool.submit(tick)
        start = time.perf_counter()
        _core.find_regions([LONG], **OPTIONS)  # type: ignore[arg-type]
        end = time.perf_counter()
        stop.set()
        ticking.result()
    inside = [t for t in ticks if start < t < end]
    assert len(inside) >= 5
    assert inside[-1] - inside[0] > 0.5 * (end - start)


def test_threads_calling_at_once_agree() -> None:
    maps = [LONG[:, :300, :300].copy(), LONG[:, 300:400, :100].copy()]

    def run(_: int) -> tuple[bytes, bytes]:
        found = nfa.a_contrario(maps, background=[Background(4), Background(3)])
        return found.labels[0].tobytes(), found.regions.log_nfa.tobytes()

    with ThreadPoolExecutor(4) as pool:
        results = set(pool.map(run, range(16)))
    assert len(results) == 1
