"""`import uflow_cli`: what the command finds, without files or words, from arrays and files, in many threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest
from products import Recorder, defective_image, files_in, good_image

import uflow_cli as uflow
from uflow_cli.detect import detect_images
from uflow_cli.images import write_png
from uflow_cli.run.record import load_run


@pytest.fixture(scope="module")
def detector(graph_run):
    return uflow.load(graph_run, device="cpu")


def same(one, other):
    assert (one.verdict, one.log_nfa, one.anomaly_score) == (other.verdict, other.log_nfa, other.anomaly_score)
    assert one.detections == other.detections
    for name in ("mask", "score_map", "log_nfa_map"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_importing_it_loads_nothing_and_every_name_is_there():
    code = "import sys, uflow_cli; sys.exit(any(m in sys.modules for m in ('numpy', 'pydantic', 'torch', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(uflow.__all__) <= set(dir(uflow))
    assert all(getattr(uflow, name).__module__.startswith("uflow_cli.") for name in uflow.__all__)
    with pytest.raises(AttributeError, match="no attribute 'detect_all'"):
        uflow.detect_all  # noqa: B018


def test_it_finds_what_the_command_finds(detector, graph_run, photographs, tmp_path):
    told = detect_images(load_run(graph_run), photographs, out=tmp_path, device="cpu")
    assert (told.nfa_threshold, told.promise) == (detector.threshold, detector.promise)
    for image in told.images:
        result = detector.detect(image.path)
        assert (result.verdict, result.log_nfa, result.detections) == (image.verdict, image.log_nfa, image.regions)
        assert (result.anomaly_score, result.size) == (image.anomaly_score, (image.height, image.width))
    assert {image.verdict for image in told.images} == {"good", "defect"}


def test_it_writes_no_file_and_no_word(graph_run, photographs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = files_in(graph_run)
    found = [result for _, result in uflow.load(graph_run, device="cpu").detect_many(photographs)]
    assert sum(result.mask.any() for result in found) == 1
    assert files_in(graph_run) == before
    assert not files_in(tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_many_threads_get_the_bits_of_one(graph_run, runtime):
    detector = uflow.load(graph_run, device="cpu", runtime=runtime)
    images = [defective_image(i)[0] if i % 2 else good_image(i) for i in range(6)]
    alone = [detector.detect(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for i, result in enumerate(pool.map(detector.detect, images * 3)):
            same(result, alone[i % 6])


def test_many_images_get_the_bits_of_each_alone_whatever_the_batch(detector, photographs):
    mixed = [str(photographs[2]), good_image(5), photographs[0], defective_image(6)[0][:80], photographs[1]]
    for batch_size in (None, 1, 2, 9):
        found = list(detector.detect_many(mixed, batch_size=batch_size))
        assert all(given is image for (given, _), image in zip(found, mixed, strict=True))
        for image, result in found:
            same(result, detector.detect(image))


def test_a_stream_without_end_is_read_two_batches_ahead(detector):
    taken = []

    def camera():
        frame = np.empty_like(good_image(0))  # the same buffer for every image, as cameras have it
        for number in count():
            taken.append(number)
            frame[:] = defective_image(9)[0] if number == 1 else good_image(9)
            yield frame

    results = detector.detect_many(camera(), batch_size=2)
    assert [next(results)[1].verdict for _ in range(4)] == ["good", "defect", "good", "good"]
    assert len(taken) == 6
    results.close()


def test_a_file_that_cannot_be_read_is_an_error_or_told_and_the_others_go_on(detector, photographs, tmp_path):
    (tmp_path / "cut.png").write_bytes(photographs[0].read_bytes()[:200])
    paths, told = [photographs[0], tmp_path / "cut.png", photographs[2]], []
    found = list(detector.detect_many(paths, on_error=lambda path, error: told.append((path, error))))
    assert [path for path, _ in found] == [paths[0], paths[2]]
    [(path, error)] = told
    assert path == paths[1]
    assert "cut.png" in str(error)
    with pytest.raises(uflow.ImageError, match=r"cut\.png"):
        list(detector.detect_many(paths))
    with pytest.raises(uflow.ImageError, match=r"cut\.png"):
        detector.detect(paths[1])


@pytest.mark.parametrize("kind", ["rgb", "grey", "one channel", "alpha", "uint16", "float32", "float64", "strided"])
def test_arrays_of_any_kind_show_what_the_file_shows(detector, kind, tmp_path):
    image = defective_image(7)[0]  # grey: its channels are the same
    write_png(tmp_path / "a.png", image)
    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    array = {
        "rgb": image, "grey": image[..., 0], "one channel": image[..., :1],
        "alpha": np.concatenate([image, opaque], axis=2), "uint16": image.astype(np.uint16) * 257,
        "float32": (image / 255).astype(np.float32), "float64": image / 255, "strided": image[..., ::-1],
    }[kind]  # fmt: skip
    same(detector.detect(array), detector.detect(tmp_path / "a.png"))


def test_channels_are_red_green_blue_and_alpha_lies_on_black(detector):
    image = good_image(3)
    image[..., 2] = 0
    np.testing.assert_array_equal(detector.detect(image).image, image)
    half = np.concatenate([image, np.full((96, 96, 1), 128, np.uint8)], axis=2)
    np.testing.assert_array_equal(detector.detect(half).image, np.rint(image * (128 / 255)).astype(np.uint8))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 96, 96), np.uint8), "channels last"), (np.zeros((96, 96, 2), np.uint8), r"\(96, 96, 2\)"),
        (np.zeros(96, np.uint8), r"\(96,\)"), (np.zeros((0, 96, 3), np.uint8), r"\(0, 96, 3\)"),
        (np.zeros((2, 96, 96, 3), np.uint8), r"\(2, 96, 96, 3\)"), (np.zeros((96, 96), np.int64), "int64"),
        (np.zeros((96, 96), np.bool_), "bool"), (np.full((96, 96), 255.0), "255 to 255"),
        (np.full((96, 96), -0.1), "-0.1"), (np.full((96, 96), np.nan), "nan"), (np.zeros((96, 96), np.complex64), "complex64"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused_and_the_message_says_what_would_be_right(detector, array, words):
    with pytest.raises(ValueError, match=words):
        detector.detect(array)
    with pytest.raises(ValueError, match=words):
        list(detector.detect_many([array]))


def test_what_is_no_image_at_all_is_a_type_error(detector):
    with pytest.raises(TypeError, match=r"not list; try numpy\.asarray"):
        detector.detect([[1, 2], [3, 4]])


def test_a_defect_outside_a_region_of_interest_counts_less(detector, graph_run, tmp_path):
    image, defect = defective_image(2)
    write_png(tmp_path / "roi.png", ~defect)
    masked = uflow.load(graph_run, device="cpu", roi=tmp_path / "roi.png")
    assert detector.detect(image).verdict == "defect"
    assert masked.detect(image).log_nfa > detector.detect(image).log_nfa
    same(detector.detect(image, roi=~defect), masked.detect(image))
    with pytest.raises(uflow.ImageError, match=r"the image: is 96 x 80 pixels, but its region of interest .*roi\.png"):
        masked.detect(image[:80])
    for wrong in (defect & False, defect.astype(np.uint8)):
        with pytest.raises(ValueError, match="mask of bool"):
            detector.detect(image, roi=wrong)


def test_thresholds_are_those_of_the_command(detector, graph_run, photographs):
    calibration = load_run(graph_run).calibration
    rated = uflow.load(graph_run, device="cpu", false_alarm_rate=0.2)
    assert rated.threshold == calibration.lowest_log_nfa[0] + calibration.log_lot
    assert "0.2 of good images" in rated.promise
    none = detector.with_threshold(nfa_threshold=-400)
    assert none.model is detector.model
    assert (none.detect(photographs[2]).verdict, detector.detect(photographs[2]).verdict) == ("good", "defect")
    with pytest.raises(ValueError, match="not both"):
        uflow.load(graph_run, nfa_threshold=0.0, false_alarm_rate=0.1)
    with pytest.raises(uflow.UflowError, match="smallest is"):
        detector.with_threshold(false_alarm_rate=1e-6)


def test_training_from_python_makes_the_run_of_the_command(product, tmp_path, capfd):
    from uflow_cli import cli

    good = product / "stripes" / "train" / "good"
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--images", good, "--out", tmp_path / "a", "--input-size", 96, "--epochs", 1, "--flow-steps", 1]
        patch.setattr("sys.argv", ["uflow", "train", *map(str, arguments)])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    capfd.readouterr()
    recorder = Recorder([])
    run = uflow.train(good, out=tmp_path / "b", input_size=96, epochs=1, flow_steps=1, graph=False, observer=recorder)
    assert capfd.readouterr() == ("", "")
    assert len(recorder.epochs) == 1
    assert run.folder == tmp_path / "b"
    assert (run.weights, run.calibration) == (load_run(tmp_path / "a").weights, load_run(tmp_path / "a").calibration)
    same(uflow.load(run, device="cpu").detect(good_image(1)), uflow.load(tmp_path / "a", device="cpu").detect(good_image(1)))  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"epoch": 3}, uflow.UflowError, "did you mean epochs"), ({"epochs": 0}, uflow.UflowError, "epochs = 0: "),
        ({"dataset": "mvtec"}, ValueError, "either images"),
    ],
)  # fmt: skip
def test_a_training_with_wrong_settings_does_not_begin(product, tmp_path, settings, error, words):
    with pytest.raises(error, match=words):
        uflow.train(product / "stripes" / "train" / "good", out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
