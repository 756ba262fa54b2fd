"""Where features live while they train the flow: on the GPU where there is room, and otherwise where they are kept."""

from __future__ import annotations

import torch

from uflow_cli.cache import FeatureStore, KeptFeatures, ResidentFeatures

ROOM = 2  # times the features: the flow, its gradients and what it computes need memory too


def settle(store: FeatureStore, device: torch.device, *, free_bytes: int | None = None) -> FeatureStore:
    """`store` on `device` if it is kept as it is and `free_bytes`, by default what a GPU has, are twice its size."""
    if free_bytes is None:
        free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    if isinstance(store, KeptFeatures) and free_bytes >= ROOM * store.n_bytes:
        return ResidentFeatures(store, device)
    return store
