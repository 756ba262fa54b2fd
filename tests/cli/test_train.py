"""`uflow train`: from a folder of good images to a run, and one clear line for everything a user can fix."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest
from products import defective_image, good_image

from uflow_cli.cli.options import data_of
from uflow_cli.config import all_settings
from uflow_cli.images import write_png
from uflow_cli.run.record import load_run

QUICK = ["--epochs", "1", "--batch-size", "4", "--input-size", "64", "--device", "cpu"]


def one_line(err: str) -> str:
    """The error line, which must be the last and alone start with the program's name."""
    lines = [line for line in err.splitlines() if line.startswith("uflow:")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


@pytest.fixture
def good_folder(product):
    return product / "stripes" / "train" / "good"


def test_folder_of_good_images_is_enough(uflow, good_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = uflow("train", "--images", good_folder, *QUICK)
    assert outcome.code == 0, outcome.err
    run = load_run(tmp_path / "runs" / "folder" / "good")
    assert (run.origin.dataset, run.origin.category) == ("folder", "good")
    assert "training preset lite (the paper's: --preset paper) on 20 good images" in outcome.err
    assert re.search(
        r"epoch 1/1 +loss \d\.\d+ +held-out loss \d\.\d+ bits/dim +best +mean z² \d\.\d\d \d\.\d\d \d\.\d\d +\d+\.\d images/s "
        r"+elapsed 0:\d\d:\d\d +left 0:00:00",
        outcome.err,
    )
    assert "degrees of freedom" in outcome.out
    assert "\x1b" not in outcome.err  # no animation where there is no terminal
    assert "smallest false-alarm rate" in outcome.out


def test_mvtec_layout_trains_into_the_default_run_folder(uflow, product, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = uflow("train", "--dataset", "mvtec", "--category", "stripes", "--data-root", product, "--seed", 4, *QUICK)
    assert outcome.code == 0, outcome.err
    run = load_run(tmp_path / "runs" / "mvtec" / "stripes")
    assert run.training.seed == 4
    assert run.origin.n_training + run.origin.n_selection == 20


def test_a_data_set_at_its_usual_place_is_found_and_the_place_is_said(uflow, product, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UFLOW_DATA", raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "MVTecAD").symlink_to(product, target_is_directory=True)
    arguments = ["train", "--dataset", "mvtec", "--category", "stripes", *QUICK]
    outcome = uflow(*arguments, "--architecture", "single:9")  # ends before any work
    assert outcome.code == 1
    assert "data set mvtec is in data/MVTecAD" in outcome.err
    (tmp_path / "data" / "MVTecAD").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "data set mvtec was not found in data, data/mvtec, " in " ".join(uflow(*arguments).err.split())


def test_the_commands_that_are_printed_after_training_run_as_they_stand(uflow, product, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data").symlink_to(product, target_is_directory=True)
    outcome = uflow("train", "--dataset", "mvtec", "--data-root", "my data", "--out", "a run", *QUICK)
    commands = [shlex.split(line) for line in outcome.out.partition("model in a run; next:\n")[2].splitlines()]
    assert [words[:3] for words in commands] == [
        ["uflow", "detect", "my data/stripes/test"],
        ["uflow", "evaluate", "--model"],
    ]
    for words in commands:
        assert uflow(*words[1:]).code == 0
    assert (tmp_path / "a run" / "report").is_dir()


def test_without_data_the_sample_is_offered_on_a_terminal_and_named_elsewhere(uflow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = uflow("train", *QUICK)
    assert outcome.code == 2
    assert "uflow sample --out data, then uflow train --dataset mvtec --category fabric" in outcome.err
    monkeypatch.setattr("uflow_cli.cli.train.ask", lambda question: "data/fabric" in question)
    monkeypatch.setattr(
        "uflow_cli.sample.write_sample", lambda out, category: (out / category / "train" / "good").mkdir(parents=True)
    )
    outcome = uflow("train", *QUICK)
    assert "data/fabric/train/good" in one_line(outcome.err)  # holds no image here
    assert outcome.code == 1


def test_architecture_and_coupling_are_stored_with_the_run(uflow, good_folder, tmp_path):
    choice = ["--architecture", "single:2", "--coupling", "uniform"]
    assert uflow("train", "--good", good_folder, "--out", tmp_path / "run", *choice, *QUICK).code == 0
    run = load_run(tmp_path / "run")
    assert (run.model.architecture, run.model.coupling) == ("single:2", "uniform")
    outcome = uflow("detect", good_folder, "--model", tmp_path / "run", "--out", tmp_path / "found", "--device", "cpu")
    assert outcome.code == 0, outcome.err


def test_whole_groups_are_held_out_and_said(uflow, good_folder, tmp_path):
    outcome = uflow("train", "--images", good_folder, "--out", tmp_path / "run", "--groups", "lot[0-9]", *QUICK)
    assert outcome.code == 1
    assert "--groups lot[0-9]: finds nothing in the name of" in one_line(outcome.err)
    outcome = uflow("train", "--images", good_folder, "--out", tmp_path / "run", "--groups", r"([0-9])\.png", *QUICK)
    assert outcome.code == 0, outcome.err
    run = load_run(tmp_path / "run")
    assert (run.training.groups, run.origin.n_groups) == (r"([0-9])\.png", 10)
    assert run.calibration.n_groups == len(run.origin.held_out_groups) == 4
    assert "of 4 of 10 groups)" in outcome.out
    assert "for images of new groups, by 4 groups held out whole, too few to tell" in " ".join(outcome.out.split())


def test_suspicious_images_are_named_and_can_be_excluded(uflow, tmp_path):
    folder = tmp_path / "good"
    for i in range(24):
        write_png(folder / f"{i:02d}.png", defective_image(i)[0] if i == 7 else good_image(i))
    command = ("train", "--images", folder, *QUICK, "--epochs", 4, "--folds", 3, "--flow-share", 0.7)
    outcome = uflow(*command, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "3 flows take turns" in outcome.err
    named = tmp_path / "run" / "suspicious.csv"
    assert "1 good image looks defective (log NFA): 07.png (-" in " ".join(outcome.err.split())
    assert f"--exclude {named}" in " ".join(outcome.err.split())
    outcome = uflow(*command, "--out", tmp_path / "again", "--exclude", named)
    assert outcome.code == 0, outcome.err
    origin = load_run(tmp_path / "again").origin
    assert (origin.n_images, origin.excluded) == (23, (str(folder / "07.png"),))
    assert [image.path.name for image in data_of(origin).train].count("07.png") == 0


def test_an_architecture_that_the_extractor_has_no_scale_for_is_one_line_before_any_work(uflow, good_folder, tmp_path):
    outcome = uflow(
        "train", "--images", good_folder, "--out", tmp_path / "run", "--architecture", "single:4", *QUICK
    )  # fmt: skip
    assert outcome.code == 1
    assert "single:4: efficientnet-lite0 has 3 scales; use single:1 to single:3" in one_line(outcome.err)
    assert not (tmp_path / "run").exists()


def test_second_training_into_the_same_folder_asks_for_overwrite(uflow, good_folder, tmp_path):
    assert uflow("train", "--images", good_folder, "--out", tmp_path / "run", *QUICK).code == 0
    outcome = uflow("train", "--images", good_folder, "--out", tmp_path / "run", *QUICK)
    assert outcome.code == 1
    assert "--overwrite" in one_line(outcome.err)


def test_few_images_are_warned_of(uflow, tmp_path):
    for i in range(4):
        write_png(tmp_path / "few" / f"{i}.png", good_image(i))
    outcome = uflow("train", "--images", tmp_path / "few", "--out", tmp_path / "run", *QUICK)
    assert outcome.code == 0
    assert "warning: 4 good images are few: no false-alarm rate below 33%" in " ".join(outcome.err.split())


@pytest.mark.parametrize("what", ["missing", "empty", "no images", "one image", "file"])
def test_bad_folder_is_one_line(uflow, tmp_path, what):
    folder = tmp_path / "images"
    if what != "missing":
        folder.mkdir()
    if what == "no images":
        (folder / "notes.txt").write_text("hello")
    if what == "one image":
        write_png(folder / "0.png", good_image(0))
    if what == "file":
        folder.rmdir()
        folder.write_text("hello")
    outcome = uflow("train", "--images", folder, "--out", tmp_path / "run", *QUICK)
    assert outcome.code == 1
    assert ("at least 2" if what == "one image" else str(folder)) in one_line(outcome.err)
    assert not (tmp_path / "run").exists()


def test_unknown_category_lists_those_there_are(uflow, product, tmp_path):
    outcome = uflow(
        "train", "--dataset", "mvtec", "--category", "dots", "--data-root", product, "--out", tmp_path / "run"
    )
    assert outcome.code == 1
    assert "'dots'" in one_line(outcome.err)
    assert "stripes" in one_line(outcome.err)


def test_unknown_data_set_lists_the_known_ones(uflow, product):
    outcome = uflow("train", "--dataset", "mvtek", "--category", "stripes", "--data-root", product)
    assert outcome.code == 1
    assert "mvtec" in one_line(outcome.err)


def test_category_without_good_images_is_one_line(uflow, product, tmp_path):
    shutil.copytree(product / "stripes" / "test", tmp_path / "hollow" / "test")
    (tmp_path / "hollow" / "train" / "good").mkdir(parents=True)
    outcome = uflow(
        "train", "--dataset", "mvtec", "--category", "hollow", "--data-root", tmp_path, "--out", tmp_path / "run"
    )
    assert outcome.code == 1
    assert "good" in one_line(outcome.err)


def test_truncated_image_is_named_before_training(uflow, good_folder, tmp_path):
    folder = shutil.copytree(good_folder, tmp_path / "good")
    data = (folder / "005.png").read_bytes()
    (folder / "005.png").write_bytes(data[: len(data) // 2])
    outcome = uflow("train", "--images", folder, "--out", tmp_path / "run", *QUICK)
    assert outcome.code == 1
    assert "005.png" in one_line(outcome.err)
    assert "epoch" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_cuda_without_a_gpu_is_one_line(uflow, good_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = uflow("train", "--images", good_folder, "--out", tmp_path / "run", "--device", "cuda")
    assert outcome.code == 1
    assert "--device cpu" in one_line(outcome.err)


def test_input_size_that_does_not_fit_is_one_line(uflow, good_folder, tmp_path):
    outcome = uflow("train", "--images", good_folder, "--out", tmp_path / "run", "--input-size", "100")
    assert outcome.code == 1
    assert "multiple of 32" in one_line(outcome.err)


@pytest.mark.parametrize("name", all_settings())
def test_every_setting_has_an_option_a_key_and_a_place_in_what_is_shown(uflow, tmp_path, name):
    """One other value of each setting, given in each way, comes out of all of them the same."""
    setting = all_settings()[name]
    shown = tomllib.loads(uflow("train", "--show-config").out)
    flag, text, key = other_value(setting, shown[name])
    (tmp_path / "my.toml").write_text(f"{name} = {key}\n")
    by_option = uflow("train", "--show-config", *([flag] if text is None else [flag, text]))
    by_file = uflow("train", "--show-config", "--config", tmp_path / "my.toml")
    assert by_option.code == by_file.code == 0, by_option.err + by_file.err
    assert tomllib.loads(by_option.out)[name] == tomllib.loads(by_file.out)[name] != shown[name]


def other_value(setting, value):
    """Option, its argument and the TOML value of something else than `value` that `setting` allows."""
    flag = f"--{setting.name.replace('_', '-')}"
    if setting.kind == "boolean":
        return (f"--no-{flag[2:]}", None, "false") if value else (flag, None, "true")
    if setting.choices:
        other = next(choice for choice in setting.choices if choice != value)
        return flag, other, f'["{other}"]' if setting.is_list else f'"{other}"'
    other = {"preset": "paper", "architecture": "average"}.get(setting.name)
    if other is None and setting.kind == "string":
        other = "something-else"
    if other is not None:
        return flag, other, f'["{other}"]' if setting.is_list else f'"{other}"'
    other = next(n for n in (2, 5, 0.25) if n != value and allows(setting, n))
    if setting.name == "kernel_sizes":
        other = 5
    return flag, str(other), f"[{other}]" if setting.is_list else str(other)


def allows(setting, value):
    try:
        setting.convert([value] if setting.is_list else value)
    except ValueError:
        return False
    return True


def test_file_and_options_train_and_are_stored(uflow, good_folder, tmp_path):
    (tmp_path / "my.toml").write_text("epochs = 9\nbatch_size = 4\ninput_size = 64\nlearning_rate = 2e-3\n")
    outcome = uflow(
        "train", "--images", good_folder, "--config", tmp_path / "my.toml", "--epochs", 1, "--out", tmp_path / "run"
    )
    assert outcome.code == 0, outcome.err
    run = load_run(tmp_path / "run")
    assert (run.training.epochs, run.training.batch_size, run.training.learning_rate) == (1, 4, 2e-3)
    assert (run.model.input_size, run.training.preset) == ((64, 64), "lite")


def test_shown_configuration_needs_no_data_and_knows_the_category(uflow):
    outcome = uflow("train", "--preset", "paper", "--dataset", "mvtec", "--category", "screw", "--show-config")
    assert outcome.code == 0
    values = tomllib.loads(outcome.out)
    assert (values["preset"], values["learning_rate"], values["epochs"]) == ("paper", 4.1560e-4, 500)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "papper"], "unknown preset 'papper'; known: dino, lite, lite-fast, paper, resnet"),
        (["--config", "nowhere.toml"], "cannot read --config nowhere.toml: No such file"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(uflow, good_folder, tmp_path, arguments, message):
    outcome = uflow("train", "--images", good_folder, "--out", tmp_path / "run", *arguments)
    assert outcome.code == 1
    assert message in one_line(outcome.err)
    assert not (tmp_path / "run").exists()


def test_a_category_of_a_folder_is_wrong_usage(uflow, good_folder, tmp_path):
    outcome = uflow("train", "--images", good_folder, "--category", "all", "--out", tmp_path / "run", *QUICK)
    assert outcome.code == 2
    assert "--category" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [["--epochs", "many"], ["--learning-rate", "0"], ["--tests", "few"]])
def test_option_values_that_do_not_fit_are_wrong_usage(uflow, good_folder, arguments):
    outcome = uflow("train", "--images", good_folder, *arguments)
    assert outcome.code == 2
    assert arguments[0] in outcome.err


def test_tensorboard_that_is_not_installed_is_one_line_before_training(uflow, good_folder, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorboard" else find_spec(name))
    outcome = uflow("train", "--images", good_folder, "--out", tmp_path / "run", "--tensorboard", *QUICK)
    assert outcome.code == 1
    assert 'pip install "uflow-cli[tensorboard]"' in one_line(outcome.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is an optional extra")
def test_tensorboard_log_is_below_the_run_folder(uflow, good_folder, tmp_path):
    outcome = uflow("train", "--images", good_folder, "--out", tmp_path / "run", "--tensorboard", *QUICK)
    assert outcome.code == 0, outcome.err
    assert [path.name.split(".")[0] for path in (tmp_path / "run" / "tensorboard").iterdir()] == ["events"]
    assert "epoch 1/1" in outcome.err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_leaves_a_usable_run(good_folder, tmp_path):
    command = [
        sys.executable, "-m", "uflow_cli", "train", "--images", str(good_folder), "--out", str(tmp_path / "run"),
        "--epochs", "5000", "--batch-size", "4", "--input-size", "64", "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGINT)
            break
    deadline = time.monotonic() + 120
    _, err = process.communicate(timeout=deadline - time.monotonic())
    assert process.returncode == 0, err
    assert "keeping the best one" in err
    assert load_run(tmp_path / "run").progress.state == "stopped"
