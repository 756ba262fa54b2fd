"""`uflow train`: fit a model to good images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from uflow_cli.cli.interrupt import stop_on_interrupt
from uflow_cli.cli.options import DATA_ROOT, DEVICE, Category, DataRoot, DatasetName, Device, with_settings


@with_settings
def train(
    dataset: DatasetName = None,
    category: Category = None,
    data_root: DataRoot = DATA_ROOT,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of good images, instead of --dataset.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder.", show_default="runs/<dataset>/<category>")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of settings: the options below, with _ for -.")
    ] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print all settings as --config takes them, and train nothing.")
    ] = False,
    device: Device = DEVICE,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out already holds.")] = False,
    **settings: Any,
) -> None:
    """Train on good images only; held-out good images choose the epoch and calibrate the false alarms.

    Settings come from the preset; --config overrides the preset, options override both.
    """
    from uflow_cli.cli import console
    from uflow_cli.presets import config_text, resolve

    given = {name: value for name, value in settings.items() if value is not None}
    if show_config:
        model_config, training_config = resolve(given, config_file=config, dataset=dataset, category=category)
        console.print_text(config_text(model_config, training_config))
        return
    if (images is None) == (dataset is None):
        raise typer.BadParameter(
            "give either --dataset NAME --category NAME or --images DIR", param_hint="'--dataset' / '--images'"
        )

    from uflow_cli.datasets import folder_dataset, load_dataset
    from uflow_cli.model import choose_device
    from uflow_cli.training import train as train_run

    data = load_dataset(dataset, root=data_root, category=category) if dataset else folder_dataset(images or Path())
    model_config, training_config = resolve(given, config_file=config, dataset=data.name, category=data.category)
    run = out or Path("runs") / data.name / data.category
    console.print_training_start(data.name, data.category, len(data.train), preset=training_config.preset, run=run)
    with console.training_display() as display, stop_on_interrupt(console.warn) as interrupt:
        result = train_run(
            [image.path for image in data.train], out=run, dataset=data.name, category=data.category,
            model_config=model_config, config=training_config, device=choose_device(device.value), observer=display,
            should_stop=interrupt.is_set, overwrite=overwrite,
        )  # fmt: skip
    console.print_training_result(result)
