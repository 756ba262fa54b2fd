"""uflow from Python: what `import uflow_cli` offers. Nothing is shown on a terminal; settings are those of commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from uflow_cli.config import DeviceChoice, Runtime
from uflow_cli.run.detector import TrainedDetector, open_detector
from uflow_cli.run.record import Run, load_run

if TYPE_CHECKING:
    from uflow_cli.training import Observer

AnyPath = str | os.PathLike[str]


def load(
    run: AnyPath | Run, *, nfa_threshold: float | None = None, false_alarm_rate: float | None = None,
    device: DeviceChoice = "auto", runtime: Runtime = "auto", weights: Sequence[AnyPath] | None = None,
    roi: AnyPath | None = None,
) -> TrainedDetector:  # fmt: skip
    """The detector of a run that `train` returned, or whose folder `uflow train` or `uflow export` wrote.

    The options are those of `uflow detect`. UflowError where the folder holds no run, the threshold cannot be promised,
    or the runtime is not there; ValueError for two thresholds.
    """
    if not isinstance(run, Run):
        run = load_run(Path(run), weights=[os.fspath(file) for file in weights] if weights else None)
    return open_detector(
        run, device=device, runtime=runtime, nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate,
        roi=_path(roi),
    )  # fmt: skip


def train(
    images: AnyPath | None = None, *, dataset: str | None = None, category: str | None = None,
    data_root: AnyPath | None = None, out: AnyPath | None = None, config: AnyPath | None = None,
    exclude: AnyPath | None = None, roi: AnyPath | None = None, device: DeviceChoice = "auto",
    overwrite: bool = False, graph: bool = True,
    cache: bool = True, cache_dir: AnyPath | None = None, cache_size: float = 50.0, observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False, **settings: object,
) -> Run:  # fmt: skip
    """Train on the folder `images` of good images, or on a category of a data set, and return the run.

    Options and `settings` are those of `uflow train`, with _ for -: `epochs=20, input_size=512`. `observer` hears how
    training goes, and of images that were left out; `should_stop` is asked after every epoch. UflowError for what a
    user can fix, ValueError unless either `images` or `dataset` and `category` are given.
    """
    from uflow_cli.cache import GIB, CacheFolder
    from uflow_cli.datasets import find_root, folder_dataset, load_dataset, read_exclusion, without
    from uflow_cli.files import default_folder
    from uflow_cli.images import describe_left_out
    from uflow_cli.model import choose_device
    from uflow_cli.presets import resolve
    from uflow_cli.training import Silent, train_product

    if (images is None) == (dataset is None):
        raise ValueError("give either images, a folder of good ones, or dataset and category")
    observer = observer or Silent()
    root = find_root(dataset, category, root=_path(data_root)) if dataset else None
    good = _path(images)
    data = load_dataset(dataset, root=root, category=category) if dataset and root else folder_dataset(good or Path())
    if data.left_out:
        observer.on_warning(describe_left_out(data.left_out))
    data, excluded = without(data, read_exclusion(Path(exclude))) if exclude else (data, ())
    model_config, training_config = resolve(
        settings,
        config_file=_path(config),
        dataset=data.name,
        category=data.category,
        n_images=len(data.train),
        where="",
    )
    folder = cache_dir or os.environ.get("UFLOW_CACHE_DIR") or default_folder()
    kept = CacheFolder(Path(folder), limit=round(cache_size * GIB)) if cache else None
    return train_product(
        data, out=_path(out) or Path("runs") / data.name / data.category, model_config=model_config,
        config=training_config, device=choose_device(device), observer=observer, should_stop=should_stop,
        overwrite=overwrite, root=root, good=good, cache=kept, excluded=excluded, compile_graph=graph,
        roi=_path(roi),
    )  # fmt: skip


def _path(value: AnyPath | None) -> Path | None:
    return None if value is None else Path(value)
