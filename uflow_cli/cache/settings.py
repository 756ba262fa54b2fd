"""What features depend on beside the image: everything here is part of the key, so that no entry can be stale."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import asdict
from typing import Any

import torch

from uflow_cli.cache.record import RecordLayout
from uflow_cli.images import OPENCV_VERSION
from uflow_cli.model import PREPROCESSING_VERSION, Model

FORMAT = 1  # of records and shards


def feature_settings(model: Model) -> dict[str, Any]:
    """Extractor, weights, input, and the versions of what computes; a GPU's features are not a CPU's to the bit."""
    return {
        "format": FORMAT,
        "extractor": json.loads(json.dumps(asdict(model.extractor.spec), default=str)),
        "weights": model.extractor.digest,
        "precision": model.extractor.precision,
        "input_size": model.config.input_size,
        "preprocessing": PREPROCESSING_VERSION,
        "device": model.device.type,
        "versions": {
            "torch": torch.__version__,
            "timm": importlib.metadata.version("timm"),
            "opencv": OPENCV_VERSION,
        },
    }


def settings_digest(settings: dict[str, Any]) -> str:
    """Name of the folder for what was computed with `settings`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def record_layout(model: Model) -> RecordLayout:
    """How the features of one image are laid out."""
    spec = model.extractor.spec
    grids = spec.grids(model.config.input_size)
    return RecordLayout(tuple((c, h, w) for c, (h, w) in zip(spec.channels, grids, strict=True)))
