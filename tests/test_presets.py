"""Presets: what they say, what overrides what, and one line for everything that does not fit."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import asdict, replace
from importlib import resources

import pytest

from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.detection.nfa import chi2_log_tail, log_n_tests
from uflow_cli.errors import UflowError
from uflow_cli.model import check_model_config
from uflow_cli.presets import config_text, preset_names, read_config_file, resolve

PUBLISHED = """
    carpet 3.1634e-5 13 200, grid 3.6225e-5 12 500, leather 6.1247e-4 15 500, tile 6.0458e-3 30 200,
    wood 2.4665e-4 22 500, bottle 1.1290e-4 23 200, cable 1.6160e-3 14 200, capsule 1.2119e-3 14 200,
    hazelnut 1.3269e-3 21 500, metal_nut 8.1489e-4 11 200, pill 1.0756e-3 11 200, screw 4.1560e-4 11 500,
    toothbrush 1.2873e-4 21 200, transistor 1.1213e-3 20 400, zipper 4.5525e-5 24 200
"""  # the paper's settings (docs/method.md, section 8): category, learning rate, batch size, epochs


@pytest.fixture
def config_file(tmp_path):
    def write(text, name="my.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_data_files_come_with_the_package():
    files = {file.name for file in resources.files("uflow_cli.presets").iterdir()}
    assert {"dino.toml", "lite.toml", "lite-fast.toml", "paper.toml", "resnet.toml"} <= files
    assert preset_names() == ["dino", "lite", "lite-fast", "paper", "resnet"]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_and_says_so(name):
    _, training = resolve({"preset": name})
    assert training.preset == name


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_names_an_extractor_whose_input_size_fits(name):
    check_model_config(resolve({"preset": name})[0])


def test_presets_of_a_lower_learning_rate_take_more_steps():
    assert {name: resolve({"preset": name})[1].steps for name in ("lite", "lite-fast", "resnet", "dino")} == {
        "lite": 640, "lite-fast": 640, "resnet": 1600, "dino": 1600,
    }  # fmt: skip


@pytest.mark.parametrize(("n_images", "dropout"), [(31, 0.1), (99, 0.1), (100, 0.0), (None, 0.0)])
def test_few_images_drop_out_where_that_was_measured(n_images, dropout):
    found = {name: resolve({"preset": name}, n_images=n_images)[1].dropout for name in preset_names()}
    assert found == {"lite": dropout, "lite-fast": dropout, "resnet": 0.0, "dino": 0.0, "paper": 0.0}
    assert resolve({"dropout": 0.3}, n_images=n_images)[1].dropout == 0.3


@pytest.mark.parametrize(("n_images", "expected"), [(99, (0.1, 0.5)), (100, (0.0, 0.7))])
def test_what_many_images_change_holds_for_every_extractor(n_images, expected):
    for extractor in ("efficientnet-lite0", "efficientnet-lite2", "resnet18"):
        model, training = resolve({"extractor": extractor}, n_images=n_images)
        assert (training.dropout, model.flow_share) == expected, extractor


def test_lite_is_the_default_and_equals_the_defaults_of_the_fields():
    model, training = resolve({})
    assert (replace(model, scales=None), training) == (ModelConfig(), TrainingConfig())
    assert training.preset == "lite"
    fast, training = resolve({"preset": "lite-fast"})
    assert (fast, replace(training, preset="lite")) == (ModelConfig(), TrainingConfig())


TWO_SIZES = "448:8 | 448:16 | 448:32+224:16 | 224:32"


@pytest.mark.parametrize(
    ("given", "scales"),
    [
        ({}, TWO_SIZES),
        ({"input_size": (128, 320)}, "128:8 | 128:16 | 128:32+64:16 | 64:32"),
        ({"input_size": (224, 224)}, None),  # half of it is no multiple of 32
        ({"input_size": (64, 64)}, None),  # a single cell
        ({"extractor": "resnet18"}, None),
        ({"strides": (8, 16)}, None),
        ({"scales": None}, None),
        ({"scales": "full:16 | half:16"}, "448:16 | 224:16"),
        ({"preset": "dino"}, "448:14 | 224:14"),
        ({"paper_exact": True}, None),
    ],
)
def test_scales_of_the_default_follow_the_input_and_give_way_to_what_leaves_no_room(given, scales):
    model, _ = resolve(given)
    assert model.scales == scales
    check_model_config(model)


@pytest.mark.parametrize(("n_images", "scales"), [(99, None), (100, TWO_SIZES), (None, TWO_SIZES)])
def test_few_images_are_seen_at_one_size_unless_more_are_asked_for(n_images, scales):
    assert resolve({}, n_images=n_images)[0].scales == scales
    assert resolve({"scales": "full:16 | half:16"}, n_images=n_images)[0].scales == "448:16 | 224:16"
    assert resolve({"preset": "dino"}, n_images=n_images)[0].scales == "448:14 | 224:14"


def test_paper_preset_tests_by_eq_9_and_the_others_by_size():
    assert {name: resolve({"preset": name})[0].tests for name in preset_names()} == {
        "dino": "by-size", "lite": "by-size", "lite-fast": "by-size", "paper": "paper", "resnet": "by-size",
    }  # fmt: skip


@pytest.mark.parametrize("row", [row.split() for row in PUBLISHED.split(",")], ids=lambda row: row[0])
def test_paper_preset_has_the_published_row_of_every_category(row):
    category, rate, batch, epochs = row
    _, training = resolve({"preset": "paper"}, dataset="mvtec", category=category)
    assert (training.learning_rate, training.batch_size, training.epochs) == (float(rate), int(batch), int(epochs))
    assert training.weight_decay == 1e-5


def test_paper_preset_has_no_other_categories():
    values = tomllib.loads((resources.files("uflow_cli.presets") / "paper.toml").read_text())
    assert list(values["category"]) == ["mvtec"]
    assert len(values["category"]["mvtec"]) == 15


@pytest.mark.parametrize(
    ("dataset", "category"), [("mvtec", "cloth"), ("visa", "screw"), ("folder", "screw"), (None, None)]
)
def test_paper_preset_has_a_default_for_everything_else(dataset, category):
    _, training = resolve({"preset": "paper"}, dataset=dataset, category=category)
    assert (training.learning_rate, training.batch_size, training.epochs) == (1e-4, 8, 200)


def test_command_line_beats_file_beats_category_beats_preset_beats_default(config_file):
    file = config_file("epochs = 7\nbatch_size = 3\n")
    _, training = resolve(
        {"preset": "paper", "batch_size": 2}, config_file=file, dataset="mvtec", category="screw"
    )  # fmt: skip
    assert training.batch_size == 2  # over the file's 3
    assert training.epochs == 7  # over the category's 500
    assert training.learning_rate == 4.1560e-4  # over the preset's 1e-4
    model, _ = resolve({"preset": "paper"})
    assert model.tests == "paper"  # over the default
    assert training.seed == 0  # the default


def test_file_may_name_the_preset_and_the_command_line_another(config_file):
    file = config_file('preset = "paper"\n')
    assert resolve({}, config_file=file)[0].tests == "paper"
    assert resolve({"preset": "lite"}, config_file=file) == resolve({})


@pytest.mark.parametrize("name", preset_names())
def test_printed_configuration_reads_back_as_the_same(name, config_file):
    resolved = resolve({"preset": name, "learning_rate": 1e-7}, dataset="mvtec", category="screw")
    file = config_file(config_text(*resolved))
    assert resolve({}, config_file=file) == resolved
    assert read_config_file(file).keys() == (asdict(resolved[0]) | asdict(resolved[1])).keys()


def test_unset_values_read_back_over_a_preset_that_sets_them(config_file):
    resolved = resolve({"preset": "paper", "epochs": None})
    assert resolve({}, config_file=config_file(config_text(*resolved)))[1].epochs is None


@pytest.mark.parametrize("name", ["papper", "../paper", "", "PAPER", "__init__"])
def test_unknown_preset_lists_the_known_ones(name):
    with pytest.raises(
        UflowError, match=rf"^unknown preset '{re.escape(name)}'; known: dino, lite, lite-fast, paper, resnet$"
    ):
        resolve({"preset": name})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"unknown setting 'epoch' in .*my\.toml; did you mean epochs\?"),
        ("batch-size = 3", r"unknown setting 'batch-size' in .*my\.toml; did you mean batch_size\?"),
        ("[training]\nepochs = 3", r"unknown setting 'training' in .*my\.toml; "),
        ("epochs = '3'", r"epochs = '3' in .*my\.toml: a whole number of at least 1, or 'auto', is needed"),
        ("learning_rate = -1.0", r"learning_rate = -1 in .*my\.toml: a number above 0 is needed"),
        ("tests = 'few'", r"tests = 'few' in .*my\.toml: one of paper, by-size is needed"),
        ("epochs = ", r"--config .*my\.toml is not TOML: Invalid value"),
        ("a = 1\na = 2", r"--config .*my\.toml is not TOML"),
    ],
)
def test_wrong_file_is_one_line_with_key_and_file(config_file, text, message):
    with pytest.raises(UflowError, match=message) as caught:
        resolve({}, config_file=config_file(text))
    assert "\n" not in str(caught.value)


def test_unreadable_file_is_one_line(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path, why in (("nowhere", "No such file"), (".", "directory"), ("binary", "not TOML")):
        with pytest.raises(UflowError, match=why):
            resolve({}, config_file=tmp_path / path)


def test_paper_exact_means_the_published_settings_whatever_the_preset_says(config_file):
    model, training = resolve({"paper_exact": True})
    assert (model.tests, model.precision) == ("paper", "fp32")
    assert (training.schedule, training.patience, training.held_out_fraction) == ("published", 20, 0)
    assert (training.feature_noise, training.dropout) == (0, 0)
    assert resolve({"paper_exact": True}, config_file=config_file('augment = ["flips"]')) == (model, training)
    assert resolve({}, config_file=config_file("paper_exact = true")) == (model, training)
    assert resolve({"paper_exact": True}, config_file=config_file('tests = "by-size"')) == (model, training)
    assert resolve({"paper_exact": False}, config_file=config_file("paper_exact = true")) == resolve({})


def test_paper_exact_leaves_the_rest_to_preset_and_user():
    _, training = resolve({"preset": "paper", "paper_exact": True, "patience": 3}, dataset="mvtec", category="screw")
    assert (training.learning_rate, training.patience) == (4.1560e-4, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paper_exact": True, "tests": "by-size"}, "tests = 'by-size' does not go with paper_exact"),
        ({"paper_exact": True, "held_out_fraction": 0.2}, "held_out_fraction = 0.2 does not go with paper_exact"),
        ({"held_out_fraction": 0}, "held_out_fraction = 0 leaves no images to choose the epoch by"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UflowError, match=f"^{message}"):
        resolve(settings)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.timeout(20)
def test_a_pipe_of_settings_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "my.toml")
    with pytest.raises(UflowError, match=r"cannot read --config .*my\.toml: it is a device, pipe or socket"):
        read_config_file(tmp_path / "my.toml")


@pytest.mark.parametrize(
    ("name", "channels", "grids", "energy"),
    [("paper", 816, (28, 14), 5.4), ("lite", 59, (56, 28, 14), 155), ("resnet", 84, (112, 56, 28), 426)],
)
def test_tests_are_eq_9_only_where_a_lone_cell_can_meet_it(name, channels, grids, energy):
    """The presets' comments: how many times its normal energy a cell of the finest embeddings needs under eq. 9."""
    decades = chi2_log_tail(energy * channels, degrees_of_freedom=channels, tail="chernoff")
    assert float(decades) == pytest.approx(-log_n_tests([(n, n) for n in grids]), rel=0.01)
    assert (resolve({"preset": name})[0].tests == "paper") == (energy < 10)
