"""The picture of a calibration: well-formed, complete, and drawn where there is something to draw."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from products import plain_calibration

from uflow_cli.calibration import calibrate, calibration_chart
from uflow_cli.charts import svg_file

CHANNELS = (16, 40)


def calibration(n=30, *, gain=1.0, seed=0):
    rng = np.random.default_rng(seed)
    norms = [(gain * rng.chisquare(c, (n, s, s))).astype(np.float32) for c, s in zip(CHANNELS, (28, 14), strict=True)]
    return calibrate(norms, n_channels=CHANNELS, tests="by-size", reach=(12, 4))


def test_the_picture_is_well_formed_and_has_a_line_per_scale_and_a_cell_per_position():
    root = ET.fromstring(svg_file(calibration_chart(calibration()), title="a < b & c"))
    classes = [element.get("class", "") for element in root.iter()]
    assert classes.count("line scale-1") == classes.count("line scale-2") == 1
    assert classes.count("line held-out") == 1
    assert classes.count("above") + classes.count("below") == 2 * 14 * 14
    assert any("a < b & c" in (element.text or "") for element in root.iter())


def test_measured_false_detections_follow_what_is_promised():
    kept = calibration(200)
    for threshold in (1.0, 0.0, -1.0):
        assert kept.false_detections(threshold) == pytest.approx(10**threshold, rel=0.5)
    assert kept.false_detections(-5.0) == 0.0


def test_nothing_held_out_gives_no_picture():
    assert calibration_chart(plain_calibration(4)) == ""


def test_one_image_and_constant_maps_are_drawn_all_the_same():
    ET.fromstring(svg_file(calibration_chart(calibration(1)), title="one"))
    ET.fromstring(svg_file(calibration_chart(calibration(3, gain=1e6)), title="far from the law"))
