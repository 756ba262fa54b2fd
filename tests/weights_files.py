"""Weights files with random numbers, so that tests take the road that real files take."""

from __future__ import annotations

from pathlib import Path

import timm  # noqa: TID251
import torch
from safetensors.torch import save_file
from torch import Tensor

CAIT = "cait_xxs24_224.fb_dist_in1k"


def random_state(network: str, *, seed: int = 0, **options: object) -> dict[str, Tensor]:
    """All weights of a whole timm network, large enough that each of them shows in the features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = timm.create_model(network, pretrained=False, **options).state_dict()
        for key, value in state.items():
            if key.endswith("running_var") or "gamma" in key:
                state[key] = 0.5 + torch.rand_like(value)
            elif value.is_floating_point():
                fan_in = value[0].numel() if value.ndim > 1 else 16
                state[key] = torch.randn_like(value) * fan_in**-0.5 + (key.endswith("weight") and value.ndim == 1)
    return state


def write_weights(path: Path, state: dict[str, Tensor]) -> Path:
    """`state` as safetensors or, by the suffix, as a PyTorch file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path
