"""How images are given to the network where nobody says: by their size and proportions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from uflow_cli.config import ModelConfig, Size, shown_size
from uflow_cli.detection.fitted import layout_of
from uflow_cli.errors import ImageError, UflowError
from uflow_cli.images import read_image
from uflow_cli.model import check_model_config

LOOKED_AT = 8  # images
NEARLY = 1.5  # times the proportions of the input, up to which an image is squashed
LARGE = 16  # times the area of the input, above which an image is cut into tiles
STEPS = (32, 64)  # pixels: sides of rectangles are multiples of the coarsest stride, at half the size, too


def with_fit(config: ModelConfig, paths: Sequence[Path]) -> tuple[ModelConfig, str | None]:
    """`config` with a fit for images as those at `paths`, and why, where it is not the usual one.

    A few images are looked at, unless the fit is given or the published procedure is asked for. Those that cannot be
    read are left to whoever reads all.
    """
    if config.fit != "auto":
        return config, None
    sizes = []
    for index in np.unique(np.linspace(0, len(paths) - 1, LOOKED_AT).round().astype(int)) if paths else ():
        try:
            height, width = read_image(paths[index]).shape[:2]
        except ImageError:
            continue
        sizes.append((height, width))
    return fit_of_sizes(config, sizes)


def fit_of_sizes(config: ModelConfig, sizes: Sequence[Size]) -> tuple[ModelConfig, str | None]:
    """`config` with a fit for images of these `sizes` (H, W), and why, where it is not the usual one."""
    squashed = replace(config, fit="squash")
    if not sizes or config.paper_exact:
        return squashed, None
    input_area = config.input_size[0] * config.input_size[1]
    ratios = np.array([height / width for height, width in sizes])
    stretch = ratios / (config.input_size[0] / config.input_size[1])
    typical = sizes[int(np.argsort([height * width for height, width in sizes])[len(sizes) // 2])]
    shown = f"images of {shown_size(typical)} pixels"
    if typical[0] * typical[1] > LARGE * input_area:
        tiled = replace(config, fit="tile")
        n_tiles = len(layout_of(typical, tiled).corners)
        return tiled, (
            f"{shown} are cut into {n_tiles} tiles of {shown_size(config.input_size)}, so that small defects stay "
            f"visible; each image takes {n_tiles} times as long; --fit squash looks at them whole"
        )
    if max(stretch.max(), 1 / stretch.min()) <= NEARLY:
        return squashed, None
    if ratios.max() > NEARLY * ratios.min():
        return squashed, (
            f"images of different proportions, such as {shown_size(sizes[int(ratios.argmin())])} and "
            f"{shown_size(sizes[int(ratios.argmax())])} pixels, are squashed to {shown_size(config.input_size)}; --fit "
            "letterbox keeps their proportions, with a mirrored border"
        )
    for step in STEPS:
        rectangular = _rectangle(squashed, float(np.median(ratios)), step=step)
        try:
            check_model_config(rectangular)
        except UflowError:
            continue
        return rectangular, (
            f"{shown} are shown to the network as {shown_size(rectangular.input_size)}, in their proportions; --fit "
            f"squash makes them {shown_size(config.input_size)}"
        )
    return squashed, f"{shown} are squashed to {shown_size(config.input_size)}: this extractor takes squares alone"


def _rectangle(config: ModelConfig, ratio: float, *, step: int) -> ModelConfig:
    """`config` with an input of about the same area, whose height is `ratio` times its width, in steps of pixels.

    Sizes of `scales` are heights, and keep their share of the input's.
    """
    height, width = config.input_size
    side, stretch = math.sqrt(height * width) / step, math.sqrt(ratio)
    size = (max(1, round(side * stretch)) * step, max(1, round(side / stretch)) * step)
    scales = config.scales and re.sub(
        r"(\d+)(?=:)", lambda found: str(int(found[1]) * size[0] // height), config.scales
    )
    return replace(config, input_size=size, scales=scales)
