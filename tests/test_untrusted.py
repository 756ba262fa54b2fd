"""Models, results and lists of strangers: a clear refusal or a result, whatever was done to them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hostile import run_cases, told
from hostile_models import SHARES, Targets, all_targets

from uflow_cli.errors import CheckpointError, DatasetError, UflowError
from uflow_cli.run.graph import load_engine
from uflow_cli.run.record import CONFIG_NAME, GRAPH_NAME, load_model, load_run, read_flow
from uflow_cli.run.state import read_state

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="watches itself by Linux's means"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning"),
]
CASES = {
    "record": 150, "graph_record": 25, "graph": 40, "weights": 12, "state": 14, "checkpoint": 20, "result": 40, "lists": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Targets:
    return all_targets(tmp_path_factory.mktemp("hostile"), large=False)


@pytest.mark.parametrize("name", CASES)
def test_what_a_stranger_changed_is_refused_in_one_line_or_gives_a_result(targets: Targets, name: str) -> None:
    """No crash, hang, gigabytes, program that is started or file that is written elsewhere."""
    outcome = run_cases(getattr(targets, name), range(CASES[name]), folder=targets.work)
    assert not outcome.faults, told(outcome)
    assert sum(outcome.words.values()) == CASES[name]
    assert name in SHARES


def test_what_the_cases_run_in_notices_everything(tmp_path: Path) -> None:
    """Else the test above would always be green."""

    def case(seed: int) -> str:
        deeds = (
            lambda: os._exit(3), lambda: 1 / 0, lambda: (tmp_path / "x").touch(), lambda: os.system("true"),
            lambda: bytes(3 * 2**30), lambda: open(tmp_path / "in" / "y", "w").close(), lambda: None,  # noqa: PTH123
        )  # fmt: skip
        deeds[seed]()
        if seed == 6:
            raise UflowError("two\nlines")
        return "fine"

    (tmp_path / "in").mkdir()
    outcome = run_cases(case, range(7), folder=tmp_path / "in")
    assert outcome.words == {"died": 1, "raised": 2, "broke out": 2, "fine": 1, "refused": 1}
    assert len(outcome.faults) == 6


@pytest.fixture
def copied_run(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "inside" / "run"))


@pytest.mark.parametrize("name", ["../other.safetensors", "/other.safetensors", "below/other.safetensors"])
def test_weights_in_another_folder_are_not_read(copied_run: Path, tmp_path: Path, name: str) -> None:
    values = json.loads((copied_run / CONFIG_NAME).read_text())
    values["weights"] = name
    (copied_run / CONFIG_NAME).write_text(json.dumps(values))
    (copied_run / "below").mkdir()
    for path in (copied_run.parent / "other.safetensors", copied_run / "below" / "other.safetensors"):
        path.touch()
    with pytest.raises(CheckpointError, match="names weights in another folder"):
        load_run(copied_run)


def test_weights_of_which_a_bit_has_flipped_are_refused(copied_run: Path) -> None:
    run = load_run(copied_run)
    data = bytearray((copied_run / run.weights).read_bytes())
    data[-1] ^= 1
    (copied_run / run.weights).write_bytes(data)
    with pytest.raises(CheckpointError, match="its checksum is not that of its name"):
        load_model(run, device=torch.device("cpu"))


@pytest.mark.parametrize("name", ["a" * 1000, "a\0b"])
def test_names_that_no_file_can_have_are_refused(copied_run: Path, name: str) -> None:
    values = json.loads((copied_run / CONFIG_NAME).read_text())
    values["weights"] = name
    (copied_run / CONFIG_NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="that no file can be called, a"):
        load_run(copied_run)


@pytest.mark.parametrize("name", ["a" * 1000, "a\0b"])
def test_graphs_that_no_file_can_be_called_are_refused(graph_run: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(graph_run, tmp_path / "run"))
    values = json.loads((folder / GRAPH_NAME).read_text())
    values["file"] = name
    (folder / GRAPH_NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="that no file can be called, a"):
        load_engine(load_run(folder))


@pytest.mark.parametrize("place", [("curves", 0, "exponent"), ("n_channels", 0)])
def test_integers_that_are_no_float_any_more_are_damage(copied_run: Path, place: tuple[str | int, ...]) -> None:
    values = json.loads((copied_run / CONFIG_NAME).read_text())
    within = values["calibration"]
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = 10**400
    (copied_run / CONFIG_NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="is damaged"):
        load_run(copied_run)


def test_a_law_whose_mean_no_map_can_hold_is_damage(copied_run: Path) -> None:
    values = json.loads((copied_run / CONFIG_NAME).read_text())
    values["calibration"]["background"][0]["scale"] = 1e38
    (copied_run / CONFIG_NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="too extreme"):
        load_run(copied_run)


@pytest.mark.parametrize("buffer", ["permutation", "inverse_permutation"])
def test_a_permutation_that_is_none_does_not_fit(copied_run: Path, buffer: str) -> None:
    from safetensors.torch import save

    run = load_run(copied_run)
    tensors = read_flow(copied_run / run.weights)
    name = next(name for name in tensors if name.endswith(f".{buffer}"))
    tensors[name][0] = 2**40
    data = save(tensors)
    weights = f"flow-0001-{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
    (copied_run / weights).write_bytes(data)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_model(replace(run, weights=weights), device=torch.device("cpu"))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"version": 3, "model": ' + "[" * 500 + "]" * 500 + "}"]
)
def test_json_that_is_nested_without_end_is_damaged(copied_run: Path, text: str) -> None:
    (copied_run / CONFIG_NAME).write_text(text)
    with pytest.raises(CheckpointError, match="damaged"):
        load_run(copied_run)


def test_a_message_of_what_is_wrong_stays_readable(copied_run: Path) -> None:
    values = json.loads((copied_run / CONFIG_NAME).read_text())
    values["model"]["extractor"] = list(range(100_000))
    (copied_run / CONFIG_NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="extractor") as caught:
        load_run(copied_run)
    assert len(str(caught.value)) < 1000


def test_a_state_without_metadata_is_damaged(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "training.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_state(tmp_path)


def test_a_list_of_images_nested_without_end_is_none(tmp_path: Path) -> None:
    from uflow_cli.datasets import read_exclusion

    (tmp_path / "list.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="not a list"):
        read_exclusion(tmp_path / "list.json")
