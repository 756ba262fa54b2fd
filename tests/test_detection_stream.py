"""The stream of images: in order, in batches, with errors in their places, and never read without need."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from products import defective_image, good_image

from uflow_cli.detection import stream
from uflow_cli.detection.detector import Detector, Fusion
from uflow_cli.detection.nfa import Background
from uflow_cli.detection.prediction import predict
from uflow_cli.detection.stream import predictions, squared_norm_maps
from uflow_cli.errors import CheckpointError, ImageError
from uflow_cli.images import EVERYWHERE, write_png
from uflow_cli.run.record import load_model, load_run


@pytest.fixture(scope="module")
def loaded(small_run):
    run = load_run(small_run)
    model = load_model(run, device=torch.device("cpu"))
    return model, run.calibration.detector(model)


@pytest.fixture
def paths(tmp_path):
    images = [good_image(1), defective_image(2)[0], good_image(3)[:80], good_image(4), good_image(5)]
    for i, image in enumerate(images):
        write_png(tmp_path / f"{i}.png", image)
    (tmp_path / "2.png").write_bytes(b"no image")
    return [*sorted(tmp_path.iterdir()), tmp_path / "missing.png"]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 50])
def test_results_stand_in_order_and_errors_in_their_places(loaded, paths, batch_size):
    results = list(predictions(*loaded, paths, batch_size=batch_size))
    assert [path for path, _ in results] == paths
    assert [isinstance(result, ImageError) for _, result in results] == [False, False, True, False, False, True]
    assert "missing.png" in str(results[5][1])
    assert [result.is_defect for _, result in results if not isinstance(result, ImageError)][1]


def test_one_at_a_time_gives_the_bits_of_the_image_alone(loaded, paths):
    for _, result in predictions(*loaded, paths, batch_size=1):
        if not isinstance(result, ImageError):
            [alone] = predict(*loaded, [result.image])
            assert result.log_nfa == alone.log_nfa
            assert result.detections == alone.detections
            np.testing.assert_array_equal(result.score_map, alone.score_map)
            np.testing.assert_array_equal(result.mask, alone.mask)


def test_maps_are_those_that_predictions_see(loaded, paths):
    maps = dict(squared_norm_maps(loaded[0], paths, batch_size=3))
    for path, result in predictions(*loaded, paths, batch_size=3):
        if not isinstance(result, ImageError):
            [own] = loaded[1].find([u[None] for u in maps[path].maps]).evidence
            np.testing.assert_array_equal(own[0], result.findings.evidence[0][result.index])


def test_the_next_batch_is_read_while_the_model_works_and_no_further(loaded, paths, monkeypatch):
    read, enough = [], threading.Event()

    def reading(path):
        read.append(path)
        if len(read) == 4:
            enough.set()
        return good_image(1)

    monkeypatch.setattr(stream, "read_image", reading)
    results = predictions(*loaded, paths, batch_size=2)
    next(results)
    assert enough.wait(10)
    results.close()
    assert read == paths[:4]


def test_no_path_gives_nothing(loaded):
    assert not list(predictions(*loaded, []))


IMAGES = [np.full((4, 4, 3), number, np.uint8) for number in range(7)]


def test_regions_of_one_batch_are_sought_while_the_next_one_is_computed():
    begun = [threading.Event() for _ in range(4)]

    def compute(images, masks):
        number = int(images[0][0, 0, 0]) // 2
        begun[number].set()
        return number

    def judge(images, masks, number):
        assert number == 3 or begun[number + 1].wait(10)
        return [int(image[0, 0, 0]) for image in images]

    found = list(stream._in_batches(IMAGES, compute, judge, 2, EVERYWHERE))
    assert [result for _, result in found] == list(range(7))
    assert [int(source[0, 0, 0]) for source, _ in found] == list(range(7))


def test_what_the_model_raises_comes_in_its_place_and_no_more_is_taken():
    taken = []

    def sources():
        for image in IMAGES:
            taken.append(image)
            yield image

    def compute(images, masks):
        if int(images[0][0, 0, 0]) == 2:
            raise CheckpointError("damaged")
        return images

    results = stream._in_batches(sources(), compute, lambda images, masks, found: found, 2, EVERYWHERE)
    assert [int(next(results)[1][0, 0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(CheckpointError, match="damaged"):
        next(results)
    assert len(taken) == 6


def test_maps_are_made_only_when_they_are_asked_for(monkeypatch):
    """A folder that is inspected without pictures has no use for those of good images."""
    sides = (8, 4)
    maps = [np.random.default_rng(side).chisquare(5, (2, side, side)).astype(np.float32) for side in sides]
    model = SimpleNamespace(
        config=SimpleNamespace(is_squashed=True), source_channels=(5, 5), reach=(1, 1), evidence_maps=lambda _: maps
    )
    laws = (Background(5), Background(5))
    fusion = Fusion((1.0, 1.0), Background(2), Background(2), map_weights=(1.0, 0.5))
    detector = Detector(laws, "by-size", (1, 1), fusion=fusion)
    asked = []
    monkeypatch.setattr(
        "uflow_cli.detection.detector.clear_halos", lambda maps, **_: asked.append(len(maps[0])) or list(maps)
    )
    first, second = predict(model, detector, IMAGES[:2], threshold=-1e9)
    assert (first.verdict, first.detections) == ("good", ())
    assert first.anomaly_score != second.anomaly_score
    assert not asked
    assert first.score_map.shape == (256, 256)
    assert not first.mask.any()
    assert asked == [1]  # once, and for the one image
    np.testing.assert_array_equal(first.findings.localised(1), detector.localised(maps)[1])
