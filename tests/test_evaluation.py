"""Evaluation: measures of a run on labelled images, and refusals before any work."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from uflow_cli.datasets import load_dataset
from uflow_cli.detection.prediction import predict
from uflow_cli.errors import DatasetError, UflowError
from uflow_cli.evaluation import (
    category_groups,
    evaluate_run,
    evaluation_from_dict,
    evaluation_to_dict,
    published_figures,
)
from uflow_cli.images import read_image, write_png
from uflow_cli.run.record import load_model, load_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(product):
    return load_dataset("mvtec", root=product, category="stripes")


def test_an_obvious_defect_is_ranked_and_counted(small_run, data):
    seen = []
    evaluation = evaluate_run(load_run(small_run), data, device="cpu", on_image=seen.append)
    assert evaluation.image_auroc == 1.0
    assert evaluation.image_auroc_nfa == 1.0
    assert evaluation.pixel_auroc > 0.9
    assert 0.5 < evaluation.aupro <= 1.0
    assert evaluation.n_defective == evaluation.detected["spot"].total == 4
    assert evaluation.false_alarms.total == 4
    assert evaluation.detected["spot"].count == sum(e.prediction.is_defect for e in seen if not e.labelled.is_good)
    assert evaluation.false_alarms.count == sum(e.prediction.is_defect for e in seen if e.labelled.is_good)
    on_good = [len(e.prediction.detections) for e in seen if e.labelled.is_good]
    assert evaluation.false_regions == sum(on_good) / 4
    assert evaluation.oracle.miou.all_images >= evaluation.miou.all_images - 1e-9
    assert [e.labelled for e in seen] == list(data.test)
    assert all(e.true_mask.shape == read_image(e.labelled.path).shape[:2] for e in seen)


def test_false_regions_are_counted_on_good_images_alone(small_run, data):
    seen = []
    evaluation = evaluate_run(load_run(small_run), data, device="cpu", nfa_threshold=3.0, on_image=seen.append)
    on_good = [len(e.prediction.detections) for e in seen if e.labelled.is_good]
    assert sum(on_good) > 0
    assert evaluation.false_regions == sum(on_good) / 4


def test_a_threshold_that_nothing_reaches_scores_the_share_of_good_images(small_run, data):
    evaluation = evaluate_run(load_run(small_run), data, device="cpu", nfa_threshold=-1e9)
    assert evaluation.miou.all_images == pytest.approx(0.5)
    assert evaluation.miou.defective_images == 0.0
    assert evaluation.false_alarms.count == 0


def test_json_has_no_nan_and_survives_a_data_set_without_good_images(small_run, data):
    defective = dataclasses.replace(data, test=tuple(item for item in data.test if not item.is_good))
    evaluation = evaluate_run(load_run(small_run), defective, device="cpu")
    assert math.isnan(evaluation.image_auroc)
    values = json.loads(json.dumps(evaluation_to_dict(evaluation), allow_nan=False))
    assert values["image_auroc"] is None
    assert [row[0] for row in evaluation.rows()]
    again = evaluation_from_dict(values)
    assert evaluation_to_dict(again) == evaluation_to_dict(evaluation)


def test_no_test_images_is_an_error(small_run, data):
    with pytest.raises(DatasetError, match="no test images"):
        evaluate_run(load_run(small_run), dataclasses.replace(data, test=()), device="cpu")


def test_missing_mask_is_told_before_anything_is_computed(small_run, data):
    broken = dataclasses.replace(data.test[-1], mask_path=Path("/nowhere/000_mask.png"))
    seen = []
    with pytest.raises(DatasetError, match="000_mask"):
        evaluate_run(
            load_run(small_run), dataclasses.replace(data, test=(*data.test, broken)), device=CPU, on_image=seen.append
        )
    assert not seen


def test_mask_of_another_size_names_both_files(small_run, data, tmp_path):
    write_png(tmp_path / "other_mask.png", np.ones((10, 20), dtype=np.bool_))
    item = next(item for item in data.test if not item.is_good)
    broken = dataclasses.replace(item, mask_path=tmp_path / "other_mask.png")
    with pytest.raises(DatasetError, match=r"other_mask\.png is 10 x 20.*96 x 96"):
        evaluate_run(load_run(small_run), dataclasses.replace(data, test=(broken,)), device="cpu")


def test_an_evaluation_survives_json(small_run, data):
    evaluation = evaluate_run(load_run(small_run), data, device="cpu", fair=True, n_resamples=20)
    values = json.loads(json.dumps(evaluation_to_dict(evaluation), allow_nan=False))
    assert evaluation_from_dict(values) == dataclasses.replace(evaluation, sweep=None)


def test_an_evaluation_of_another_version_is_refused(small_run, data):
    values = evaluation_to_dict(evaluate_run(load_run(small_run), data, device="cpu"))
    with pytest.raises(UflowError, match="version"):
        evaluation_from_dict({**values, "version": 1})
    with pytest.raises(UflowError, match="not an evaluation"):
        evaluation_from_dict({"version": values["version"]})


def test_the_sweep_agrees_with_the_measures_at_their_thresholds(small_run, data):
    evaluation = evaluate_run(load_run(small_run), data, device="cpu", nfa_threshold=1.0)
    sweep = evaluation.sweep
    at = {float(t): i for i, t in enumerate(sweep.thresholds)}
    assert sweep.flagged_good[at[1.0]] == evaluation.false_alarms.value
    assert sweep.false_regions[at[1.0]] == evaluation.false_regions
    assert sweep.miou_all[at[0.0]] == pytest.approx(evaluation.miou_automatic.all_images)
    assert sweep.miou_all[at[1.0]] == pytest.approx(evaluation.miou.all_images)
    assert sweep.miou_all.max() == evaluation.oracle.miou.all_images
    assert (np.diff(sweep.false_regions) >= 0).all()
    assert sweep.false_regions[-1] > sweep.false_regions[at[1.0]]  # regions that are no detection count, too


def test_the_fair_threshold_is_the_lowest_that_leaves_one_pixel_per_training_image_above_it(small_run, data):
    run = load_run(small_run)
    evaluation = evaluate_run(run, data, device="cpu", fair=True)
    model = load_model(run, device=CPU)
    good = [read_image(item.path) for item in data.train]
    detector = run.calibration.detector(model)
    predictions = [p for image in good for p in predict(model, detector, [image])]  # last bits follow the batch
    scores = np.concatenate([prediction.score_map.ravel() for prediction in predictions])
    fair = np.float32(evaluation.score_fair.threshold)
    assert (scores > fair).sum() <= len(good) < (scores >= fair).sum()  # equal scores stand or fall together
    assert evaluation.score_fair.miou.all_images <= evaluation.score_oracle.miou.all_images + 0.02


def test_bootstrap_intervals_hold_the_measure_and_are_reproducible(small_run, data):
    evaluations = [evaluate_run(load_run(small_run), data, device="cpu", n_resamples=100) for _ in range(2)]
    intervals = evaluations[0].intervals
    assert intervals == evaluations[1].intervals
    for name in ("image_auroc", "pixel_auroc", "aupro", "miou_automatic"):
        low, high = intervals[name]
        value = evaluations[0].miou_automatic.all_images if name == "miou_automatic" else getattr(evaluations[0], name)
        assert low - 2e-3 <= value <= high + 2e-3  # pixel scores are binned for the intervals
    low, high = intervals["pixel_auroc"]
    assert low < high


def test_published_numbers_average_to_the_papers_means():
    names = [name for group in category_groups("mvtec").values() for name in group]
    assert len(names) == len(set(names)) == 15
    means = {
        measure: np.mean([published_figures("mvtec", name)[measure] for name in names])
        for measure in ("pixel_auroc", "aupro", "image_auroc", "miou_oracle", "miou_automatic")
    }
    # the last line of the paper's tables: another digit mistyped in any of 75 numbers would show
    assert means["pixel_auroc"] == pytest.approx(0.9874, abs=6e-5)
    assert means["aupro"] == pytest.approx(0.9519, abs=1.1e-4)
    assert means["image_auroc"] == pytest.approx(0.9887, abs=6e-5)
    assert means["miou_oracle"] == pytest.approx(0.5453, abs=6e-5)
    assert means["miou_automatic"] == pytest.approx(0.5408, abs=6e-5)


def test_published_numbers_stand_beside_ours_with_the_difference(small_run, data):
    evaluation = evaluate_run(load_run(small_run), data, device="cpu")
    assert published_figures("mvtec", "stripes") == {}
    screw = dataclasses.replace(evaluation, category="screw", pixel_auroc=0.9)
    row = next(row for row in screw.rows() if row[0] == "pixel AUROC")
    assert row == ("pixel AUROC", "0.9000", "0.9949", "-0.0949")
