"""From image to log NFA map, this code agrees with sections 1 to 4 of docs/method.md, written again in plain loops.

The reference reads the weights from our state dict and works in double precision; ours works in single.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

from uflow_cli.config import ModelConfig
from uflow_cli.detection import nfa
from uflow_cli.detection.detector import Detector
from uflow_cli.detection.prediction import SCORE_SIZE, predict
from uflow_cli.features import FeatureNormalisation
from uflow_cli.flow import UFlow
from uflow_cli.flow.likelihood import anomaly_score, likelihood_map, squared_norms
from uflow_cli.model import Model, build_model

CPU = torch.device("cpu")
SHAPES = {
    "ms-cait at 224": ((768, 384), ((14, 14), (7, 7))),
    "lite at 256": ((40, 112, 320), ((32, 32), (16, 16), (8, 8))),
    "odd": ((5, 13, 17), ((8, 12), (4, 6), (2, 3))),
}


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Sum over taps of shifted images: x (B, C, H, W), weight (D, C, k, k), zeros outside."""
    k = weight.shape[2]
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    total = np.broadcast_to(bias[None, :, None, None], (len(x), len(weight), height, width)).copy()
    for row in range(k):
        for column in range(k):
            shifted = padded[:, :, row : row + height, column : column + width]
            total += np.einsum("dc,bchw->bdhw", weight[:, :, row, column], shifted, optimize=True)
    return total


def flow_step(x: np.ndarray, weights: Mapping[str, np.ndarray], coupling: str) -> tuple[np.ndarray, np.ndarray]:
    """docs/method.md, section 2: y = P(g * [x1 ; x2 exp(sigma) + a_t] + b), and its log-determinant."""
    channels, height, width = x.shape[1:]
    n_passive = math.ceil(channels / 2)
    passive, active = x[:, :n_passive], x[:, n_passive:]
    hidden = np.maximum(convolve(passive, weights["subnet.0.weight"], weights["subnet.0.bias"]), 0)
    a = 0.1 * convolve(hidden, weights["subnet.2.weight"], weights["subnet.2.bias"])
    sigma = np.zeros_like(active)
    if coupling == "affine":
        sigma = 2 * np.tanh(a[:, : channels - n_passive])
        a = a[:, channels - n_passive :]
    g = 0.1 * np.log1p(np.exp(0.5 * weights["global_scale"].ravel())) / 0.5
    b = weights["global_offset"].ravel()
    joined = np.concatenate([passive, active * np.exp(sigma) + a], axis=1)
    y = np.empty_like(x)
    for to, source in enumerate(weights["permutation"].tolist()):
        y[:, to] = g[source] * joined[:, source] + b[source]
    return y, sigma.sum(axis=(1, 2, 3)) + height * width * np.log(g).sum()


def up_sample(x: np.ndarray) -> np.ndarray:
    """i-RevNet: four channels become the corners of 2 x 2 cells."""
    batch, channels, height, width = x.shape
    out = np.empty((batch, channels // 4, 2 * height, 2 * width))
    for c in range(channels):
        out[:, c // 4, (c % 4) // 2 :: 2, c % 2 :: 2] = x[:, c]
    return out


def u_flow(
    features: Sequence[np.ndarray], state: Mapping[str, Tensor], *, joined: bool = True, coupling: str = "affine"
) -> tuple[list[np.ndarray], np.ndarray]:
    """Section 2 from the coarsest scale to the finest; in the state, a scale's steps follow one another (section 9).

    Scales that are not joined take turns there, step by step.
    """
    numbers = sorted({int(key.split(".")[1]) for key in state})
    n_scales = len(features)
    embeddings: list[np.ndarray] = []
    log_det = np.zeros(len(features[0]))
    below = None
    for scale in reversed(range(len(features))):
        x = features[scale] if below is None else np.concatenate([features[scale], below], axis=1)
        for step in range(4):
            coarser = n_scales - 1 - scale
            prefix = f"module_list.{numbers[4 * coarser + step if joined else n_scales * step + coarser]}."
            weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            arrays = {k: v.numpy() if k.endswith("permutation") else v.double().numpy() for k, v in weights.items()}
            x, step_log_det = flow_step(x, arrays, coupling)
            log_det += step_log_det
        up = 4 * (x.shape[1] // 8) if scale and joined else 0
        below = up_sample(x[:, :up]) if up else None
        embeddings.insert(0, x[:, up:])
    return embeddings, log_det


def bilinear(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(B, h, w) at `size`, pixel centres at half-integers, the border repeated."""

    def weights(n_in: int, n_out: int) -> np.ndarray:
        matrix = np.zeros((n_out, n_in))
        for i in range(n_out):
            position = min(max((i + 0.5) * n_in / n_out - 0.5, 0), n_in - 1)
            before = math.floor(position)
            matrix[i, before] += 1 - (position - before)
            matrix[i, min(before + 1, n_in - 1)] += position - before
        return matrix

    return np.einsum("ih,bhw,jw->bij", weights(x.shape[1], size[0]), x, weights(x.shape[2], size[1]))


def likelihood(embeddings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """docs/method.md, section 3."""
    return sum(bilinear(np.exp(-0.5 * (z**2).mean(axis=1)), size) for z in embeddings) / len(embeddings)


def published_log_pfa(embeddings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Sections 4.1 to 4.3 per scale, for the first image: log PFA of each cell's region, 0 outside regions."""
    maps = []
    for z in embeddings:
        channels, u = z.shape[1], (z[0] ** 2).sum(axis=0)

        def log_tail(m: float, c: int = channels) -> float:
            return -c / 2 * (m / c - 1 - math.log(m / c)) / math.log(10)

        found = oracles.regions(u, log_tail)
        maps.append(oracles.paint(u.shape, found, log_tail)[0])
    return maps


def log_number_of_tests(cells: Sequence[int]) -> float:
    """Paper eq. 9 as it stands, in whole numbers as far as they go."""
    alpha, beta = 0.316915, 4.062570
    terms = [
        math.log10(n) + math.log10(alpha) + r * math.log10(beta) - math.log10(r) for n in cells for r in range(1, n + 1)
    ]
    largest = max(terms)
    return largest + math.log10(math.fsum(10 ** (term - largest) for term in terms))


def assert_agree(ours: Tensor | np.ndarray, reference: np.ndarray, *, relative: float = 1e-5) -> None:
    """The largest difference is below `relative` of the largest value."""
    assert ours.shape == reference.shape
    assert np.abs(np.asarray(ours, dtype=np.float64) - reference).max() < relative * np.abs(reference).max()


def perturb(flow: UFlow, seed: int = 0) -> None:
    """Take all parameters away from where they start: no two channels are alike, and log-determinants are large."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            spread = 0.5 if "global" in name else 0.02
            parameter += spread * torch.randn(parameter.shape, generator=generator)
            if name.endswith("global_scale"):
                parameter += 0.5


@pytest.mark.parametrize(("joined", "coupling"), [(True, "affine"), (True, "uniform"), (False, "affine")])
@pytest.mark.parametrize("name", SHAPES)
def test_embeddings_log_determinant_and_maps(name, joined, coupling):
    flow = UFlow(*SHAPES[name], joined=joined, coupling=coupling)
    perturb(flow)
    rng = np.random.default_rng(1)
    features = [rng.standard_normal((2, c, *grid)) for c, grid in zip(*SHAPES[name], strict=True)]
    expected, expected_log_det = u_flow(features, flow.state_dict(), joined=joined, coupling=coupling)
    with torch.inference_mode():
        embeddings, log_det = flow([torch.from_numpy(f).float() for f in features])
    for z, e in zip(embeddings, expected, strict=True):
        assert_agree(z, e)
        assert 0.5 < e.std() < 5  # neither dead nor blown up
    assert_agree(log_det, expected_log_det)
    assert_agree(likelihood_map(embeddings, size=(40, 56))[:, 0], likelihood(expected, (40, 56)))
    assert_agree(anomaly_score(embeddings, size=(40, 56))[:, 0], 1 - likelihood(expected, (40, 56)))
    for u, e in zip(squared_norms(embeddings), expected, strict=True):
        assert_agree(u, (e**2).sum(axis=1))


@pytest.mark.parametrize("kind", ["layer", "channel"])
def test_normalised_features(kind):
    rng = np.random.default_rng(2)
    features = [rng.normal(3, 5, (6, c, n, n)) * rng.uniform(0.1, 9, (c, 1, 1)) for c, n in ((7, 8), (12, 4))]
    normalisation = FeatureNormalisation(kind, [7, 12])
    singles = [torch.from_numpy(f).float() for f in features]
    normalisation.fit([[f[:4] for f in singles], [f[4:] for f in singles]])
    for ours, f in zip(normalisation(singles), features, strict=True):
        axes = (1, 2, 3) if kind == "layer" else (0, 2, 3)
        variance = f.var(axis=axes, keepdims=True)
        floor = 1e-6 * variance.mean() if kind == "channel" else 1e-5  # a map that never moves must not divide by zero
        assert_agree(ours, (f - f.mean(axis=axes, keepdims=True)) / np.sqrt(variance + floor))


@pytest.fixture(scope="module")
def lite() -> Model:
    """The lite extractor with a flow of random weights and channel statistics of noise."""
    model = build_model(ModelConfig(input_size=96), device=CPU, seed=3)
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(3)]
    model.normalisation.fit([model.features(images)])
    perturb(model.flow)
    return model


def test_the_whole_road_from_image_to_log_nfa_map(lite):
    """The published procedure: chi-square with C degrees of freedom, Chernoff on both sides of C, eq. 9."""
    image = np.random.default_rng(5).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    state = {key: value.double() if value.is_floating_point() else value for key, value in lite.state_dict().items()}

    centred = ((image / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]  # docs/method.md, section 1: mean = std = 0.5
    raw = lite.extractor.backbone(torch.from_numpy(centred).float())
    for ours, theirs in zip(lite.features([image]), raw, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    normalised = [
        (f.double() - state[f"normalisation.mean_{s}"]).numpy() / state[f"normalisation.std_{s}"].numpy()
        for s, f in enumerate(raw)
    ]
    flow_state = {key.removeprefix("flow."): value for key, value in state.items() if key.startswith("flow.")}
    expected, expected_log_det = u_flow(normalised, flow_state)
    with torch.inference_mode():
        embeddings, log_det = lite.embed(lite.features([image]))
    for z, e in zip(embeddings, expected, strict=True):
        assert_agree(z, e)
    assert_agree(log_det, expected_log_det)
    assert_agree(anomaly_score(embeddings, size=SCORE_SIZE)[:, 0], 1 - likelihood(expected, SCORE_SIZE))

    grids = [z.shape[2:] for z in expected]
    log_n_tests = nfa.log_n_tests(grids)
    assert log_n_tests == pytest.approx(log_number_of_tests([h * w for h, w in grids]), rel=1e-12)
    laws = [nfa.Background(z.shape[1]) for z in expected]
    norms = [u.numpy() for u in squared_norms(embeddings)]
    found = nfa.a_contrario(norms, background=laws, tests="paper", tail="published")
    log_pfas = published_log_pfa(expected)
    for scale, e in enumerate(log_pfas):
        assert e.min() < -1  # there is something to compare
        assert_agree(oracles.log_pfa_map(found, scale)[0], e)

    config = replace(lite.config, tests="paper", paper_exact=True)
    detector = Detector(tuple(laws), "paper", lite.flow.reach, paper_exact=True)
    [prediction] = predict(replace(lite, config=config, neighbours=None), detector, [image])
    merged = np.minimum.reduce([bilinear(e[None], SCORE_SIZE)[0] for e in log_pfas])
    assert_agree(prediction.log_nfa_map - log_n_tests, merged)
    assert_agree(prediction.score_map, 1 - likelihood(expected, SCORE_SIZE)[0])
    assert prediction.log_nfa == pytest.approx(log_n_tests + min(e.min() for e in log_pfas), abs=1e-5 * -merged.min())


def test_the_reference_counts_tests_as_published():
    assert log_number_of_tests([28 * 28, 14 * 14]) == pytest.approx(
        476.9237108556737, rel=1e-12
    )  # docs/method.md, section 10
