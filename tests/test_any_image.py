"""Images that are no squares: rectangular inputs from training to masks in pixels of the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from products import Recorder, shared_cache

from uflow_cli.cache import feature_settings
from uflow_cli.check import check_run
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.detect import detect_images
from uflow_cli.images import read_image, read_mask, write_png
from uflow_cli.model import build_model
from uflow_cli.run.record import load_run
from uflow_cli.training import fit, train

CPU = torch.device("cpu")
STRIP = (70, 210)  # pixels of the images, height and width
DEFECT = (slice(20, 40), slice(140, 160))


def strip(seed: int, *, size: tuple[int, int] = STRIP, defect: bool = False):
    """Vertical stripes with a random phase and noise, and perhaps a flat square."""
    rng = np.random.default_rng(seed)
    wave = 110 + 40 * np.sin(2 * np.pi * (np.arange(size[1]) / 12 + rng.random()))
    image = np.clip(wave[None, :] + rng.normal(0, 6, size), 0, 255)
    if defect:
        image[DEFECT] = 200
    return np.repeat(image.astype(np.uint8)[..., None], 3, axis=2)


def write_strips(folder, seeds, **options):
    paths = [folder / f"{seed:03d}.png" for seed in seeds]
    for seed, path in zip(seeds, paths, strict=True):
        write_png(path, strip(seed, **options))
    return paths


def trained(paths, out, model_config, **options):
    config = TrainingConfig(epochs=3, batch_size=4, learning_rate=2e-3, flow_precision="fp32")
    return train(
        paths, out=out, dataset="d", category="c", model_config=model_config, config=config, device=CPU,
        observer=Recorder([]), cache=shared_cache(), **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_strips(tmp_path_factory.mktemp("strips"), range(16))


@pytest.fixture(scope="module")
def rectangular(paths, tmp_path_factory):
    config = ModelConfig(input_size=(64, 192), precision="fp32")
    return trained(paths, tmp_path_factory.mktemp("rectangular"), config)


@pytest.fixture(scope="module", params=[("tile", 64), ("letterbox", 128)], ids=str)
def fitted(request, paths, tmp_path_factory):
    fit, side = request.param
    return trained(paths, tmp_path_factory.mktemp(fit), ModelConfig(input_size=side, fit=fit, precision="fp32"))


def test_tiles_and_letterboxes_train_detect_and_check_alike(fitted, tmp_path):
    """Mask and region are where the defect is, in pixels of the original, also of an image of another size."""
    [path] = write_strips(tmp_path, [99], defect=True)
    other = write_strips(tmp_path / "other", [98], defect=True, size=(100, 230))
    result = detect_images(load_run(fitted.folder), [path, *other], out=tmp_path / "out", device=CPU)
    for image in result.images:
        assert image.verdict == "defect"
        mask = read_mask(image.mask)
        assert mask.shape == (image.height, image.width)
        rows, columns = np.nonzero(mask)
        if fitted.model.fit == "tile" or image.path == path:  # a letterbox shows another size at another scale
            assert abs(rows.mean() - 30) < 15
            assert abs(columns.mean() - 150) < 15
        for region in image.regions:
            left, top, right, bottom = region.bounding_box
            assert 0 <= left < right <= image.width
            assert 0 <= top < bottom <= image.height
    fresh = write_strips(tmp_path / "fresh", range(50, 60)) + write_strips(tmp_path / "large", [61], size=(90, 260))
    assert check_run(load_run(fitted.folder), fresh, device=CPU, recalibrate=True).n_images == 11


def test_the_border_of_a_letterbox_trains_nothing(paths, tmp_path, monkeypatch):
    seen = []
    loss = fit.negative_log_likelihood

    def spy(embeddings, log_det_jacobian, shares=None):
        seen.append(shares)
        return loss(embeddings, log_det_jacobian, shares)

    monkeypatch.setattr(fit, "negative_log_likelihood", spy)
    trained(paths, tmp_path / "run", ModelConfig(input_size=128, fit="letterbox", precision="fp32"))
    content = STRIP[0] / STRIP[1]  # of a square
    for shares in seen:
        assert shares is not None
        for scale in shares:
            assert float(scale.mean()) == pytest.approx(content, abs=0.02)
            assert float(scale[:, :, scale.shape[2] // 2 :].max()) == 0


def test_input_size_of_a_run_comes_back_from_its_folder(rectangular):
    assert load_run(rectangular.folder).model.input_size == (64, 192)


def test_mask_and_box_of_a_strip_are_where_its_defect_is(rectangular, tmp_path):
    [path] = write_strips(tmp_path, [99], defect=True)
    result = detect_images(rectangular, [path], out=tmp_path / "out", device=CPU)
    [image] = result.images
    assert image.verdict == "defect"
    mask = read_mask(image.mask)
    assert mask.shape == STRIP == read_image(image.overlay).shape[:2]
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 30) < 8
    assert abs(columns.mean() - 150) < 8
    x, y = next(region for region in image.regions if not region.is_whole_image).centroid
    assert abs(x - 150) < 12
    assert abs(y - 30) < 12


def test_check_and_recalibration_take_rectangular_grids(rectangular, tmp_path):
    fresh = write_strips(tmp_path, range(50, 60))
    result = check_run(load_run(rectangular.folder), fresh, device=CPU)
    assert result.n_images == len(fresh)


def test_features_of_a_rectangle_are_kept_apart_from_those_of_a_square():
    sizes = [64, (64, 64), (64, 192), (192, 64)]
    found = [feature_settings(build_model(ModelConfig(input_size=size), device=CPU)) for size in sizes]
    assert found[0] == found[1] != found[2] != found[3]


def test_several_sizes_are_heights_in_the_proportions_of_the_input():
    config = ModelConfig(scales="128:16 | 128:32+64:16", input_size=(128, 320), precision="fp32")
    maps = build_model(config, device=CPU).features([strip(0)])
    assert [tuple(m.shape[2:]) for m in maps] == [(8, 20), (4, 10)]
