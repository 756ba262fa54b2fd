"""Presets: settings as TOML files beside this one, and the order in which files and options override them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from uflow_cli.config import ModelConfig, TrainingConfig, all_settings, scales_fit, sized_scales
from uflow_cli.errors import UflowError
from uflow_cli.files import read_plain
from uflow_cli.schema import Setting, checked, settings_of, to_dict

CATEGORIES = "category"  # [category.<dataset>.<category>]: a preset's settings for one category
MANY = "many_images"  # [many_images], and [many_images.<extractor>] for one extractor: where there are as many as
MANY_IMAGES = 100  # good images; see benchmarks/results/fused.md
PAPER_EXACT = {  # what paper_exact means for other settings (docs/method.md, section 8)
    "precision": "fp32",
    "flow_precision": "fp32",
    "fit": "squash",
    "scales": None,
    "tests": "paper",
    "merge": "min",
    "gaussian": False,
    "neighbours": 0,
    "lot": 1,
    "held_out_fraction": 0.0,
    "folds": 1,
    "schedule": "published",
    "feature_noise": 0.0,
    "dropout": 0.0,
    "gradient_clip": 0.0,
    "patience": 20,
    "augment": None,
}


def preset_names() -> list[str]:
    """The presets there are."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def preset_settings(
    name: str,
    *,
    dataset: str | None,
    category: str | None,
    given: Mapping[str, Any] | None = None,
    n_images: int | None = None,
) -> dict[str, Any]:
    """The settings of preset `name`, those for the category and the extractor included; UflowError for an unknown name.

    `n_images` good images, if it is known how many, may be too few for some of them. What the user has `given` may
    leave no room for scales of several sizes: strides, or an input whose sides they do not divide. Then there are none.
    """
    given = given or {}
    if name not in preset_names():
        raise UflowError(f"unknown preset {name!r}; known: {', '.join(preset_names())}")
    values = tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))
    categories, of_many = values.pop(CATEGORIES, {}), values.pop(MANY, {})
    values |= categories.get(dataset, {}).get(category, {})
    if n_images is None or n_images >= MANY_IMAGES:
        of_extractor = of_many.get(given.get("extractor", values.get("extractor")), {})
        values |= {key: value for key, value in of_many.items() if not isinstance(value, dict)} | of_extractor
    values = checked(values, all_settings(), where=f"in preset {name}")
    size = given.get("input_size", values.get("input_size", ModelConfig().input_size))
    if given.get("strides") is not None or not scales_fit(values.get("scales"), size):
        values.pop("scales", None)
    return values


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings in the TOML file `path`; UflowError for an unreadable file, an unknown key or a wrong value."""
    try:
        values = tomllib.loads(read_plain(path).decode())
    except OSError as error:
        raise UflowError(f"cannot read --config {path}: {error.strerror}") from error
    except ValueError as error:  # neither TOML nor UTF-8
        raise UflowError(f"--config {path} is not TOML: {error}") from error
    return checked(values, all_settings(), where=f"in {path}")


def resolve(
    overrides: Mapping[str, Any], *, config_file: Path | None = None, dataset: str | None = None,
    category: str | None = None, n_images: int | None = None, where: str = "on the command line",
) -> tuple[ModelConfig, TrainingConfig]:  # fmt: skip
    """The configuration of a run: `overrides` > `config_file` > category > preset > default.

    `n_images` is that of good images; None, if it is not known, stands for enough. `where` tells users where the
    overrides stand. UflowError for what is unknown, does not fit or go together.
    """
    given = [
        read_config_file(config_file) if config_file else {},
        checked(overrides, all_settings(), where=where),
    ]
    preset = _merged(given).get("preset", all_settings()["preset"].default)
    of_preset = preset_settings(preset, dataset=dataset, category=category, given=_merged(given), n_images=n_images)
    layers = [of_preset, *given]
    if _merged(layers).get("paper_exact"):
        layers = [{**PAPER_EXACT, **layer} if layer.get("paper_exact") else layer for layer in layers]
    values = _merged(layers)
    if values.get("scales") is not None:
        values["scales"] = sized_scales(values["scales"], values.get("input_size", ModelConfig().input_size)[0])
    of_model = settings_of(ModelConfig)
    model = ModelConfig(**{key: value for key, value in values.items() if key in of_model})
    training = TrainingConfig(**{key: value for key, value in values.items() if key not in of_model})
    _require_selection(model, training)
    return model, training


def _require_selection(model: ModelConfig, training: TrainingConfig) -> None:
    """UflowError unless either held-out images or, as published, the test set can choose the epoch."""
    share = training.held_out_fraction
    if model.paper_exact and share:
        raise UflowError(
            f"held_out_fraction = {share:g} does not go with paper_exact, which trains on all good images; drop one"
        )
    if (training.folds or 1) > 1 and (training.augment or not share):
        what = "augment" if training.augment else "held_out_fraction = 0"
        raise UflowError(f"folds = {training.folds} does not go with {what}; drop one")
    if not model.paper_exact and not share:
        raise UflowError("held_out_fraction = 0 leaves no images to choose the epoch by; give a share above 0")


def _merged(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All settings of `layers`; a later layer wins."""
    return {key: value for layer in layers for key, value in layer.items()}


def config_text(model: ModelConfig, training: TrainingConfig) -> str:
    """Both configurations as a TOML text that `read_config_file` reads back."""
    values = {**to_dict(model), **to_dict(training)}
    lines = [f"{name} = {_toml(values[name], setting)}" for name, setting in all_settings().items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any, setting: Setting) -> str:
    if value is None:
        return json.dumps(setting.none)
    if isinstance(value, list):
        return f"[{', '.join(_toml(item, setting) for item in value)}]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
