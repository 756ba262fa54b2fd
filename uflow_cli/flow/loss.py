"""What the flow is trained to make small. Logarithms are natural, bits where it says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def negative_log_likelihood(embeddings: Sequence[Tensor], log_det_jacobian: Tensor) -> Tensor:
    """½ Σ z² - ln|det J| per image, (B,), in nats; the constant ½ D ln 2π is left out (METHOD 5)."""
    squares = torch.stack([z.square().flatten(1).sum(dim=1) for z in embeddings]).sum(dim=0)  # (B,)
    return 0.5 * squares - log_det_jacobian


def bits_per_dimension(nll: float, n_dimensions: int) -> float:
    """Negative log-likelihood of an image in bits per dimension, the constant ½ ln 2π included."""
    return (nll / n_dimensions + 0.5 * math.log(2 * math.pi)) / math.log(2)
