"""The log for TensorBoard: what was logged can be read back, and without TensorBoard one line says what to do."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import warnings

import pytest
from products import Recorder

from uflow_cli.errors import UflowError
from uflow_cli.run.log import Epoch
from uflow_cli.training import TensorBoardLog, Together
from uflow_cli.training.observer import FOLDER_NAME, scalars

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is an optional extra"
)
RECORD = Epoch(1, 9, 2.5, 2.625, 1e-3, 12.0, True, 123.5, (0.75, 1.25), 2.625)


def log_epochs(folder, *epochs, loss=2.5):
    log = TensorBoardLog(folder)
    for epoch in epochs:
        log.on_epoch(dataclasses.replace(RECORD, epoch=epoch, loss=loss + epoch))
    log.close()


def read_back(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / FOLDER_NAME))
        events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@needs_tensorboard
def test_every_epoch_can_be_read_back(tmp_path):
    log_epochs(tmp_path, 1, 2)
    found = read_back(tmp_path)
    assert set(found) == set(scalars(RECORD))
    assert found["loss/training"] == {1: 3.5, 2: 4.5}
    assert found["mean square/scale 2"] == {1: 1.25, 2: 1.25}


@needs_tensorboard
def test_a_resumed_training_goes_on_and_a_new_one_begins_anew(tmp_path):
    log_epochs(tmp_path, 1, 2, 3)
    log_epochs(tmp_path, 3, 4, loss=10.0)
    assert read_back(tmp_path)["loss/training"] == {1: 3.5, 2: 4.5, 3: 13.0, 4: 14.0}
    log_epochs(tmp_path, 1)
    assert read_back(tmp_path)["loss/training"] == {1: 3.5}


@needs_tensorboard
def test_what_is_no_number_is_left_out(tmp_path):
    log = TensorBoardLog(tmp_path)
    log.on_epoch(dataclasses.replace(RECORD, held_out_loss=math.nan, mean_squares=(math.nan, 1.0)))
    log.close()
    assert {"loss/held-out", "mean square/scale 1"} & set(read_back(tmp_path)) == set()


def test_without_tensorboard_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorboard" else find_spec(name))
    with pytest.raises(UflowError, match=r"pip install .uflow-cli\[tensorboard\]"):
        TensorBoardLog(tmp_path)


def test_observers_together_hear_all(tmp_path):
    first, second = Recorder([]), Recorder([])
    both = Together(first, second)
    both.on_images(1, 4)
    both.on_features(2, 4)
    both.on_batch(3, 4)
    both.on_epoch(RECORD)
    both.on_warning("beware")
    assert first == second == Recorder([RECORD], images=1, features=2, batches=1, warnings=["beware"])
