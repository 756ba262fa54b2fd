"""Layouts: every pixel is seen, tiles lie where cells fit, stitching gives back what was cut, borders have no share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uflow_cli.images import Stitcher, lay_out, on_content

sides = st.integers(1, 400)
sizes = st.tuples(sides, sides)
fits = st.sampled_from(["squash", "letterbox", "tile"])


@given(sizes, fits)
def test_tiles_cover_the_canvas_and_lie_on_cells(size, fit):
    layout = lay_out(size, fit=fit, input_size=(64, 96), step=32)
    seen = np.zeros(layout.canvas, dtype=np.int32)
    for top, left in layout.corners:
        assert top % 32 == left % 32 == 0
        seen[top : top + 64, left : left + 96] += 1
    assert seen.min() >= 1
    assert all(c >= n for c, n in zip(layout.canvas, layout.content, strict=True))
    assert len(set(layout.corners)) == len(layout.corners)


@given(sizes)
def test_stitched_tiles_are_the_map_they_were_cut_from(size):
    layout = lay_out(size, fit="tile", input_size=(64, 96), step=32)
    whole = np.random.default_rng(0).random((layout.canvas[0] // 8, layout.canvas[1] // 8), dtype=np.float32)
    stitcher = Stitcher(layout)
    for top, left in layout.corners:
        stitcher.add([whole[top // 8 :, left // 8 :][:8, :12]])
    np.testing.assert_allclose(stitcher.maps()[0], whole, rtol=1e-5)


def test_tiles_that_disagree_are_blended_without_a_seam():
    """Where two tiles say 0 and 1 the map goes from one to the other in small steps."""
    layout = lay_out((64, 128), fit="tile", input_size=(64, 64), step=8)
    stitcher = Stitcher(layout)
    for number in range(len(layout.corners)):
        stitcher.add([np.full((8, 8), float(number), np.float32)])
    assert np.abs(np.diff(stitcher.maps()[0], axis=1)).max() < 0.51
    with pytest.raises(ValueError, match="0 of"):
        Stitcher(layout).maps()


@pytest.mark.parametrize("fit", ["letterbox", "tile"])
def test_shares_add_up_to_the_content(fit):
    layout = lay_out((50, 130), fit=fit, input_size=(64, 64), step=32)
    shares = layout.shares(layout.grid((8, 8)))
    cells = layout.content[0] / 8 * layout.content[1] / 8
    assert shares.sum() == pytest.approx(cells, rel=1e-3)
    assert shares.max() == 1


def test_content_is_kept_and_mirrored_beyond():
    image = np.random.default_rng(0).integers(0, 256, (50, 130, 3), dtype=np.uint8)
    layout = lay_out((50, 130), fit="tile", input_size=(64, 64), step=32)
    first = layout.cut(layout.resized(image), 0)
    assert np.array_equal(first[:50], image[:, :64])
    assert np.array_equal(first[50:], image[36:50, :64][::-1])


def test_maps_of_a_canvas_are_drawn_over_the_content_alone():
    layout = lay_out((40, 100), fit="letterbox", input_size=(64, 64), step=32)  # content: 26 of 64 rows
    values = np.zeros((8, 8), np.float32)
    values[4:] = 1.0  # below the content
    drawn = on_content(values, (40, 100), layout.extent)
    assert drawn.shape == (40, 100)
    assert drawn[:36].max() == 0
