"""The code paths of a GPU on a stand-in: PyTorch's fake tensors know shapes, types and devices, and refuse to mix them.

What computes on numbers is not shown by this, but a tensor that was left on the CPU is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from products import SMALL_MODEL, good_image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from uflow_cli.cache import ResidentFeatures, record_layout
from uflow_cli.features.records import RecordLayout, unpack
from uflow_cli.flow import negative_log_likelihood
from uflow_cli.model import Model, build_model

GPU = torch.device("cuda", 0)
CONFIG = replace(SMALL_MODEL, flow_steps=2, precision="bf16")


@pytest.fixture(scope="module")
def on_cpu() -> Model:
    return build_model(CONFIG, device=torch.device("cpu"), pretrained=False)


@pytest.fixture
def model(on_cpu: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """A model on a GPU that is not there, without numbers: what modules register is moved, all else stays behind."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    moved = {name: copy.deepcopy(getattr(on_cpu, name)) for name in ("extractor", "normalisation", "flow", "gaussians")}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in moved.values():
            for module in part.modules():
                for name, value in module._parameters.items():
                    if value is not None:
                        module._parameters[name] = nn.Parameter(like(value), requires_grad=value.requires_grad)
                for name, value in module._buffers.items():
                    module._buffers[name] = None if value is None else like(value)
        yield replace(on_cpu, device=GPU, **moved)


def like(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=GPU)


def require_on_gpu(tensors: list[Tensor]) -> None:
    assert tensors
    for tensor in tensors:
        assert tensor.device == GPU


def test_the_stand_in_catches_what_was_left_on_the_cpu(model: Model) -> None:
    model.normalisation.mean_0 = torch.zeros(40, 12, 12, device="cpu")
    with pytest.raises(RuntimeError, match=r"[Dd]evice"):
        model.embed(model.features([good_image(0)]))


def test_images_become_evidence_on_the_gpu(model: Model) -> None:
    with torch.inference_mode(False), torch.no_grad():
        features = model.features([good_image(0), good_image(1)])
        require_on_gpu(features)
        embeddings, log_det = model.embed(features)
        require_on_gpu([*embeddings, log_det])
        sources = model.evidence(features, embeddings)
    require_on_gpu(sources)
    assert [tuple(u.shape) for u in sources] == [(2, 12, 12), (2, 6, 6), (2, 3, 3), (2, 6, 6), (2, 3, 3)]
    assert {u.dtype for u in sources} == {torch.float32}
    assert model.batch_size > 1


@pytest.mark.parametrize("half", [False, True])
def test_the_loss_of_a_training_step_stays_on_the_gpu(model: Model, half: bool) -> None:
    """Its gradient needs a driver."""
    model.flow.train()
    shapes = zip(model.flow.channels, model.flow.grids, strict=True)
    features = [torch.randn(4, c, *grid, device=GPU) for c, grid in shapes]
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        embeddings, log_det = model.embed(features)
    loss = negative_log_likelihood(embeddings, log_det).mean()
    require_on_gpu([*embeddings, loss])
    assert loss.dtype == torch.float32
    assert loss.requires_grad


def test_resident_features_are_read_on_the_gpu(model: Model) -> None:
    layout: RecordLayout = record_layout(model)
    records = torch.empty((5, layout.width), dtype=torch.int16, device=GPU)
    found = unpack(records[torch.tensor([0, 3], device=GPU)], layout)
    require_on_gpu(found)
    store = ResidentFeatures.__new__(ResidentFeatures)
    store.layout, store._records = layout, records
    assert len(store) == 5
    assert np.prod([f.shape[0] for f in found]) == 8
