"""Good images that look defective are named, though several of them calibrate together."""

from __future__ import annotations

import numpy as np
import pytest

from uflow_cli.calibration import suspicious_images

CHANNELS = 40
SETTINGS = {"n_channels": (CHANNELS,), "tests": "by-size", "reach": (0,), "is_fused": True, "log_lot": 2.0}


def evidence(n_good: int, n_bad: int, *, seed: int = 0) -> list[np.ndarray]:
    """U maps of good images, each a little stranger somewhere, and after them of some with a defect of 3 x 3 cells."""
    rng = np.random.default_rng(seed)
    u = rng.chisquare(CHANNELS, (n_good + n_bad, 16, 16))
    for image in u:
        row, column = rng.integers(0, 14, 2)
        image[row : row + 2, column : column + 2] *= 1 + 0.3 * rng.exponential()
    u[n_good:, 5:8, 5:8] *= 8
    return [u.astype(np.float32)]


@pytest.mark.parametrize("n_bad", [1, 3, 8])
def test_defects_among_good_images_are_named_however_many_they_are(n_bad):
    found = suspicious_images(evidence(72, n_bad), **SETTINGS)
    assert {image for image in found if image >= 72} == set(range(72, 72 + n_bad))
    assert len(found) <= n_bad + 2
    assert list(found.values()) == sorted(found.values())
    assert all(value < 0 for value in found.values())


def test_hardly_a_good_image_is_named():
    named = [len(suspicious_images(evidence(60, 0, seed=seed), **SETTINGS)) for seed in range(8)]
    assert sum(named) <= 0.02 * 8 * 60


def test_nothing_is_said_of_few_images():
    assert suspicious_images([u[-7:] for u in evidence(20, 1)], **SETTINGS) == {}
    assert suspicious_images([u[:0] for u in evidence(20, 1)], **SETTINGS) == {}
