"""A look at what this machine has to work with: versions, device, extension, weights, cache, data sets, runs.

What needs the native core is imported where it is looked at: a core that does not load is a finding.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import uflow_cli
from uflow_cli.cache import GIB, CacheFolder
from uflow_cli.config import DeviceChoice, ModelConfig
from uflow_cli.datasets import DATASETS, find_root, list_categories
from uflow_cli.engine import available_cores
from uflow_cli.errors import DatasetError, UflowError
from uflow_cli.features import EXTRACTORS, choose_precision
from uflow_cli.model import choose_device
from uflow_cli.schema import record
from uflow_cli.text import first_of

DEFAULT_EXTRACTOR = ModelConfig().extractor
SCARCE = 2.0  # GiB: features of 1000 images by the default extractor take about as much
LIBRARIES = ("torch", "timm", "FrEIA")


@record
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["good", "slow", "missing", "broken"]
    value: str  # what was found
    advice: str | None = None  # what to do about it, or what it means


@record
class Diagnosis:
    """All that was looked at."""

    findings: tuple[Finding, ...]

    @property
    def is_broken(self) -> bool:
        """Whether anything does not work at all."""
        return any(finding.state == "broken" for finding in self.findings)


def examine(*, device: DeviceChoice, cache: CacheFolder, runs: Path = Path("runs")) -> Diagnosis:
    """Look at everything; what raises is a finding, too. Nothing is asked of the network."""
    parts: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": _versions, "device": lambda: _device(device), "extension": _extension, "weights": _weights,
        "feature cache": lambda: _cache(cache), "data sets": _data_sets, "runs": lambda: _runs(runs),
    }  # fmt: skip
    findings: list[Finding] = []
    for name, look in parts.items():
        try:
            findings += look()
        except (UflowError, ImportError, OSError, RuntimeError, AttributeError) as error:
            findings.append(Finding(name, "broken", str(error).partition("\n")[0] or type(error).__name__))
    return Diagnosis(tuple(findings))


def _versions() -> Iterator[Finding]:
    yield Finding("uflow", "good", f"{uflow_cli.__version__} in {Path(uflow_cli.__file__).parent}")
    yield Finding("Python", "good", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("libraries", "good", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES))


def _device(choice: DeviceChoice) -> Iterator[Finding]:
    device = choose_device(choice)
    precision = choose_precision("auto", device=device)
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / GIB
        yield Finding(
            "device", "good", f"{torch.cuda.get_device_name(device)}, {memory:.0f} GiB, features in {precision}"
        )
        return
    cores, threads = available_cores(), torch.get_num_threads()
    yield Finding("device", "slow", f"processor, {cores} cores, features in {precision}",
                  "without a CUDA GPU ms-cait, wide_resnet50_2 and large transformers take seconds for each new image; "
                  "--preset lite is made for processors")  # fmt: skip
    if threads < cores:
        cause = "OMP_NUM_THREADS" if os.environ.get("OMP_NUM_THREADS") else "the settings of torch"
        yield Finding("threads", "slow", f"{threads} of {cores} cores are used", f"the others are idle by {cause}")


def _extension() -> Iterator[Finding]:
    from uflow_cli.detection import nfa

    area = nfa.max_tree(np.array([[0.0, 1.0], [0.0, 0.0]])).area
    works = area.max() == 4
    yield Finding("extension", "good" if works else "broken", "the native core answers" if works else
                  "the native core gives wrong answers", None if works else "install uflow again")  # fmt: skip


def _weights() -> Iterator[Finding]:
    here = [name for name, backbone in EXTRACTORS.items() if all(s.cached() for s in backbone.sources)]
    if DEFAULT_EXTRACTOR in here:
        others = "".join(f", {name}" for name in here if name != DEFAULT_EXTRACTOR)
        yield Finding("weights", "good", f"of {DEFAULT_EXTRACTOR}, the default{others}",
                      f"of {len(EXTRACTORS) - len(here)} other extractors they are fetched when first needed; "
                      "`uflow backbones` lists them")  # fmt: skip
    else:
        advice = EXTRACTORS[DEFAULT_EXTRACTOR].sources[0].advice()
        yield Finding("weights", "broken", f"those of {DEFAULT_EXTRACTOR}, the default, are missing", f"bring {advice}")


def _cache(cache: CacheFolder) -> Iterator[Finding]:
    existing = next(folder for folder in (cache.path, *cache.path.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free / GIB
    held = sum(file.n_bytes for file in cache.files()) / GIB if cache.path.is_dir() else 0.0
    value = f"{cache.path}, {held:.1f} of at most {cache.limit / GIB:.0f} GiB, {free:.0f} GiB free on its disk"
    if not os.access(existing, os.W_OK):
        yield Finding("feature cache", "slow", f"{cache.path} cannot be written",
                      "name another with --cache-dir, or take --no-cache, with which epochs take longer")  # fmt: skip
    elif min(free, cache.limit / GIB - held) < SCARCE:
        yield Finding(
            "feature cache", "slow", value, "what does not fit is computed anew; raise --cache-size or free the disk"
        )
    else:
        yield Finding("feature cache", "good", value)


def _data_sets() -> Iterator[Finding]:
    found = False
    for name in DATASETS:
        try:
            root = find_root(name)
            categories = list_categories(name, root=root)
        except DatasetError:
            continue
        found = True
        yield Finding(f"data set {name}", "good", f"{root}: {first_of(categories, 4)}")
    if not found:
        yield Finding("data sets", "missing", "none was found",
                      "make one with `uflow sample --out data`, or say with UFLOW_DATA or --data-root where yours are; "
                      "`uflow train --images FOLDER` needs no data set")  # fmt: skip


def _runs(root: Path) -> Iterator[Finding]:
    from uflow_cli.run.listing import list_runs

    found = list_runs([root]) if root.is_dir() else []
    if found:
        yield Finding("runs", "good", f"{len(found)} below {root}, the newest {found[0].folder}, {found[0].state}")
    else:
        yield Finding("runs", "missing", f"none below {root}", "train one with `uflow train`")
