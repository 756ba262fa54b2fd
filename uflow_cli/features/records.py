"""The features of one image as one record: float16 maps, each with an exponent that all its numbers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uflow_cli.errors import UflowError

_TOP = 15  # the largest number of a map is below 2^15
_ALIGNMENT = 32  # int16 numbers, one cache line
_SMALLEST = -100  # exponents below this would overflow the scaling; such maps are zero for all purposes

Records = NDArray[np.int16]  # (B, n): float16 bits of the maps, exponents, padding


@dataclass(frozen=True)
class RecordLayout:
    """Where the maps of shapes (C_s, H_s, W_s) lie in a record, which holds the features of one image."""

    shapes: tuple[tuple[int, int, int], ...]

    @property
    def n_values(self) -> int:
        """Numbers in the features of one image."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def width(self) -> int:
        """Length of a record in int16."""
        return -(-(self.n_values + len(self.shapes)) // _ALIGNMENT) * _ALIGNMENT

    @property
    def n_bytes(self) -> int:
        """Size of a record."""
        return 2 * self.width


def pack(features: Sequence[Tensor], layout: RecordLayout) -> Records:
    """Records (B, n) of `features`, per scale (B, C_s, H_s, W_s); UflowError for numbers that are not finite.

    Transformers give numbers beyond float16's 65504. So each map is scaled by a power of two, which loses nothing,
    until its largest number lies in 2^14..2^15, and the exponent is kept beside it: numbers keep float16's 11 bits down
    to 2^-28 of the largest, and none overflows.
    """
    records = np.zeros((len(features[0]), layout.width), dtype=np.int16)
    start = 0
    for scale, maps in enumerate(features):
        values = maps.float().flatten(1)  # (B, C_s H_s W_s)
        peak = values.abs().amax(dim=1, keepdim=True)  # (B, 1)
        if not torch.isfinite(peak).all():
            raise UflowError(
                f"the extractor's features at scale {scale + 1} are not finite; its weights are damaged or do not fit"
            )
        exponent = torch.frexp(peak).exponent.clamp_min(_SMALLEST)  # peak < 2^exponent
        half = (values * _power_of_two(_TOP - exponent)).to("cpu", torch.float16)
        end = start + values.shape[1]
        records[:, start:end] = half.numpy().view(np.int16)
        records[:, layout.n_values + scale] = exponent[:, 0].cpu().numpy()
        start = end
    return records


def unpack(records: Tensor, layout: RecordLayout) -> list[Tensor]:
    """Features of int16 `records` (B, n), on their device: per scale (B, C_s, H_s, W_s) float32."""
    features = []
    start = 0
    for scale, shape in enumerate(layout.shapes):
        end = start + math.prod(shape)
        values = records[:, start:end].view(torch.float16).float()
        exponent = records[:, layout.n_values + scale, None].to(torch.int32) - _TOP  # (B, 1)
        features.append((values * _power_of_two(exponent)).reshape(len(records), *shape))
        start = end
    return features


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent as float32, to the bit, from int32 in -126..127; `torch.ldexp` goes through an inexact power."""
    return ((exponent + 127) << 23).view(torch.float32)
