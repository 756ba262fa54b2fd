"""Settings: refused where they make no sense, and the same after a round trip through Python, JSON and text."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import pytest
from pydantic import Field

from uflow_cli.config import ModelConfig, TrainingConfig, all_settings
from uflow_cli.errors import UflowError
from uflow_cli.schema import Settings, from_dict, from_json, record, settings_of, to_json


@record
class Example(Settings):
    """One field of every kind that a setting can be."""

    rate: float = Field(default=0.5, gt=0, lt=1)
    count: int = Field(default=1, ge=1, le=9)
    limit: float | None = Field(default=None, ge=0, json_schema_extra={"none": "off"})
    strides: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1)
    exact: bool = False


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(), ModelConfig(tests="paper"), ModelConfig(architecture="single:2", coupling="uniform"), TrainingConfig(),
        TrainingConfig(epochs=3), Example(limit=2.5, strides=(4, 8), exact=True),
    ],
)  # fmt: skip
def test_round_trip_through_json(config):
    assert from_dict(type(config), json.loads(json.dumps(asdict(config)))) == config
    assert from_json(type(config), to_json(config)) == config


def test_what_is_missing_takes_its_default():
    """A run that was stored before a field was there loads after."""
    assert from_dict(TrainingConfig, {"epochs": 3}) == TrainingConfig(epochs=3)


def test_lists_become_tuples_and_whole_numbers_floats_where_the_field_says_so():
    config = from_dict(Example, {"limit": 3, "strides": [4, 8]})
    assert config.strides == (4, 8)
    assert isinstance(config.limit, float)
    assert from_dict(Example, {"limit": "off", "strides": "none"}) == Example()


@pytest.mark.parametrize(("key", "hint"), [("epoch", "did you mean epochs?"), ("qqq", "known: augment, batch_size, ")])
def test_unknown_setting_is_named_with_the_closest_or_all_known_ones(key, hint):
    with pytest.raises(UflowError, match=f"'{key}'.*{hint.replace('?', '[?]')}"):
        from_dict(TrainingConfig, {key: 3})


@pytest.mark.parametrize(
    ("wrong", "demand"),
    [
        ({"rate": 0.0}, "a number above 0 and below 1"), ({"rate": 1}, "below 1"), ({"rate": float("nan")}, "a number"),
        ({"rate": "0.5"}, "a number"), ({"rate": True}, "a number"), ({"rate": None}, "a number"),
        ({"count": 0}, "a whole number of at least 1 and of at most 9"), ({"count": 10}, "at most 9"), ({"count": 2.0}, "a whole"),
        ({"count": True}, "a whole"),
        ({"limit": "none"}, "or 'off'"), ({"limit": float("inf")}, "at least 0"),
        ({"strides": 4}, "a list"), ({"strides": []}, "a list"), ({"strides": [4, 0]}, "at least 1"),
        ({"exact": 1}, "true or false"), ({"exact": "true"}, "true or false"),
    ],
)  # fmt: skip
def test_wrong_types_and_values_are_refused_with_what_is_needed(wrong, demand):
    [(key, value)] = wrong.items()
    with pytest.raises(UflowError, match=rf"^{key} = .*: .*{demand}"):
        from_dict(Example, wrong)
    if not (isinstance(value, str) or value == []):
        with pytest.raises(UflowError, match=demand):
            Example(**wrong)


@pytest.mark.parametrize("edge", [{"count": 1}, {"count": 9}, {"limit": 0.0}, {"rate": 1e-9}])
def test_limits_are_allowed_where_they_are_part_of_the_range(edge):
    assert asdict(Example(**edge)) | edge == asdict(Example(**edge))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rate", "1e-1", 0.1), ("count", "7", 7), ("limit", "off", None), ("limit", "2", 2.0), ("strides", "4, 8,16", (4, 8, 16)),
        ("strides", "none", None), ("strides", "4", (4,)),
    ],
)  # fmt: skip
def test_text_of_a_command_line_means_a_value(name, text, value):
    parsed = settings_of(Example)[name].parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("name", "text"), [("rate", "much"), ("count", "1.5"), ("limit", "none"), ("strides", "4,x")])
def test_text_that_means_nothing_is_refused(name, text):
    with pytest.raises(ValueError, match="is needed"):
        settings_of(Example)[name].parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"weight_decay": -1.0},
        {"held_out_fraction": -0.1}, {"held_out_fraction": 1.0}, {"seed": -1}, {"seed": 2**31}, {"schedule": "x"},
        {"warm_up": 1.5}, {"gradient_clip": -1.0}, {"patience": -1},
    ],
)  # fmt: skip
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(UflowError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_no_setting_stands_in_both_configurations():
    assert len(all_settings()) == len(settings_of(ModelConfig)) + len(settings_of(TrainingConfig))


def test_every_setting_is_explained_in_a_sentence():
    assert [name for name, setting in all_settings().items() if not setting.help.endswith(".")] == []


@pytest.mark.parametrize(("n_images", "expected"), [(4, 200), (23, 200), (51, 91), (255, 20), (646, 20), (100_000, 20)])
def test_default_epochs_make_about_640_steps(n_images, expected):
    assert TrainingConfig(batch_size=8).n_epochs(n_images) == expected


def test_epochs_follow_the_steps_asked_for_unless_they_are_given_themselves():
    assert [TrainingConfig(batch_size=8, steps=1600).n_epochs(n) for n in (51, 255)] == [200, 50]
    assert TrainingConfig(batch_size=8, steps=1600, epochs=3).n_epochs(255) == 3


@pytest.mark.parametrize(
    ("n_images", "n_groups", "expected"),
    [(8, 0, 1), (40, 0, 1), (400, 0, 1), (40, 6, 5), (20, 6, 1), (400, 6, 5), (400, 3, 3), (400, 40, 1)],
)
def test_few_groups_are_held_out_in_turns(n_images, n_groups, expected):
    assert TrainingConfig().n_folds(n_images, n_groups=n_groups) == expected


def test_given_folds_win_as_far_as_there_are_images_and_groups():
    assert TrainingConfig(folds=4).n_folds(1000) == 4
    assert TrainingConfig(folds=4).n_folds(1000, n_groups=2) == 2
    assert TrainingConfig(folds=4).n_folds(3) == 1
    assert TrainingConfig(augment=("flips",)).n_folds(50, n_groups=6) == 1


def test_given_epochs_win():
    assert TrainingConfig(epochs=7).n_epochs(10_000) == 7


@pytest.mark.parametrize("wrong", ["", "U", "single", "single:", "single:0", "single:-1", "single:1.5", "averages", 3])
def test_an_unknown_architecture_is_refused_with_the_known_ones(wrong):
    with pytest.raises(UflowError, match=r"architecture.*u, average or single:N"):
        ModelConfig(architecture=wrong)


def test_an_unknown_coupling_is_refused():
    with pytest.raises(UflowError, match=r"coupling = 'additive': one of affine, uniform is needed"):
        ModelConfig(coupling="additive")


@pytest.mark.parametrize("wrong", [(2,), (3, 4), (0,), ()])
def test_kernel_sizes_are_odd(wrong):
    with pytest.raises(UflowError, match=r"kernel_sizes"):
        ModelConfig(kernel_sizes=wrong)


@pytest.mark.parametrize(("architecture", "expected"), [("u", (0, 1, 2)), ("average", (0, 1, 2)), ("single:3", (2,))])
def test_scales_that_the_flow_sees(architecture, expected):
    assert ModelConfig(architecture=architecture).flow_scales(3) == expected
