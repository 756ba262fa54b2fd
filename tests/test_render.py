"""Pictures: one colour scale for all, nothing hidden, lines that show on any ground."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uflow_cli.images import drawing, resize_map
from uflow_cli.render import fit_mask, heat, outlined, overlay, overlay_in_strips, score_strength, shrunk

NORMAL_SCORE = 1 - np.exp(-0.5)
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.full((*size, 3), colour, dtype=np.uint8)


def spot(size: tuple[int, int] = (64, 64)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    return mask


def luminance(picture: np.ndarray) -> np.ndarray:
    return picture @ np.array([0.2126, 0.7152, 0.0722])


def test_what_is_normal_leaves_the_picture_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    shown = overlay(image, np.full((20, 25), NORMAL_SCORE), np.zeros((40, 50), dtype=bool))
    assert np.array_equal(shown, image)
    assert shown is not image


@given(COLOURS, st.floats(0.0, 0.999))
def test_a_score_looks_the_same_whatever_else_is_in_the_picture(colour: tuple[int, int, int], score: float) -> None:
    nothing, image = np.zeros((8, 8), dtype=bool), flat(colour, (8, 8))
    calm, wild = np.full((8, 8), score), np.full((8, 8), score)
    wild[4:] = 0.999
    assert np.array_equal(overlay(image, calm, nothing)[:4], overlay(image, wild, nothing)[:4])


def test_a_higher_score_is_more_opaque_up_to_one() -> None:
    _, opacity = heat(np.linspace(0.4, 1, 50)[None])
    assert (np.diff(opacity[0]) > 0).all()
    assert opacity[0, 0] == 0
    assert 0.5 < opacity[0, -1] < 0.7  # the picture never vanishes


def test_scales_are_fixed_and_bounded() -> None:
    assert score_strength(np.array([[-1, 0.4, 0.7, 1.0, 9.0, np.nan]])) == pytest.approx(
        np.array([[0, 0, 0.5, 1, 1, 0]]), abs=1e-6
    )


@given(COLOURS, st.sampled_from([64, 200, 333]), st.booleans())
def test_an_outline_shows_on_any_ground(colour: tuple[int, int, int], side: int, dashed: bool) -> None:
    image = flat(colour, (side, side))
    drawn = outlined(image, spot((side, side)), colour=(0, 225, 255), dashed=dashed)
    contrast = np.abs(luminance(drawn) - luminance(image))
    assert contrast.max() > 60
    assert (drawn[: side // 8] == image[: side // 8]).all()
    assert (drawn[3 * side // 8, 3 * side // 8] == image[0, 0]).all()  # inside a region nothing is painted over


def test_lines_are_as_thick_as_the_picture_asks_for() -> None:
    shares = []
    for side in (400, 1600):
        image = flat((128, 128, 128), (side, side))
        drawn = outlined(image, spot((side, side)), colour=(0, 225, 255))
        shares.append((drawn != image).any(axis=2).mean())
    assert shares[0] == pytest.approx(shares[1], rel=0.3)


def test_dashes_let_the_picture_through() -> None:
    image, mask = flat((128, 128, 128), (200, 200)), spot((200, 200))
    full, dashed = (
        (outlined(image, mask, colour=(255, 255, 255), dashed=d) != image).any(axis=2).sum() for d in (False, True)
    )
    assert 0.3 * full < dashed < 0.7 * full


def test_overlay_takes_maps_of_other_sizes_and_changes_no_argument() -> None:
    image, score, mask = flat((90, 90, 90), (120, 80)), np.full((30, 20), 0.9, dtype=np.float32), spot((60, 40))
    copies = image.copy(), score.copy(), mask.copy()
    shown = overlay(image, score, mask, true_mask=spot((12, 8)))
    assert (shown.shape, shown.dtype) == ((120, 80, 3), np.uint8)
    assert all(np.array_equal(a, b) for a, b in zip((image, score, mask), copies, strict=True))


@pytest.mark.parametrize("size", [(25, 25), (400, 400), (17, 230)])
def test_a_thin_part_survives_another_size(size: tuple[int, int]) -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[50:52] = True
    fitted = fit_mask(mask, size)
    assert fitted.shape == size
    assert fitted.any(axis=0).all()
    assert not fitted[: size[0] // 3].any()


def test_shrunk_keeps_the_shape_and_never_enlarges() -> None:
    assert shrunk(flat((1, 2, 3), (300, 100)), 60).shape == (60, 20, 3)
    assert shrunk(flat((1, 2, 3), (2, 1000)), 10).shape == (1, 10, 3)
    small = flat((1, 2, 3), (30, 10))
    assert shrunk(small, 60) is small


@pytest.mark.parametrize("size", [(1, 3), (40, 50), (700, 900)])
def test_an_overlay_made_in_strips_is_that_of_the_whole(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image, score = rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.random((28, 37), dtype=np.float32)
    colour, opacity = heat(resize_map(score, size))
    expected = image + opacity[..., None] * (colour.astype(np.float32) - image)
    shown = overlay(image, score, np.zeros(size, dtype=bool))
    assert np.abs(shown - expected).max() <= 4.0  # the next of the 256 colours, where rounding differs
    assert np.abs(shown - expected).mean() <= 0.6


def test_lines_cross_the_borders_of_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    image, score = flat((90, 90, 90), (500, 400)), np.full((5, 4), NORMAL_SCORE, dtype=np.float32)
    whole = overlay(image, score, spot((500, 400)))
    assert (whole != image).any()
    monkeypatch.setattr(drawing, "STRIP_PIXELS", 4000)
    assert np.array_equal(np.concatenate(list(overlay_in_strips(image, score, spot((500, 400))))), whole)
