"""Weights files: read without running code, and loaded only if nothing that is needed is missing."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from uflow_cli.errors import WeightsError

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # under which training scripts keep the weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from `path`, safetensors or a PyTorch file, mapped from disk where the format allows.

    WeightsError if the file is missing or damaged, holds no weights, or holds code, which is never run.
    """
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist; name another with --weights")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights file {path} holds Python objects that could run code, or is damaged, and is refused; "
            "use a safetensors file, or one that holds a state_dict alone"
        ) from error
    except Exception as error:  # there is no telling what a damaged file makes a reader raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"weights file {path} is damaged or none at all ({reason})") from error
    return _tensors(content, path)


def _unpickle(path: Path) -> object:
    mapped = zipfile.is_zipfile(path)  # older files cannot be mapped
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if isinstance(content, Mapping):
        tensors = {
            str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)
        }
        if tensors:
            return tensors
    raise WeightsError(f"weights file {path} holds no weights: tensors by name are needed")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, path: Path, network: str) -> None:
    """Give `module` what it needs of `state`; it may stand on the meta device. WeightsError if anything is amiss."""
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state]
    if missing:
        raise WeightsError(
            f"{path} does not fit {network}: {len(missing)} of {len(wanted)} weights are missing, such as {missing[0]}"
        )
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise WeightsError(
                f"{path} does not fit {network}: {key} is {tuple(state[key].shape)} and should be {tuple(value.shape)}"
            )
    module.load_state_dict(
        # copied: a mapped file may change on disk; in the skeleton's precision: some files keep half of it
        {key: state[key].to(value.dtype, copy=True) for key, value in wanted.items()},
        assign=True,
    )
