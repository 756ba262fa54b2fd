"""`uflow train`: fit a model to good images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from uflow_cli.cli.interrupt import stop_on_interrupt
from uflow_cli.cli.options import DATA_ROOT, DEVICE, Category, DataRoot, DatasetName, Device
from uflow_cli.config import Coupling, Schedule


def train(
    dataset: DatasetName = None,
    category: Category = None,
    data_root: DataRoot = DATA_ROOT,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of good images, instead of --dataset.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder.  [default: runs/<dataset>/<category>]")] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the training images.  [default: enough for 1600 steps, 20 to 200]"),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    schedule: Annotated[
        Schedule | None,
        typer.Option(help="one-cycle (rise, then fall), constant or published.  [default: one-cycle]"),
    ] = None,
    warm_up: Annotated[
        float | None, typer.Option(help="Share of all steps over which the rate rises.  [default: 0.1]")
    ] = None,
    gradient_clip: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient; 0: as it comes.  [default: 0]")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=0, help="Epochs without a better one until training ends; 0: never.  [default: 0]"),
    ] = None,
    input_size: Annotated[int | None, typer.Option(min=1, help="Side in pixels to which images are resized.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="u, average (scales side by side) or single:N (scale N alone).  [default: u]")
    ] = None,
    coupling: Annotated[
        Coupling | None, typer.Option(help="uniform: scaling that does not depend on the input.  [default: affine]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the split, the initial weights and the order of images.")] = 0,
    device: Device = DEVICE,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out already holds.")] = False,
) -> None:
    """Train on good images only; held-out good images choose the epoch and calibrate the false alarms."""
    from uflow_cli.cli import console

    if (images is None) == (dataset is None):
        raise typer.BadParameter(
            "give either --dataset NAME --category NAME or --images DIR", param_hint="'--dataset' / '--images'"
        )

    from uflow_cli.config import ModelConfig, TrainingConfig

    model_config = ModelConfig(**_given(input_size=input_size, architecture=architecture, coupling=coupling))
    config = TrainingConfig(
        seed=seed,
        **_given(
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, schedule=schedule, warm_up=warm_up,
            gradient_clip=gradient_clip, patience=patience,
        ),
    )  # fmt: skip

    from uflow_cli.datasets import folder_dataset, load_dataset
    from uflow_cli.model import choose_device
    from uflow_cli.training import train as train_run

    data = load_dataset(dataset, root=data_root, category=category) if dataset else folder_dataset(images or Path())
    run = out or Path("runs") / data.name / data.category
    console.print_training_start(data.name, data.category, len(data.train), run=run)
    with console.training_display() as display, stop_on_interrupt(console.warn) as interrupt:
        result = train_run(
            [image.path for image in data.train], out=run, dataset=data.name, category=data.category,
            model_config=model_config, config=config, device=choose_device(device.value), observer=display,
            should_stop=interrupt.is_set, overwrite=overwrite,
        )  # fmt: skip
    console.print_training_result(result)


def _given(**values: Any) -> dict[str, Any]:
    """Only what the user gave; the rest keeps its default in one place, the configuration."""
    return {name: value for name, value in values.items() if value is not None}
