"""The authors' published models: from a Lightning checkpoint to a run folder (docs/method.md, section 9)."""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import uflow_cli
from uflow_cli.calibration import calibrate, kind_of_evidence
from uflow_cli.check import embed_images
from uflow_cli.config import MIN_HELD_OUT, TrainingConfig
from uflow_cli.errors import CheckpointError, UflowError, WeightsError
from uflow_cli.evaluation import published_categories
from uflow_cli.features import EXTRACTORS, extractor_spec, needed_weights, weights_digest
from uflow_cli.features.weights import read_weights
from uflow_cli.files import discard, remove_litter, replacing
from uflow_cli.flow import state_from_published
from uflow_cli.model import Model, build_model
from uflow_cli.presets import resolve
from uflow_cli.run.record import (
    Origin,
    Progress,
    Run,
    is_run,
    load_run,
    save_weights,
    write_calibration_chart,
    write_run,
)
from uflow_cli.run.state import has_state
from uflow_cli.text import in_one_line

LAYOUT = "expected a checkpoint of the published U-Flow: tensors model.flow.module_list.* and model.feature_extractor.*"
STEP = re.compile(r"flow\.module_list\.(\d+)\.subnet\.0\.weight")
BETWEEN_STAGES = 3  # modules: Split, up-sampling, Concat
RESNETS = ("resnet18", "wide_resnet50_2")


@dataclass(frozen=True)
class PublishedModel:
    """The contents of a checkpoint, under our names; networks finest scale first."""

    extractor: str
    networks: tuple[Mapping[str, Tensor], ...]  # all weights that the file has of each, under timm's names
    trained: Mapping[str, Tensor]  # the state of flow and normalisation, as a `Model` takes it
    flow_steps: int
    kernel_sizes: tuple[int, ...]
    input_size: int


def read_published(path: Path) -> PublishedModel:
    """The model in the checkpoint at `path`; no code in it is run. CheckpointError if it holds none, WeightsError if it
    cannot be read or holds objects that could run code."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; name a .ckpt that the authors of U-Flow published")
    tensors = {name.removeprefix("model."): value for name, value in read_weights(path).items()}
    flow_steps, kernel_sizes = _steps(path, tensors)
    try:
        flow = state_from_published(_below(tensors, "flow."))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    trained = {f"flow.{name}": value.contiguous() for name, value in flow.items()}
    features = _below(tensors, "feature_extractor.")
    networks = [_below(features, f"{part}.") for part in ("extractor1", "extractor2", "extractor")]
    affines = _below(features, "feature_normalizations.")
    maps = sorted({tuple(value.shape) for value in affines.values()}, key=lambda shape: -shape[-1])  # finest first
    names = {tuple(EXTRACTORS[name].spec(None).channels): name for name in RESNETS}
    if networks[0] and not networks[2]:
        extractor, size = "ms-cait" if networks[1] else "cait-m48", EXTRACTORS["ms-cait"].spec(None).input_size
    elif networks[2] and (extractor := names.get(tuple(shape[0] for shape in maps), "")):
        size = maps[0][-1] * EXTRACTORS[extractor].spec(None).strides[0]
        for name, value in affines.items():
            trained[f"normalisation.{name.partition('.')[2]}_{maps.index(tuple(value.shape))}"] = value.contiguous()
    else:
        raise CheckpointError(f"{path}: its extractor is neither MS-CaiT nor ResNet-18 nor Wide-ResNet-50-2; {LAYOUT}")
    return PublishedModel(extractor, tuple(n for n in networks if n), trained, flow_steps, kernel_sizes, size)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _steps(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...]]:
    """Flow steps of a stage, and the kernel size of each, as the numbers of modules and their shapes tell."""
    kernels = {
        int(found[1]): int(value.shape[-1]) for name, value in tensors.items() if (found := STEP.fullmatch(name))
    }
    if not kernels:
        raise CheckpointError(f"{path} holds no flow; {LAYOUT}")
    runs = groupby(enumerate(sorted(kernels)), key=lambda pair: pair[1] - pair[0])  # of consecutive numbers
    stages = [[number for _, number in run] for _, run in runs]
    starts = [stage * (len(stages[0]) + BETWEEN_STAGES) for stage in range(len(stages))]
    sizes = {tuple(kernels[number] for number in stage) for stage in stages}
    if len(sizes) > 1 or starts != [stage[0] for stage in stages]:
        raise CheckpointError(f"{path}: the steps of its flow are modules {sorted(kernels)}, which are no U; {LAYOUT}")
    return len(stages[0]), sizes.pop()


def guess_category(path: Path) -> str:
    """The MVTec category that the name of a checkpoint or of its folder has in it, else the file's name."""
    for text in (path.stem, path.absolute().parent.name):
        found = [
            name for name in published_categories("mvtec") if re.search(rf"(?<![a-z]){name}(?![a-z])", text.lower())
        ]
        if found:
            return found[0]
    return path.stem


def import_published(
    path: Path, *, out: Path, dataset: str, category: str, device: torch.device,
    calibration_images: Sequence[Path] = (), overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda _n: None,
) -> Run:  # fmt: skip
    """Make a run in `out` of the published checkpoint at `path`, the extractor's weights beside the flow's.

    Without `calibration_images` it judges as published (paper_exact). With good images, which the authors did not train
    on, they calibrate it: log NFA counts what they showed, and they promise a false-alarm rate. UflowError for what
    cannot be read or does not fit, too few images, and a run in `out` without `overwrite`.
    """
    if (is_run(out) or has_state(out)) and not overwrite:
        raise UflowError(f"{out} already holds a run; replace it with --overwrite, or choose another folder with --out")
    published = read_published(path)
    settings = {
        "preset": "paper", "extractor": published.extractor, "flow_steps": published.flow_steps,
        "kernel_sizes": published.kernel_sizes, "input_size": published.input_size, "precision": "fp32",
        "paper_exact": not calibration_images,
    }  # fmt: skip
    model_config, training = resolve(settings, dataset=dataset, category=category)
    needed = needed_weights(model_config)
    used = [{name: value for name, value in network.items() if name in needed} for network in published.networks]
    names = [source.network for source in extractor_spec(model_config).sources]
    remove_litter(out)
    try:
        files = [
            out.absolute() / f"{name}-{weights_digest(weights)[:12]}.safetensors"
            for name, weights in zip(names, used, strict=True)
        ]
        _write_networks(files, used)
        model = build_model(replace(model_config, weights=tuple(map(str, files))), device=device)
        model.load_state_dict(published.trained)
        model.flow.eval()
        return _write(out, path, model, training, (dataset, category), calibration_images, on_progress)
    except (RuntimeError, UflowError) as error:
        if isinstance(error, UflowError) and not isinstance(error, WeightsError):
            raise
        raise CheckpointError(f"{path} does not fit {published.extractor} ({in_one_line(error)})") from error
    finally:
        _discard_networks(out, names)


def _write(
    out: Path, path: Path, model: Model, training: TrainingConfig, product: tuple[str, str], images: Sequence[Path],
    on_progress: Callable[[int], None],
) -> Run:  # fmt: skip
    config = model.config
    if images:
        norms, _, read, errors = embed_images(model, images, on_progress=on_progress)
        if errors:
            raise UflowError(errors[0].message)
        if len(read) < MIN_HELD_OUT:
            raise UflowError(f"{len(read)} good images are too few to calibrate; give at least {MIN_HELD_OUT}")
    else:
        norms, read = [np.empty((0, *grid), np.float32) for grid in model.flow.grids], []
    calibration = calibrate(norms, **kind_of_evidence(model))
    run = Run(
        folder=out, model=config, training=training,
        origin=Origin(*product, 0, 0, len(read), version=uflow_cli.__version__, imported=str(path.absolute())),
        progress=Progress(0, 0, None, "finished", 0, "a measure on the test set, by the authors,", 0.0),
        calibration=calibration, extractor_digest=model.extractor.digest, weights=save_weights(out, model, epoch=0),
    )  # fmt: skip
    write_run(run)
    write_calibration_chart(run)
    return load_run(out)


def _write_networks(files: Sequence[Path], networks: Sequence[Mapping[str, Tensor]]) -> None:
    """Write the weights of `networks` into `files`; runs beside theirs that have the same share them."""
    for path, weights in zip(files, networks, strict=True):
        with replacing(path) as temporary:
            try:
                save_file({name: value.contiguous() for name, value in weights.items()}, temporary)
            except SafetensorError as error:  # its own kind for what the disk refuses, too
                raise OSError(str(error)) from error
        for twin in path.parent.parent.glob(f"*/{path.name}"):
            if twin.parent != path.parent and filecmp.cmp(twin, path, shallow=False):
                _share(twin, path)
                break


def _discard_networks(out: Path, names: Sequence[str]) -> None:
    """Remove the weights of networks called `names` from `out`, save those that its run uses, and an empty folder."""
    try:
        kept = {Path(file).name for file in load_run(out).model.weights or ()} if is_run(out) else set()
    except CheckpointError:  # damaged: what it uses cannot be told
        return
    for name in names:
        for file in out.glob(f"{name}-{'[0-9a-f]' * 12}.safetensors"):
            if file.name not in kept:
                discard(file)
    with contextlib.suppress(OSError):  # of a read-only disk, a folder that holds something else or never was
        out.rmdir()


def _share(twin: Path, path: Path) -> None:
    """Make `path` another name of the file `twin`; both stay as they are where the file system cannot do so."""
    temporary = path.with_name(f".{path.name}.link")
    try:
        temporary.unlink(missing_ok=True)
        os.link(twin, temporary)
        temporary.replace(path)
    except OSError:
        discard(temporary)
