"""The configuration fixes the map from features to embeddings, and every form of it works from training to detection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from products import SMALL_MODEL, Recorder, defective_image

from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.datasets import load_dataset
from uflow_cli.detect import detect_images
from uflow_cli.errors import UflowError
from uflow_cli.evaluation import evaluate_run
from uflow_cli.model import build_model, check_model_config
from uflow_cli.run.record import load_model, load_run
from uflow_cli.training import train

CPU = torch.device("cpu")
FORMS = {  # channels and grids of the embeddings at an input of 96, and the flow's reach
    "u": ((59, 76, 160), (12, 6, 3), (22, 10, 4)),
    "average": ((40, 112, 320), (12, 6, 3), (4, 4, 4)),
    "single:1": ((40,), (12,), (4,)),
    "single:2": ((112,), (6,), (4,)),
    "single:3": ((320,), (3,), (4,)),
}


@pytest.mark.parametrize("architecture", FORMS)
def test_every_architecture_from_training_to_evaluation(architecture, product, tmp_path):
    """Paper table 6: scales joined, side by side, or one alone."""
    channels, sides, reach = FORMS[architecture]
    coupling = "uniform" if architecture in ("average", "single:2") else "affine"
    config = ModelConfig(
        input_size=SMALL_MODEL.input_size, architecture=architecture, coupling=coupling, precision="fp32",
        fit="squash",
    )  # fmt: skip
    recorder = Recorder([])
    result = train(
        sorted((product / "stripes" / "train" / "good").iterdir()), out=tmp_path / "run", dataset="mvtec",
        category="stripes", model_config=config, config=TrainingConfig(epochs=2, batch_size=4, learning_rate=2e-3),
        device=CPU, observer=recorder,
    )  # fmt: skip
    assert recorder.epochs[1].loss < recorder.epochs[0].loss
    assert result.calibration.n_channels[: result.calibration.n_scales] == channels
    run = load_run(tmp_path / "run")
    assert run.model == config
    model = load_model(run, device=CPU)
    assert model.flow.reach == reach
    embeddings = model.embeddings([defective_image(0)[0]])
    assert [tuple(z.shape[1:]) for z in embeddings] == [(c, n, n) for c, n in zip(channels, sides, strict=True)]
    found = detect_images(
        run, sorted((product / "stripes" / "test" / "spot").iterdir()), out=tmp_path / "found", device=CPU
    )  # fmt: skip
    assert len(found.images) == 4
    assert all(np.isfinite(image.log_nfa) for image in found.images)
    evaluation = evaluate_run(run, load_dataset("mvtec", root=product, category="stripes"), device="cpu")
    assert evaluation.pixel_auroc > 0.8  # spots stand out, also where only the coarsest grid, 3 x 3, sees them
    assert evaluation.image_auroc > 0.9


@pytest.mark.parametrize(
    ("settings", "names", "channels"),
    [
        ({}, ["nearest patch"], (152,)),
        ({"gaussian": True}, ["Gaussian 1", "Gaussian 2", "nearest patch"], (152, 432, 152)),
        ({"gaussian": True, "neighbours": 0}, ["Gaussian 1", "Gaussian 2"], (152, 432)),
        ({"neighbours": 0}, [], ()),
        ({"merge": "min", "gaussian": True}, [], ()),
    ],
)
def test_witnesses_beside_the_flow_are_those_of_the_settings(settings, names, channels):
    model = build_model(ModelConfig(input_size=64, **settings), device=CPU)
    assert model.source_channels[len(model.reach) :] == channels
    assert model.config.source_names(3, 3 + len(channels))[3:] == names
    maps = model.evidence_maps([defective_image(0)[0]])
    assert [u.shape[1] for u in maps[3:]] == [2 if n == 432 else 4 for n in channels]


def test_one_scale_alone_sees_nothing_of_the_others():
    model = build_model(ModelConfig(input_size=96, architecture="single:2"), device=CPU)
    features = [torch.randn(1, c, n, n) for c, n in ((40, 12), (112, 6), (320, 3))]
    before, log_det = model.embed(features)
    other = [torch.zeros_like(features[0]), features[1], torch.zeros_like(features[2])]
    after, log_det_after = model.embed(other)
    assert torch.equal(before[0], after[0])
    assert torch.equal(log_det, log_det_after)
    assert not torch.equal(model.embed([f + 1 for f in features])[0][0], before[0])


def test_a_scale_that_the_extractor_lacks_is_one_clear_line():
    with pytest.raises(
        UflowError, match=r"^architecture single:4: efficientnet-lite0 has 3 scales; use single:1 to single:3$"
    ):
        check_model_config(ModelConfig(architecture="single:4"))
    with pytest.raises(UflowError, match=r"^architecture single:3: x has 2 scales; use single:1 to single:2$"):
        ModelConfig(extractor="x", architecture="single:3").flow_scales(2)
    with pytest.raises(UflowError, match=r"^architecture single:2: x has 1 scale; use single:1$"):
        ModelConfig(extractor="x", architecture="single:2").flow_scales(1)
