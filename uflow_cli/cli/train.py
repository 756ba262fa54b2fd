"""`uflow train`: fit a model to good images."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uflow_cli.cli.options import (
    CACHE_SIZE,
    DEVICE,
    CacheDir,
    CacheSize,
    Category,
    DataRoot,
    DatasetName,
    Device,
    DeviceName,
    RegionOfInterest,
    Strict,
    are_many,
    ask,
    chosen_cache,
    chosen_root,
    data_of,
    heed,
    with_settings,
)

if TYPE_CHECKING:
    from uflow_cli.cache import CacheFolder
    from uflow_cli.categories import TrainingTask
    from uflow_cli.config import ModelConfig, TrainingConfig
    from uflow_cli.training import Observer

SAMPLE, SAMPLE_ROOT = "fabric", Path("data")
KEPT_BESIDE_RESUME = (
    "resume",
    "device",
    "cache_dir",
    "cache_size",
    "no_cache",
    "tensorboard",
    "graph",
    "weights",
)  # do not change the result


@with_settings
def train(
    context: typer.Context,
    dataset: DatasetName = None,
    category: Category = None,
    data_root: DataRoot = None,
    images: Annotated[
        Path | None, typer.Option("--images", "--good", help="Folder of good images, instead of --dataset.")
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
    cache_dir: CacheDir = None,
    cache_size: CacheSize = CACHE_SIZE,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Keep no features: compute the same ones anew in every epoch."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out already holds.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="Run folder of an unfinished training to go on with; "
            "beside it only --device, --tensorboard, --graph, --weights and the cache's options.",
        ),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option("--exclude", help="File of good images not to train on, such as a run's suspicious.csv."),
    ] = None,
    roi: RegionOfInterest = None,
    strict: Strict = False,
    graph: Annotated[
        bool,
        typer.Option(
            "--graph/--no-graph",
            envvar="UFLOW_GRAPH",
            help="Compute features by a compiled graph and end with the run's, where there can be one.",
        ),
    ] = True,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the log for TensorBoard, below the run folder.")
    ] = False,
    **settings: Any,
) -> None:
    """Train on good images only; held-out good images choose the epoch and calibrate the false alarms.

    Settings come from the preset; --config overrides the preset, options override both.
    """
    if resume is not None:
        _require_alone(context)
        cache = None if no_cache else chosen_cache(cache_dir, cache_size)
        _resume(resume, device, cache, tensorboard=tensorboard, graph=graph, weights=settings["weights"])
        return

    from uflow_cli.cli import console
    from uflow_cli.presets import config_text, resolve

    given = {name: value for name, value in settings.items() if value is not None}
    if show_config:
        model_config, training_config = resolve(given, config_file=config, dataset=dataset, category=category)
        console.print_text(config_text(model_config, training_config))
        return
    if images is None and dataset is None and ask(
        f"No images were named. Train on a small synthetic product, in {SAMPLE_ROOT / SAMPLE}?"
    ):  # fmt: skip
        dataset, category, data_root = "mvtec", SAMPLE, _sample_root()
    if (images is None) == (dataset is None):
        raise typer.BadParameter(
            f"give either --dataset NAME --category NAME or --images DIR; to try it first: uflow sample --out "
            f"{SAMPLE_ROOT}, then uflow train --dataset mvtec --category {SAMPLE}",
            param_hint="'--dataset' / '--images'",
        )
    if images is not None and category is not None:
        raise typer.BadParameter("a category is of a --dataset, not of --images", param_hint="'--category'")

    def resolved(dataset: str, category: str, n_images: int) -> tuple[ModelConfig, TrainingConfig]:
        return resolve(given, config_file=config, dataset=dataset, category=category, n_images=n_images)

    root = chosen_root(dataset, category, data_root) if dataset else Path()
    cache = None if no_cache else chosen_cache(cache_dir, cache_size)
    if dataset is not None and category is not None and are_many(category):
        if roi is not None:
            raise typer.BadParameter(
                "a mask is of one category; masks beside the images can be of many", param_hint="'--roi'"
            )
        if strict:
            _heed_all(dataset, category, root)
        _train_many(
            dataset, category, data_root=root, out=out, settings=resolved, device=device, cache=cache,
            overwrite=overwrite, tensorboard=tensorboard, graph=graph, exclude=exclude,
        )  # fmt: skip
        return

    from uflow_cli.datasets import folder_dataset, groups_of, load_dataset, read_exclusion, without
    from uflow_cli.model import choose_device
    from uflow_cli.training import is_rank_zero, train_product

    data = load_dataset(dataset, root=root, category=category) if dataset else folder_dataset(images or Path())
    if is_rank_zero() or strict:
        heed(data.left_out, strict=strict)
    data, excluded = without(data, read_exclusion(exclude)) if exclude else (data, ())
    model_config, training_config = resolved(data.name, data.category, len(data.train))
    groups = groups_of(data.train, training_config.groups)
    run = out or Path("runs") / data.name / data.category
    if is_rank_zero():
        console.print_training_start(
            data.name, data.category, len(data.train), preset=training_config.preset,
            paper_exact=model_config.paper_exact, run=run,
            n_flows=training_config.n_folds(len(data.train), n_groups=len(set(groups))),
        )  # fmt: skip
    with _watched(run, tensorboard=tensorboard) as (observer, should_stop):
        result = train_product(
            data, out=run, model_config=model_config, config=training_config, device=choose_device(device.value),
            observer=observer, should_stop=should_stop, overwrite=overwrite, root=root if dataset else None,
            good=images, cache=cache, excluded=excluded, compile_graph=graph, roi=roi,
        )  # fmt: skip
    if is_rank_zero():
        if result.roi is not None:
            console.note(f"region of interest: {roi or 'each image has its own mask beside it'}")
        console.print_training_result(result, data)


def _sample_root() -> Path:
    """The folder that holds the sample, which is written if it is not there."""
    from uflow_cli.sample import write_sample

    if not (SAMPLE_ROOT / SAMPLE).is_dir():
        write_sample(SAMPLE_ROOT, category=SAMPLE)
    return SAMPLE_ROOT


def _heed_all(dataset: str, category: str, data_root: Path) -> None:
    """Refuse a data set of which anything was left out, before the first of its categories is trained."""
    from uflow_cli.datasets import choose_categories, load_dataset

    for name in choose_categories(dataset, category, root=data_root):
        heed(load_dataset(dataset, root=data_root, category=name).left_out, strict=True)


def _train_many(
    dataset: str, category: str, *, data_root: Path, out: Path | None,
    settings: Callable[[str, str, int], tuple[ModelConfig, TrainingConfig]], device: DeviceName,
    cache: CacheFolder | None, overwrite: bool, tensorboard: bool, graph: bool, exclude: Path | None,
) -> None:  # fmt: skip
    """Train the categories that `category` names; exit code 1 if one of them failed."""
    from uflow_cli.categories import train_categories
    from uflow_cli.cli import console
    from uflow_cli.datasets import choose_categories, read_exclusion
    from uflow_cli.model import choose_device
    from uflow_cli.training import require_tensorboard

    if tensorboard:
        require_tensorboard()
    names = choose_categories(dataset, category, root=data_root)
    excluded = read_exclusion(exclude) if exclude else ()
    folder = out or Path("runs") / dataset
    observe = partial(_observed_task, tensorboard=tensorboard)
    outcomes = []
    with stop_on_interrupt(lambda _message: None) as interrupt:  # the process of the category in hand says so
        trainings = train_categories(
            dataset, names, root=data_root, out=folder, settings=settings, device=choose_device(device.value),
            cache=cache, observe=observe, on_bug=console.print_traceback, should_stop=interrupt.is_set,
            exclude=excluded, overwrite=overwrite, compile_graph=graph,
        )  # fmt: skip
        for outcome in trainings:
            console.print_outcome(outcome)
            outcomes.append(outcome)
    console.print_trainings(outcomes, folder=folder)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _resume(
    folder: Path, device: DeviceName, cache: CacheFolder | None, *, tensorboard: bool, graph: bool,
    weights: tuple[str, ...] | None,
) -> None:  # fmt: skip
    from uflow_cli.cli import console
    from uflow_cli.model import choose_device
    from uflow_cli.run.lock import remove_traces
    from uflow_cli.run.record import is_run, load_run
    from uflow_cli.run.state import has_state, read_state
    from uflow_cli.training import criterion_of, is_rank_zero
    from uflow_cli.training import resume as resume_run

    if not has_state(folder) and is_run(folder) and load_run(folder).progress.state == "finished":
        if is_rank_zero():
            remove_traces(folder)
        console.note(f"the training in {folder} is finished: there is nothing to resume")
        return
    state, _ = read_state(folder, with_tensors=False)
    data = data_of(state.origin)
    if is_rank_zero():
        console.note(f"resuming the training in {folder} after epoch {len(state.log)}")
    with _watched(folder, tensorboard=tensorboard) as (observer, should_stop):
        result = resume_run(
            folder, [image.path for image in data.train], device=choose_device(device.value), observer=observer,
            should_stop=should_stop, cache=cache,
            criterion=criterion_of(state.model, data, cache=cache, on_progress=observer.on_features),
            weights=weights, compile_graph=graph,
        )  # fmt: skip
    if is_rank_zero():
        console.print_training_result(result, data)


def _require_alone(context: typer.Context) -> None:
    """Wrong usage if an option beside --resume would be ignored."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in KEPT_BESIDE_RESUME and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(
                f"a training goes on with the settings it began with; leave out --{name.replace('_', '-')}",
                param_hint="'--resume'",
            )


@contextlib.contextmanager
def _watched(run: Path, *, tensorboard: bool) -> Iterator[tuple[Observer, Callable[[], bool]]]:
    """The observer of a training, and a function that tells whether to stop. Only the process of rank 0 prints."""
    from uflow_cli.cli import console
    from uflow_cli.training import OtherRankError, Silent, is_rank_zero

    try:
        if is_rank_zero():
            with _observed(run, tensorboard=tensorboard) as observer, stop_on_interrupt(console.warn) as interrupt:
                yield observer, interrupt.is_set
        else:
            with stop_on_interrupt(lambda _message: None) as interrupt:
                yield Silent(), interrupt.is_set
    except OtherRankError:
        raise typer.Exit(1) from None


@contextlib.contextmanager
def _observed_task(task: TrainingTask, *, tensorboard: bool) -> Iterator[Observer]:
    from uflow_cli.cli import console

    console.print_task(task)
    heed(task.data.left_out, strict=False)
    with _observed(task.folder, tensorboard=tensorboard) as observer:
        yield observer


@contextlib.contextmanager
def _observed(run: Path, *, tensorboard: bool) -> Iterator[Observer]:
    """The display of a training on the terminal, which with `tensorboard` also writes a log into the folder `run`."""
    from uflow_cli.cli import console
    from uflow_cli.training import TensorBoardLog, Together

    if not tensorboard:
        with console.training_display() as display:
            yield display
        return
    with contextlib.closing(TensorBoardLog(run)) as log, console.training_display() as display:
        yield Together(display, log)


@contextlib.contextmanager
def stop_on_interrupt(warn: Callable[[str], None]) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, with a warning; a second one raises KeyboardInterrupt."""
    event = threading.Event()
    message = "stopping after this epoch, keeping the best one; press Ctrl-C again to stop at once"
    # In a thread of its own: what it prints to may be locked by the very code that the signal broke into.
    messenger = threading.Thread(target=warn, args=(message,), daemon=True)

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        messenger.start()

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
        if event.is_set():
            messenger.join()
