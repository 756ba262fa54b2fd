"""Evaluation: measures of a run on labelled images, and refusals before any work."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from uflow_cli.checkpoint import load_run
from uflow_cli.datasets import load_dataset
from uflow_cli.errors import DatasetError
from uflow_cli.evaluation import evaluate_run, evaluation_to_dict
from uflow_cli.images import write_png

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(product):
    return load_dataset("mvtec", root=product, category="stripes")


def test_an_obvious_defect_is_ranked_and_counted(small_run, data):
    seen = []
    evaluation = evaluate_run(load_run(small_run), data, device=CPU, on_image=seen.append)
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
    assert all(e.true_mask.shape == e.image.shape[:2] for e in seen)


def test_false_regions_are_counted_on_good_images_alone(small_run, data):
    seen = []
    evaluation = evaluate_run(load_run(small_run), data, device=CPU, nfa_threshold=3.0, on_image=seen.append)
    on_good = [len(e.prediction.detections) for e in seen if e.labelled.is_good]
    assert sum(on_good) > 0
    assert evaluation.false_regions == sum(on_good) / 4


def test_a_threshold_that_nothing_reaches_scores_the_share_of_good_images(small_run, data):
    evaluation = evaluate_run(load_run(small_run), data, device=CPU, nfa_threshold=-1e9)
    assert evaluation.miou.all_images == pytest.approx(0.5)
    assert evaluation.miou.defective_images == 0.0
    assert evaluation.false_alarms.count == 0


def test_json_has_no_nan_and_survives_a_data_set_without_good_images(small_run, data):
    defective = dataclasses.replace(data, test=tuple(item for item in data.test if not item.is_good))
    evaluation = evaluate_run(load_run(small_run), defective, device=CPU)
    assert math.isnan(evaluation.image_auroc)
    values = json.loads(json.dumps(evaluation_to_dict(evaluation), allow_nan=False))
    assert values["image_auroc"] is None
    assert values["version"] == 1
    assert [name for name, _ in evaluation.rows()]


def test_no_test_images_is_an_error(small_run, data):
    with pytest.raises(DatasetError, match="no test images"):
        evaluate_run(load_run(small_run), dataclasses.replace(data, test=()), device=CPU)


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
        evaluate_run(load_run(small_run), dataclasses.replace(data, test=(broken,)), device=CPU)
