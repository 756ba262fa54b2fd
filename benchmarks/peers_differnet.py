"""DifferNet (Rudolph, Wandt, Rosenhahn, WACV 2021), from its paper's description, on uflow's own feature extractor.

The coarsest features of an image at three sizes, averaged over the image and joined, are one vector; a normalizing flow
learns the density of good images' vectors. An image's score is -log p(z) without its constant, |z|^2 / 2, averaged over
turned copies of the image. The paper draws random rotations. Here they are the four quarter turns, which need no filled
corners, so that all vectors are computed once. The paper's localisation by gradients is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from FrEIA.framework import SequenceINN
from FrEIA.modules import GLOWCouplingBlock, PermuteRandom
from torch import Tensor, nn

SHRINKS = (1, 2, 4)  # the paper's 448, 224 and 112 pixels
BLOCKS, HIDDEN_LAYERS, WIDTH, CLAMP = 8, 3, 2048, 3.0
EPOCHS, BATCH_SIZE, LEARNING_RATE = 192, 96, 2e-4


def turned_vectors(images: Tensor, extractor: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
    """One vector per quarter turn of the square `images` (B, 3, S, S) in 0..1: (B, 4, C), C over all sizes."""
    pixels = [(F.avg_pool2d(images, shrink) * 255).round().to(torch.uint8) for shrink in SHRINKS]
    turns = []
    for turn in range(4):
        coarsest = [extractor(torch.rot90(p, turn, dims=(2, 3)).contiguous())[-1] for p in pixels]
        turns.append(torch.cat([f.mean(dim=(2, 3)) for f in coarsest], dim=1))
    return torch.stack(turns, dim=1)


class DifferNet:
    """A flow fitted to the vectors (N, 4, C) of good images; the same `seed` gives the same flow."""

    def __init__(self, vectors: Tensor, *, epochs: int = EPOCHS, seed: int, width: int = WIDTH) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.flow = build_flow(vectors.shape[-1], seed=seed, width=width)
            fit(self.flow, vectors.flatten(0, 1), epochs=epochs)

    @torch.inference_mode()
    def score(self, vectors: Tensor) -> Tensor:
        """Scores (B,) of images from their vectors (B, 4, C)."""
        embeddings, _ = self.flow(vectors.flatten(0, 1))
        scores: Tensor = 0.5 * embeddings.square().sum(dim=1).view(vectors.shape[:2]).mean(dim=1)
        return scores


def build_flow(n_channels: int, *, seed: int, width: int) -> SequenceINN:
    """Blocks of a random permutation and an affine coupling in which each half transforms the other."""

    def subnet(n_in: int, n_out: int) -> nn.Module:
        sizes = [n_in, *[width] * HIDDEN_LAYERS]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(width, n_out))

    flow = SequenceINN(n_channels)
    for block in range(BLOCKS):
        flow.append(PermuteRandom, seed=seed + block)
        flow.append(GLOWCouplingBlock, subnet_constructor=subnet, clamp=CLAMP, clamp_activation=soft_clamp)
    return flow


def soft_clamp(log_scale: Tensor) -> Tensor:
    """2 / pi arctan(h / alpha), which the coupling multiplies by alpha = `CLAMP`."""
    return (2 / math.pi) * torch.atan(log_scale / CLAMP)


def fit(flow: SequenceINN, rows: Tensor, *, epochs: int) -> None:
    """Minimise the negative log-likelihood of `rows` (N, C), without its constant."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(rows)).split(BATCH_SIZE):
            embeddings, log_det_jacobian = flow(rows[batch])
            loss = (0.5 * embeddings.square().sum(dim=1) - log_det_jacobian).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        print(f"epoch {epoch + 1}/{epochs}: {total / len(rows):.4f}", flush=True)
