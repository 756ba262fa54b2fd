"""The code paths of a GPU on a stand-in: PyTorch's fake tensors know shapes, types and devices, and refuse to mix them.

What computes on numbers is not shown by this, but a tensor that was left on the CPU is.
"""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
from uflow_cli.training.processes import Processes
from uflow_cli.training.steps import adam

GPU = torch.device("cuda", 0)
CONFIG = replace(SMALL_MODEL, flow_steps=2, precision="bf16")


@pytest.fixture(scope="module")
def on_cpu() -> Model:
    return build_model(CONFIG, device=torch.device("cpu"), pretrained=False)


@pytest.fixture
def model(on_cpu: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """A model on a GPU that is not there, without numbers."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    with moved(on_cpu, GPU) as there:
        yield there


@contextlib.contextmanager
def moved(on_cpu: Model, device: torch.device) -> Iterator[Model]:
    """The model on `device`, without numbers: what modules register is moved, all else stays behind."""
    parts = {
        name: copy.deepcopy(getattr(on_cpu, name)) for name in ("extractor", "normalisation", "flow", "neighbours")
    }
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in parts.values():
            for module in part.modules():
                for name, value in module._parameters.items():
                    if value is not None:
                        there = like(value, device)
                        module._parameters[name] = nn.Parameter(there, requires_grad=value.requires_grad)
                for name, value in module._buffers.items():
                    module._buffers[name] = None if value is None else like(value, device)
        yield replace(on_cpu, device=device, **parts)


def like(value: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)


def require_on_gpu(tensors: list[Tensor], device: torch.device = GPU) -> None:
    assert tensors
    for tensor in tensors:
        assert tensor.device == device


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
    assert [tuple(u.shape) for u in sources] == [(2, 12, 12), (2, 6, 6), (2, 3, 3), (2, 6, 6)]
    assert {u.dtype for u in sources} == {torch.float32}
    assert model.batch_size > 1


@pytest.mark.parametrize("half", [False, True])
def test_the_loss_of_a_training_step_stays_on_the_gpu(model: Model, half: bool) -> None:
    """Its gradient needs a driver; see below."""
    model.flow.train()
    features = noise(model)
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        embeddings, log_det = model.embed(features)
    loss = negative_log_likelihood(embeddings, log_det).mean()
    require_on_gpu([*embeddings, loss])
    assert loss.dtype == torch.float32
    assert loss.requires_grad


def test_gradients_and_the_optimiser_stay_on_the_device() -> None:
    """In a process of its own: once there is a simulated device, this PyTorch asks for no other."""
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this PyTorch simulates no device")
    code = f"import {Path(__file__).stem} as tests; tests.train_a_step_on_a_simulated_device()"
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


def train_a_step_on_a_simulated_device() -> None:
    """The autograd engine asks a GPU's driver, but none for a device that PyTorch itself simulates."""
    torch.utils.backend_registration._setup_privateuseone_for_python_backend("chip")
    device = torch.device("chip", 0)
    with moved(build_model(CONFIG, device=torch.device("cpu"), pretrained=False), device) as model:
        flow, optimiser = model.flow.train(), adam(model.flow.parameters(), weight_decay=1e-5)
        torch.autograd.backward(negative_log_likelihood(*model.embed(noise(model))).mean())
        for parameter in flow.parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None
                require_on_gpu([parameter, parameter.grad], device)
        optimiser.step()
        require_on_gpu([state["exp_avg"] for state in optimiser.state.values()], device)


def test_several_processes_share_gradients_on_the_gpu_of_each(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharing itself needs numbers: `tests/cli/test_processes.py` does it on the CPU."""
    given: dict[str, object] = {}
    monkeypatch.setattr("torch.nn.parallel.DistributedDataParallel", lambda flow, **options: given.update(options))
    Processes(rank=1, size=2).synchronised(model.flow, device=GPU)
    assert given == {"device_ids": [GPU], "broadcast_buffers": False}


def noise(model: Model) -> list[Tensor]:
    shapes = zip(model.flow.channels, model.flow.grids, strict=True)
    return [torch.randn(4, c, *grid, device=model.device) for c, grid in shapes]


def test_resident_features_are_read_on_the_gpu(model: Model) -> None:
    layout: RecordLayout = record_layout(model)
    records = torch.empty((5, layout.width), dtype=torch.int16, device=GPU)
    found = unpack(records[torch.tensor([0, 3], device=GPU)], layout)
    require_on_gpu(found)
    store = ResidentFeatures.__new__(ResidentFeatures)
    store.layout, store._records = layout, records
    assert len(store) == 5
    assert np.prod([f.shape[0] for f in found]) == 8
