"""Views: fixed by seed, content and number; different from each other; exactly what they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from products import good_image

from uflow_cli.errors import UflowError
from uflow_cli.images.views import MAX_BRIGHTNESS, MAX_TILT, ORIGINAL, Augmentation, View

DIGESTS = [bytes([i]) * 32 for i in range(6)]


@pytest.fixture
def image():
    """No symmetry, height and width differ."""
    return np.random.default_rng(0).integers(40, 200, (5, 7, 3), dtype=np.uint8)


def test_the_original_is_the_image_itself(image):
    assert np.array_equal(ORIGINAL.apply(image), image)


def test_no_kinds_no_views():
    assert Augmentation((), n_views=4, seed=0).views(DIGESTS[0]) == []


def test_views_are_fixed_by_seed_content_and_epoch():
    augmentation = Augmentation(("tilts", "brightness"), n_views=5, seed=3)
    views = augmentation.views(DIGESTS[0])
    assert views == Augmentation(("tilts", "brightness"), n_views=5, seed=3).views(DIGESTS[0])
    assert views[:2] == Augmentation(("tilts", "brightness"), n_views=3, seed=3).views(
        DIGESTS[0]
    )  # more views, same first
    for other in (
        augmentation.views(DIGESTS[1]),
        augmentation.views(DIGESTS[0], epoch=1),
        Augmentation(("tilts", "brightness"), n_views=5, seed=4).views(DIGESTS[0]),
    ):
        assert not set(views) & set(other)


@pytest.mark.parametrize(
    ("kinds", "n_views"), [(("flips",), 4), (("rotations",), 4), (("flips", "rotations"), 8), (("tilts",), 40)]
)
def test_views_differ_from_each_other_and_from_the_original(image, kinds, n_views):
    for digest in DIGESTS:
        views = [ORIGINAL, *Augmentation(kinds, n_views=n_views, seed=0).views(digest)]
        assert len(set(views)) == n_views
    if kinds != ("tilts",):
        pictures = [view.apply(image) for view in views]
        assert all(a.shape != b.shape or not np.array_equal(a, b) for a, b in itertools.combinations(pictures, 2))


@pytest.mark.parametrize(("kinds", "most"), [(("flips",), 4), (("rotations",), 4), (("flips", "rotations"), 8)])
def test_more_views_than_there_are_is_an_error(kinds, most):
    Augmentation(kinds, n_views=most, seed=0)
    with pytest.raises(UflowError, match=f"take --views {most}"):
        Augmentation(kinds, n_views=most + 1, seed=0)
    Augmentation((*kinds, "brightness"), n_views=most + 1, seed=0)


def test_a_kind_that_was_not_asked_for_never_comes():
    def views(*kinds):
        return [view for digest in DIGESTS for view in Augmentation(kinds, n_views=4, seed=0).views(digest)]

    assert {(v.mirror, v.quarter_turns) for v in views("flips")} == {(True, 0), (True, 2), (False, 2)}
    assert {(v.mirror, v.quarter_turns) for v in views("rotations")} == {(False, 1), (False, 2), (False, 3)}
    assert all(v == View(tilt=v.tilt) and 0 < abs(v.tilt) <= MAX_TILT for v in views("tilts"))
    assert all(v == View(brightness=v.brightness) for v in views("brightness"))
    assert all(0 < abs(v.brightness - 1) <= MAX_BRIGHTNESS for v in views("brightness"))


def test_flips_and_turns_move_pixels_where_they_say(image):
    assert np.array_equal(View(mirror=True).apply(image), image[:, ::-1])
    assert np.array_equal(View(mirror=True, quarter_turns=2).apply(image), image[::-1])
    assert np.array_equal(View(quarter_turns=1).apply(image), image.transpose(1, 0, 2)[::-1])
    assert View(quarter_turns=1).apply(image).flags.c_contiguous


def test_brightness_multiplies_and_stays_in_range(image):
    brighter = View(brightness=1.1).apply(image)
    assert np.abs(brighter - 1.1 * image.astype(float)).max() <= 0.5
    assert View(brightness=1.1).apply(np.full((2, 2, 3), 250, np.uint8)).min() == 255


def test_tilts_turn_about_the_centre_without_dark_corners():
    side = 65
    image = np.full((side, side, 3), 100, np.uint8)
    image[32, 60] = 200  # right of the centre
    tilted = View(tilt=5.0).apply(image)
    assert tilted.min() == 100
    row, column = np.unravel_index(int(tilted[..., 0].argmax()), (side, side))
    assert row == 32 - round(28 * np.sin(np.deg2rad(5)))  # anticlockwise: up
    assert column == 32 + round(28 * np.cos(np.deg2rad(5)))
    assert np.array_equal(View(tilt=1e-9).apply(good_image(0, 32)), good_image(0, 32))
