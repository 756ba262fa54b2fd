"""Run folders load as they were saved, and damage is told in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from products import good_image

from uflow_cli.calibration import Calibration
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.errors import CheckpointError, TrainingError
from uflow_cli.run.lock import sole_training
from uflow_cli.run.record import (
    BEFORE_RECALIBRATION_NAME,
    CONFIG_NAME,
    Origin,
    find_newest_run,
    is_run,
    load_model,
    load_run,
    write_run,
)
from uflow_cli.schema import VERSION, from_dict

CPU = torch.device("cpu")


@pytest.fixture
def copied_run(small_run, tmp_path):
    return shutil.copytree(small_run, tmp_path / "run")


def edit_config(folder, **changes):
    path = folder / CONFIG_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_run_folder_holds_weights_config_and_log_and_nothing_else(small_run):
    names = sorted(path.name for path in small_run.iterdir())
    run = load_run(small_run)
    assert names == sorted([CONFIG_NAME, "calibration.svg", "log.csv", "loss.svg", run.weights])
    assert run.weights.endswith(".safetensors")


def test_loaded_model_gives_finite_embeddings_and_the_same_twice(small_run):
    image = good_image(7)
    first = load_model(load_run(small_run), device=CPU).embeddings([image])
    again = load_model(load_run(small_run), device=CPU).embeddings([image])
    for a, b in zip(first, again, strict=True):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)


def test_missing_folder_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere does not exist.*uflow train"):
        load_run(tmp_path / "nowhere")


@pytest.mark.parametrize("what", ["config", "weights"])
def test_incomplete_folder_names_what_is_missing(copied_run, what):
    name = CONFIG_NAME if what == "config" else load_run(copied_run).weights
    (copied_run / name).unlink()
    with pytest.raises(CheckpointError, match=rf"incomplete: {name}"):
        load_run(copied_run)


def test_newer_version_says_update(copied_run):
    edit_config(copied_run, version=VERSION + 1)
    with pytest.raises(CheckpointError, match=rf"version {VERSION + 1}.*up to {VERSION}.*update uflow"):
        load_run(copied_run)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "x"}', '{"format": 1}', '{"version": 3}'])
def test_damaged_config_says_so(copied_run, text):
    (copied_run / CONFIG_NAME).write_text(text)
    with pytest.raises(CheckpointError, match="damaged"):
        load_run(copied_run)


@pytest.mark.parametrize("keep", [0, 7, 1000])
def test_truncated_weights_say_so(copied_run, keep):
    run = load_run(copied_run)
    path = copied_run / run.weights
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(run, device=CPU)


def test_weights_of_another_model_do_not_fit(copied_run):
    from safetensors.torch import save_file

    save_file({"flow.something": torch.zeros(1)}, copied_run / "flow-0001.safetensors")
    edit_config(copied_run, weights="flow-0001.safetensors")  # whose name tells no checksum
    run = load_run(copied_run)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(run, device=CPU)


def test_other_extractor_weights_are_refused(copied_run):
    edit_config(copied_run, extractor_digest="0" * 64)
    with pytest.raises(CheckpointError, match="other weights of efficientnet-lite0"):
        load_model(load_run(copied_run), device=CPU)


def test_newest_run_is_the_one_written_last(small_run, tmp_path):
    older, newer = tmp_path / "a" / "old", tmp_path / "b" / "c" / "new"
    shutil.copytree(small_run, older)
    shutil.copytree(small_run, newer)
    os.utime(older / CONFIG_NAME, (1, 1))
    assert find_newest_run(tmp_path) == newer
    assert is_run(newer)
    assert not is_run(tmp_path)


def test_no_run_at_all_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError, match="uflow train"):
        find_newest_run(tmp_path / "runs")


def test_calibration_in_config_is_finite(small_run):
    calibration = load_run(small_run).calibration
    assert np.isfinite(calibration.lowest_log_nfa).all()
    assert all(b.degrees_of_freedom <= c for b, c in zip(calibration.background, calibration.n_channels, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.bfloat16, 0.1)])
def test_a_run_serves_another_precision(small_run, dtype, tolerance):
    """Weights are kept in single precision; the permutations are numbers of channels and never rounded."""
    model = load_model(load_run(small_run), device=CPU)
    features = model.features([good_image(3)])
    with torch.inference_mode():
        before, log_det = model.embed(features)
        model.flow.to(dtype)
        model.normalisation.to(dtype)
        after, log_det_after = model.embed([f.to(dtype) for f in features])
    for b, a in zip(before, after, strict=True):
        assert a.dtype == dtype
        assert (a.float() - b).square().mean().sqrt() < tolerance * b.square().mean().sqrt()
    assert (log_det_after - log_det).abs().max() < tolerance * model.flow.n_dimensions / 2


def test_run_of_an_older_version_lacks_settings_and_takes_their_defaults(copied_run):
    values = json.loads((copied_run / CONFIG_NAME).read_text())
    edit_config(copied_run, model={"extractor": values["model"]["extractor"]}, training={"epochs": 3})
    run = load_run(copied_run)
    assert run.model == ModelConfig(merge="min", gaussian=False, neighbours=0, flow_share=0.75)  # what that version did
    assert run.training == TrainingConfig(epochs=3)


def test_run_with_settings_that_came_later_names_one_and_says_update(copied_run):
    values = json.loads((copied_run / CONFIG_NAME).read_text())
    edit_config(copied_run, training={**values["training"], "from_the_future": 1})
    with pytest.raises(CheckpointError, match=r"does not fit this uflow \(unknown setting 'from_the_future'.*update"):
        load_run(copied_run)


def test_a_configuration_of_another_program_is_no_run(small_run, tmp_path):
    ours, other = shutil.copytree(small_run, tmp_path / "ours"), tmp_path / "other"
    other.mkdir()
    (other / CONFIG_NAME).write_text('{"format": 1, "architectures": ["Bert"]}')
    assert not is_run(other)
    assert find_newest_run(tmp_path) == ours
    (ours / CONFIG_NAME).write_text("{")  # damaged, but ours: better told than passed over for an older one
    assert find_newest_run(tmp_path) == ours


def test_weights_named_by_a_relative_path_are_found_from_every_folder(copied_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = load_run(copied_run, weights=["files/a.safetensors"])
    assert run.model.weights == (str(tmp_path / "files" / "a.safetensors"),)


def other_calibration(run):
    """By eleven images that trained and selected nothing."""
    return dataclasses.replace(run.calibration, lowest_log_nfa=tuple(float(i) for i in range(11)), shared=False)


def test_recalibration_changes_the_calibration_and_nothing_else(copied_run):
    before = json.loads((copied_run / CONFIG_NAME).read_text())
    run = load_run(copied_run, weights=["elsewhere.safetensors"])
    assert run.calibration.shared
    assert run.origin.n_images == 20
    new = run.recalibrate(other_calibration(run))
    assert new == load_run(copied_run)
    assert new.calibration == other_calibration(run)
    assert new.origin.n_images == 20
    after = json.loads((copied_run / CONFIG_NAME).read_text())
    assert {**after, "calibration": None} == {**before, "calibration": None}
    assert json.loads((copied_run / BEFORE_RECALIBRATION_NAME).read_text()) == before
    assert "11 held-out good images" in (copied_run / "calibration.svg").read_text()


def test_nothing_is_recalibrated_that_is_training_or_has_changed(copied_run):
    run = load_run(copied_run)
    before = (copied_run / CONFIG_NAME).read_bytes()
    with sole_training(copied_run), pytest.raises(TrainingError, match="another process is training"):
        run.recalibrate(other_calibration(run))
    with pytest.raises(CheckpointError, match="holds another epoch by now"):
        dataclasses.replace(run, weights="flow-0009-abc.safetensors").recalibrate(other_calibration(run))
    assert (copied_run / CONFIG_NAME).read_bytes() == before


def test_a_run_folder_of_release_0_1_0_is_read(tmp_path):
    """The file is what that release wrote, with `format` where `version` is now and without the origin's version."""
    text = (Path(__file__).parent / "config_of_0_1_0.json").read_text()
    values = json.loads(text)
    (tmp_path / CONFIG_NAME).write_text(text)
    (tmp_path / values["weights"]).touch()
    assert is_run(tmp_path)
    run = load_run(tmp_path)
    assert run.origin == Origin("folder", "good", 6, 6, 6, good="/data/good")
    assert (run.model.input_size, run.model.flow_steps, run.model.kernel_sizes) == ((64, 64), 4, (3, 1))
    assert run.progress.held_out_loss == values["progress"]["held_out_loss"]
    old = from_dict(Calibration, values["calibration"])
    assert run.calibration == dataclasses.replace(old, log_lot=2.0)
    assert (run.model.merge, run.model.has_gaussians, run.model.n_patches) == ("min", False, 0)
    assert run.calibration.false_alarm_images(2.0) == old.false_alarm_images(0.0)  # counted per image then
    write_run(run)
    assert load_run(tmp_path) == run
    assert json.loads((tmp_path / CONFIG_NAME).read_text())["version"] == VERSION


@pytest.mark.skipif(os.name == "nt", reason="file names of bytes")
def test_names_that_are_no_unicode_come_back(small_run, copied_run):
    origin = dataclasses.replace(load_run(small_run).origin, category="b\udcff", root="/data/\udcff")
    write_run(dataclasses.replace(load_run(small_run), folder=copied_run, origin=origin))
    assert load_run(copied_run).origin == origin
