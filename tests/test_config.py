"""Settings: refused where they make no sense, and the same after a round trip."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from uflow_cli.config import ModelConfig, TrainingConfig, config_from_dict
from uflow_cli.errors import UflowError


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(tests="paper"),
        ModelConfig(architecture="single:2", coupling="uniform"),
        TrainingConfig(),
        TrainingConfig(epochs=3),
    ],
)
def test_round_trip(config):
    assert config_from_dict(type(config), asdict(config)) == config


def test_unknown_setting_is_named_with_the_known_ones():
    with pytest.raises(UflowError, match=r"'epoch'.*epochs"):
        config_from_dict(TrainingConfig, {"epoch": 3})


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
        {"held_out_fraction": -0.1}, {"schedule": "x"}, {"warm_up": 1.5}, {"gradient_clip": -1.0}, {"patience": -1},
            {"held_out_fraction": 1.0}, {"seed": -1},
    ],
)  # fmt: skip
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(
        UflowError,
        match=next(iter(wrong))
        .replace("_", "[ -]")
        .replace("held[ -]out", "held-out")
        .replace("warm[ -]up", "warm-up"),
    ):
        TrainingConfig(**wrong)


@pytest.mark.parametrize(("n_images", "expected"), [(4, 200), (50, 200), (646, 20), (100, 123), (100_000, 20)])
def test_default_epochs_make_about_1600_steps(n_images, expected):
    assert TrainingConfig(batch_size=8).n_epochs(n_images) == expected


def test_given_epochs_win():
    assert TrainingConfig(epochs=7).n_epochs(10_000) == 7


@pytest.mark.parametrize("wrong", ["", "U", "single", "single:", "single:0", "single:-1", "single:1.5", "averages", 3])
def test_an_unknown_architecture_is_refused_with_the_known_ones(wrong):
    with pytest.raises(UflowError, match=r"architecture.*u, average or single:N"):
        ModelConfig(architecture=wrong)


def test_an_unknown_coupling_is_refused():
    with pytest.raises(UflowError, match=r"coupling 'additive': affine or uniform"):
        ModelConfig(coupling="additive")


@pytest.mark.parametrize(("architecture", "expected"), [("u", (0, 1, 2)), ("average", (0, 1, 2)), ("single:3", (2,))])
def test_scales_that_the_flow_sees(architecture, expected):
    assert ModelConfig(architecture=architecture).scales(3) == expected
