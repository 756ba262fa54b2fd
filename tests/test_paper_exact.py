"""The published procedure as one property of a run: its tail, its maps, its settings, and what it cannot do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from products import SMALL_MODEL, defective_image, plain_calibration

from uflow_cli.calibration import choose_threshold
from uflow_cli.datasets import Dataset, LabelledImage
from uflow_cli.detection.detector import Detector
from uflow_cli.detection.masks import ScaleRegions, log_nfa_map, published_log_nfa_map
from uflow_cli.detection.nfa import Background, log_n_tests
from uflow_cli.detection.prediction import predict
from uflow_cli.errors import DatasetError, UflowError
from uflow_cli.model import build_model
from uflow_cli.training import TestSetAuroc

CHANNELS = 64
NOTHING_HELD_OUT = plain_calibration(1)


def detector(*, paper_exact):
    return Detector((Background(CHANNELS),), "paper", (4,), paper_exact=paper_exact)


def one_bump():
    """docs/method.md, section 10: U at 0.8 C, falling away slightly, and a bump of 2 x 2 cells at 1.5 C."""
    y, x = np.mgrid[:12, :12]
    u = CHANNELS * (0.8 - 1e-4 * np.hypot(y - 2.5, x - 2.5))
    u[2:4, 2:4] = 1.5 * CHANNELS
    return u[None].astype(np.float32)


@pytest.mark.parametrize(("paper_exact", "log_pfa", "area"), [(False, -5.3, 4), (True, -46.9, 144)])
def test_published_tail_calls_what_is_too_normal_significant(paper_exact, log_pfa, area):
    regions = detector(paper_exact=paper_exact).find([one_bump()]).regions
    lowest = int(np.argmin(regions.log_pfa))
    assert regions.log_pfa[lowest] == pytest.approx(log_pfa, abs=0.05)
    assert regions.area[lowest] == area


def test_halos_stay_as_published():
    """A cell in the halo of a severe defect is no evidence of its own, except as published."""
    u = np.full((1, 12, 12), 0.5 * CHANNELS, dtype=np.float32)
    u[0, 2, 2], u[0, 2, 5] = 50 * CHANNELS, 2 * CHANNELS
    found = [detector(paper_exact=exact).find([u]).result for exact in (False, True)]
    assert [int(result.labels[0][0, 2, 5] >= 0) for result in found] == [0, 1]


def test_maps_are_upsampled_bilinearly_as_published():
    rng = np.random.default_rng(0)
    cells = [rng.normal(size=(n, n)).astype(np.float32) for n in (12, 6)]
    resized = [
        F.interpolate(torch.from_numpy(c)[None, None], (40, 50), mode="bilinear", align_corners=False)[0, 0]
        for c in cells
    ]
    scales = [ScaleRegions(c.astype(np.float64), np.ones_like(c), np.ones_like(c), 5.0) for c in cells]
    published = published_log_nfa_map(scales, size=(40, 50))
    np.testing.assert_allclose(published, torch.minimum(*resized).numpy(), atol=1e-5)
    assert not np.allclose(published, log_nfa_map(scales, size=(40, 50)))


def test_published_mask_is_the_upsampled_map_below_the_threshold():
    model = build_model(replace(SMALL_MODEL, tests="paper", paper_exact=True), device=torch.device("cpu"))
    channels = model.flow.embedding_channels
    detector = plain_calibration(*channels).detector(model)
    image, _ = defective_image(1)
    [free] = predict(model, detector, [image[:80]])
    threshold = float(free.log_nfa_map.min() + free.log_nfa_map.max()) / 2
    [prediction] = predict(model, detector, [image[:80]], threshold=threshold)
    expected = published_log_nfa_map(prediction.scales, size=(80, 96)) < threshold
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(prediction.mask, expected)
    np.testing.assert_array_equal(prediction.log_nfa_map, published_log_nfa_map(prediction.scales, size=(256, 256)))


def test_ceiling_is_eq_9_for_every_region():
    findings = detector(paper_exact=True).find([one_bump()])
    np.testing.assert_allclose(findings.regions.log_nfa, findings.ceiling + findings.regions.log_pfa)
    assert findings.ceiling == log_n_tests([(12, 12)])


def test_threshold_promises_only_what_the_law_of_the_paper_does():
    threshold, promise = choose_threshold(NOTHING_HELD_OUT, nfa_threshold=None, false_alarm_rate=None)
    assert threshold == 0
    assert "chi-square law of the paper; no good images were held out" in promise


def test_false_alarm_rate_without_calibration_is_one_clear_line():
    with pytest.raises(UflowError, match=r"^false-alarm rate 0\.1: this model has no calibration.*--nfa-threshold"):
        choose_threshold(NOTHING_HELD_OUT, nfa_threshold=None, false_alarm_rate=0.1)


@pytest.mark.parametrize("kinds", [[], ["good", "good"]])
def test_selection_on_the_test_set_needs_defects_there(kinds, tmp_path):
    data = Dataset("mine", "part", (), tuple(LabelledImage(tmp_path / f"{i}.png", k) for i, k in enumerate(kinds)))
    with pytest.raises(DatasetError, match=r"^--paper-exact selects on the test set, and mine/part has no defective"):
        TestSetAuroc(data, cache=None, on_progress=lambda _done, _total: None)


def test_selection_on_the_test_set_needs_masks(tmp_path):
    data = Dataset("mine", "part", (), (LabelledImage(tmp_path / "0.png", "scratch"),))
    with pytest.raises(DatasetError, match="without mask"):
        TestSetAuroc(data, cache=None, on_progress=lambda _done, _total: None)
