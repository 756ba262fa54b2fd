"""One training from images to a run folder, begun or resumed, by one process or several."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import uflow_cli
from uflow_cli.cache import CacheFolder, FeatureCache, FeatureStore, KeptFeatures, ResidentFeatures, load_features
from uflow_cli.compiled import CompiledExtractor, with_compiled_extractor, with_original_extractor
from uflow_cli.config import MIN_HELD_OUT, ModelConfig, TrainingConfig
from uflow_cli.errors import ExportError, TrainingError, UflowError
from uflow_cli.files import remove_litter
from uflow_cli.images import EVERYWHERE, Augmentation, Source, survey_images, with_tiles, with_views
from uflow_cli.model import Model, build_model, check_model_config
from uflow_cli.run.lock import sole_training
from uflow_cli.run.record import CONFIG_NAME, Origin, Run, RunRoi, is_run, keep_roi
from uflow_cli.run.state import (
    Split,
    TrainingState,
    has_state,
    read_state,
    remove_state,
    require_same_images,
    with_recalibration,
    write_state,
)
from uflow_cli.training.criterion import Criterion, HeldOutLoss
from uflow_cli.training.fit import rows_of_images
from uflow_cli.training.observer import Observer, Silent
from uflow_cli.training.processes import Processes, processes
from uflow_cli.training.proportions import with_fit
from uflow_cli.training.roi import CellShares, layouts_of, roi_files, training_rois, with_own_rois
from uflow_cli.training.trainer import Trainer

COPIES_ON_DISK = 8  # of the flow, at most: old and new state of three copies each, old and new weights
ENOUGH_HELD_OUT = 15  # images to be worth a quarter of few; measured in benchmarks/results/few.md
ROOM_ON_GPU = 2  # times the features: the flow, its gradients and what it computes need memory too


def train(
    paths: Sequence[Path], *, out: Path, dataset: str, category: str, model_config: ModelConfig, config: TrainingConfig,
    device: torch.device, observer: Observer, should_stop: Callable[[], bool] = lambda: False, overwrite: bool = False,
    criterion: Criterion | None = None, root: Path | None = None, good: Path | None = None,
    cache: CacheFolder | None = None, groups: Sequence[str] = (), excluded: Sequence[str] = (),
    compile_graph: bool = False, roi: Path | None = None,
) -> Run:  # fmt: skip
    """Train on the good images at `paths` and leave a run in `out`; it is whole from the first epoch on.

    `groups` names the group of each image, if anything is known: whole groups are held out then. `excluded` are the
    absolute paths of images that were left out, for one who resumes.
    `should_stop` is asked after every epoch; `criterion` chooses the epoch, by default the held-out loss. `root` or
    `good` is the folder that `paths` came from, for one who resumes. Features are kept in `cache`; without one they are
    computed anew in every epoch, to the same numbers. With `compile_graph` a training in fp32 ends with the run's
    graph, and on a CPU the extractor's graph computes the features; a warning says where there is none, and why. `roi`
    is a mask of the pixels that count in every image; without it, masks that lie beside the images are taken.
    UflowError for images that cannot be read, masks that do not fit, an existing run without `overwrite`, a training
    that diverged twice, a disk that refuses.
    """

    given_config = model_config

    def examine() -> Split:
        _require_free(out, overwrite=overwrite)
        check_model_config(model_config)
        if model_config.paper_exact and roi is not None:
            raise TrainingError(
                f"--roi {roi} does not go with paper_exact, which looks at whole images; drop one of them"
            )
        _augmentation(config)
        return split_images(
            len(paths), held_out_fraction=config.held_out_fraction, seed=config.seed, groups=groups,
            n_folds=config.n_folds(len(paths), n_groups=len(set(groups))),
        )  # fmt: skip

    def survey() -> list[Source]:
        rois = training_rois(paths, roi)
        is_whole = rois is EVERYWHERE
        known = FeatureCache(cache, model) if cache and model.config.is_squashed and is_whole else None
        found = survey_images(
            paths, known=known, on_progress=observer.on_images, on_doubt=observer.on_warning, rois=rois
        )
        return found if is_whole or roi is not None else with_own_rois(found)

    with processes(device) as (group, own_device), contextlib.ExitStack() as stack:
        split = group.on_rank_zero(examine)
        model_config, reason = group.on_rank_zero(lambda: with_fit(given_config, paths))
        if reason is not None and group.is_rank_zero:
            observer.on_warning(reason)
        model = group.rank_zero_first(lambda: build_model(model_config, device=own_device, seed=config.seed))
        model = with_compiled_extractor(model) if compile_graph else model
        sources = group.on_rank_zero(survey)
        images = tuple((str(source.path.absolute()), source.digest.hex()) for source in sources)
        own_rois = tuple((str(source.roi.path), source.roi.digest.hex()) for source in sources if source.roi)
        sizes = (len(split.training), len(split.selection), len(split.calibration))
        apart = sorted({groups[i] for i in (*split.selection, *split.calibration)}) if groups else []
        origin = Origin(
            dataset, category, *sizes, _absolute(root), _absolute(good), uflow_cli.__version__, len(set(groups)),
            tuple(apart), tuple(excluded), 1 + len(split.folds),
        )  # fmt: skip
        fits = not model.config.is_squashed or own_rois or roi  # one layout per image, of its own
        state = TrainingState(
            model.config, config, origin, images, split, model.extractor.digest, groups=tuple(groups),
            sizes=tuple(source.size for source in sources if source.size) if fits else (), rois=own_rois,
            roi=RunRoi(None, None) if own_rois else None,
            compiled_features=isinstance(model.extractor, CompiledExtractor),
        )  # fmt: skip
        state = group.on_rank_zero(lambda: stack.enter_context(_claimed(out, state, model, roi)))
        run = _go_on(out, state, {}, model, group, observer, criterion, should_stop, cache)
        if group.is_rank_zero:
            _conclude(run, state, observer, compile_graph=compile_graph)
        return run


def resume(
    folder: Path, paths: Sequence[Path], *, device: torch.device, observer: Observer,
    should_stop: Callable[[], bool] = lambda: False, criterion: Criterion | None = None,
    cache: CacheFolder | None = None, weights: tuple[str, ...] | None = None,
    compile_graph: bool = False,
) -> Run:  # fmt: skip
    """Go on with the unfinished training in `folder` where its last epoch ended, to the model it would have become.

    `paths` are the good images, in any order, which must be those it began with, and `criterion` must be the same.
    `weights` are the extractor's files where they lie elsewhere by now. On the same machine the result is the same bit
    for bit. UflowError as `train` raises it, and where there is nothing to resume or an image has changed.
    """

    def claim() -> tuple[TrainingState, dict[str, Tensor]]:
        if has_state(folder):
            stack.enter_context(sole_training(folder))
            remove_litter(folder)
        state, tensors = read_state(folder)
        return with_recalibration(folder, state), tensors

    with processes(device) as (group, own_device), contextlib.ExitStack() as stack:
        state, tensors = group.on_rank_zero(claim)
        if weights:
            state = replace(state, model=replace(state.model, weights=weights).located())
        group.on_rank_zero(lambda: require_same_images(state, paths, on_progress=observer.on_images))
        model = group.rank_zero_first(lambda: build_model(state.model, device=own_device, seed=state.training.seed))
        if model.extractor.digest != state.extractor_digest:
            raise TrainingError(
                f"{folder} was begun with other weights of {state.model.extractor} than are here; "
                "name those with --weights, or start anew with --overwrite"
            )
        model = with_compiled_extractor(model) if state.compiled_features else model
        run = _go_on(folder, state, tensors, model, group, observer, criterion, should_stop, cache)
        if group.is_rank_zero:
            _conclude(run, state, observer, compile_graph=compile_graph)
        return run


def _go_on(
    folder: Path, state: TrainingState, tensors: dict[str, Tensor], model: Model, group: Processes, observer: Observer,
    criterion: Criterion | None, should_stop: Callable[[], bool], cache: CacheFolder | None,
) -> Run:  # fmt: skip
    observer = observer if group.is_rank_zero else Silent()
    sources_of = _sources(folder, state)
    features, model = group.rank_zero_first(lambda: _features(state, model, sources_of, cache, observer))
    state = replace(state, compiled_features=isinstance(model.extractor, CompiledExtractor))
    features = on_gpu_if_room(features, model.device)
    counts_whole = all(source.counts_whole for source in sources_of(0))
    shares = None if counts_whole else CellShares(sources_of, model.flow.grids[-1])
    trainer = Trainer(
        folder, state, tensors, model, features, group, observer, criterion or HeldOutLoss(), cell_shares=shares
    )
    return trainer.run(should_stop)


def _conclude(run: Run, state: TrainingState, observer: Observer, *, compile_graph: bool) -> None:
    """Add the graph of a finished `run` where it can have one, and forget the training, which so goes on until then.

    A graph that fails is a warning.
    """
    if run.progress.state != "finished":
        return
    if compile_graph and run.model.precision == "fp32":
        from uflow_cli.export import export_run

        held_out = sorted({*state.split.selection, *state.split.calibration}) or state.split.training
        try:
            export_run(run, [Path(state.images[i][0]) for i in held_out], which="held-out images")
        except ExportError as error:
            observer.on_warning(f"no graph was made: {error}")
        except UflowError as error:  # of the disk or the images, not of the graph
            observer.on_warning(f"no graph was made: {error}; then: uflow export --model {run.folder}")
    remove_state(run.folder)


def _sources(folder: Path, state: TrainingState) -> Callable[[int], list[Source]]:
    """What has features in an epoch: the images or their tiles, and after them views of those that train the flow."""
    sources = [
        Source(Path(path), bytes.fromhex(digest), roi=roi)
        for (path, digest), roi in zip(state.images, roi_files(folder, state), strict=True)
    ]
    augmentation, layouts = _augmentation(state.training), layouts_of(folder, state)
    training = rows_of_images(state.split.training, layouts)
    if layouts:
        sources = with_tiles(sources, layouts)

    def sources_of(epoch: int) -> list[Source]:
        return with_views(sources, training, augmentation, epoch=epoch)

    return sources_of


def _features(
    state: TrainingState, model: Model, sources_of: Callable[[int], list[Source]], cache: CacheFolder | None,
    observer: Observer,
) -> tuple[FeatureStore, Model]:  # fmt: skip
    """Features of all sources, and the model that gives them.

    That is `model`, or where its extractor has no graph, which the observer hears, the same in PyTorch.
    """
    try:
        return _features_by(model, state, sources_of, cache, observer), model
    except ExportError as error:
        observer.on_warning(f"PyTorch computes the features: {error}")
        model = with_original_extractor(model)
        return _features_by(model, state, sources_of, cache, observer), model


def _features_by(
    model: Model, state: TrainingState, sources_of: Callable[[int], list[Source]], cache: CacheFolder | None,
    observer: Observer,
) -> FeatureStore:  # fmt: skip
    augmentation = _augmentation(state.training)
    fresh = augmentation.kinds and state.training.fresh_views
    feature_cache = FeatureCache(cache, model) if cache and not fresh else None
    if feature_cache is None and isinstance(model.extractor, CompiledExtractor):
        model.extractor.make()  # now, and not when the first epoch has begun
    return load_features(model, sources_of, cache=feature_cache, on_progress=observer.on_features)


def on_gpu_if_room(store: FeatureStore, device: torch.device, *, free_bytes: int | None = None) -> FeatureStore:
    """`store` on `device` if it is kept as it is and `free_bytes`, by default what a GPU has, are twice its size."""
    if free_bytes is None:
        free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    if isinstance(store, KeptFeatures) and free_bytes >= ROOM_ON_GPU * store.n_bytes:
        return ResidentFeatures(store, device)
    return store


def split_images(
    n_images: int, *, held_out_fraction: float, seed: int, groups: Sequence[str] = (), n_folds: int = 1
) -> Split:
    """A random split of `n_images` good images: 15 % by default, of fewer than 100 up to a quarter, are held out.

    At least 8 are, or half of fewer than 16. With at least 24 held-out images a third of them chooses the epoch and the
    others calibrate; with fewer, all do both. A fraction of 0 holds none out. `groups` of the images are never parted:
    as many are held out as it takes to have so many images, half of all at most where that can be, and it takes three
    of them to part those that choose the epoch. Several `n_folds` are parts of all images, about as large as each
    other, the first of which is held out of the flow that is kept. TrainingError for less than 2 images.
    """
    if n_images < 2:
        raise TrainingError(
            f"{n_images} good image: at least 2 are needed, one to train and one held out, and 50 or more do well"
        )
    if held_out_fraction == 0:
        return Split(tuple(range(n_images)), (), ())
    few = min(n_images // 4, ENOUGH_HELD_OUT)
    n_held_out = min(max(MIN_HELD_OUT, few, round(held_out_fraction * n_images)), n_images // 2)
    order = [int(i) for i in np.random.default_rng(seed).permutation(n_images)]
    if n_folds > 1:
        first, *others = _folds(order, groups, n_folds)
        return Split(tuple(i for fold in others for i in fold), first, first, tuple(others))
    if groups:
        return _split_groups(order, groups, n_held_out=n_held_out)
    held_out, training = order[:n_held_out], order[n_held_out:]
    if n_held_out < 3 * MIN_HELD_OUT:
        return Split(tuple(training), tuple(held_out), tuple(held_out))
    n_selection = max(MIN_HELD_OUT, n_held_out // 3)
    return Split(tuple(training), tuple(held_out[:n_selection]), tuple(held_out[n_selection:]))


def _folds(order: Sequence[int], groups: Sequence[str], n_folds: int) -> list[tuple[int, ...]]:
    """`n_folds` parts of the images, which come in `order`; each group goes into the smallest one so far."""
    folds: list[list[int]] = [[] for _ in range(n_folds)]
    for own in _members(order, groups or [str(i) for i in range(len(order))]):
        min(folds, key=len).extend(own)
    return [tuple(fold) for fold in folds]


def _members(order: Sequence[int], groups: Sequence[str]) -> list[list[int]]:
    """The images of each group, in the `order` in which they come; TrainingError for a single group."""
    members: dict[str, list[int]] = {}
    for i in order:
        members.setdefault(groups[i], []).append(i)
    if len(members) < 2:
        raise TrainingError(f"all images are of one group, {next(iter(members))!r}; two or more are needed")
    return list(members.values())


def _split_groups(order: Sequence[int], groups: Sequence[str], *, n_held_out: int) -> Split:
    """Whole groups, in the `order` in which their images come first, until there are `n_held_out` images."""
    members = _members(order, groups)
    held_out: list[list[int]] = []
    for own in members:
        n_before = sum(map(len, held_out))
        if n_before < n_held_out and n_before + len(own) <= len(order) // 2:
            held_out.append(own)
    held_out = held_out or [min(members, key=len)]
    apart = {groups[own[0]] for own in held_out}
    training = tuple(i for i in order if groups[i] not in apart)
    everything = tuple(i for own in held_out for i in own)
    if len(everything) < 3 * MIN_HELD_OUT or len(held_out) < 3:
        return Split(training, everything, everything)
    selection: list[int] = []
    for number, own in enumerate(held_out, start=1):
        if number < len(held_out) and len(selection) < max(MIN_HELD_OUT, len(everything) // 3):
            selection += own
    return Split(training, tuple(selection), everything[len(selection) :])


def _augmentation(config: TrainingConfig) -> Augmentation:
    return Augmentation(config.augment or (), n_views=config.views, seed=config.seed)


@contextlib.contextmanager
def _claimed(out: Path, state: TrainingState, model: Model, roi: Path | None) -> Iterator[TrainingState]:
    """`out` as a folder where this training alone works, with its state written so that a kill is not the end.

    It gives the state, with the mask `roi` in the folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UflowError(f"cannot make folder {out}: {error.strerror}; choose another with --out") from error
    with sole_training(out):
        remove_litter(out)
        _require_room(out, model)
        if roi is not None:
            state = replace(state, roi=keep_roi(roi, out))
        write_state(out, state, {})
        yield state


def _require_free(out: Path, *, overwrite: bool) -> None:
    if overwrite:
        return
    if has_state(out):
        raise TrainingError(
            f"{out} holds an unfinished training; go on with --resume {out}, or replace it with --overwrite"
        )
    if is_run(out):
        raise TrainingError(
            f"{out} already holds a run; replace it with --overwrite, or choose another folder with --out"
        )
    if (out / CONFIG_NAME).exists():
        raise TrainingError(f"{out / CONFIG_NAME} is not of a run; choose another folder with --out")


def _require_room(out: Path, model: Model) -> None:
    """UflowError before anything is computed unless the disk has room for all that training writes into `out`."""
    needed = COPIES_ON_DISK * sum(p.numel() * p.element_size() for p in model.flow.parameters())
    free = shutil.disk_usage(out).free
    if free < needed:
        raise UflowError(
            f"{out}: {free / 2**20:.0f} MiB are free there and training needs {needed / 2**20:.0f}; "
            "free some space or choose another folder with --out"
        )


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
