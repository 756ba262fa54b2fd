"""Published checkpoints become runs that judge as the published code does: here with FrEIA's own parts in them."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm  # noqa: TID251
import torch
import torch.nn.functional as F
from freia_parts import freia_graph
from products import good_image
from safetensors import SafetensorError
from test_parity import bilinear, likelihood, log_number_of_tests, published_log_pfa, u_flow
from weights_files import CAIT, random_state

from uflow_cli.checkpoints import guess_category, import_published
from uflow_cli.detection.prediction import SCORE_SIZE, predict
from uflow_cli.errors import CheckpointError, NoRoomError, UflowError, WeightsError
from uflow_cli.features import EXTRACTORS
from uflow_cli.features.cait import CaitBackbone, CaitScale
from uflow_cli.files import write_bytes
from uflow_cli.run.record import PAPER_EXACT_CAVEAT, load_model, load_run

CPU = torch.device("cpu")
SMALL = (CaitScale(CAIT, 2, 64, 16, 192),)


@pytest.fixture
def ms_cait(monkeypatch):
    """Two scales of a small CaiT in the place of the paper's large ones."""
    other = CaitScale("cait_xxs36_224.fb_dist_in1k", 1, 32, 32, 192)
    monkeypatch.setitem(EXTRACTORS, "ms-cait", CaitBackbone("ms-cait", (SMALL[0], other)))
    return [random_state(CAIT, seed=1, img_size=64), random_state(other.network, seed=2, img_size=32)]


def graph_of(channels, flow_steps=4, coarsest=2):
    np.random.seed(flow_steps)  # noqa: NPY002 - FrEIA's permutations
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        graph = freia_graph(channels, flow_steps, coarsest=coarsest)
    with torch.no_grad():
        for name, parameter in graph.named_parameters():
            if "subnet" in name:
                parameter *= 0.1
    return graph.float()


def write_checkpoint(path: Path, graph, **networks) -> Path:
    state = {f"model.flow.{name}": value for name, value in graph.state_dict().items()}
    for part, tensors in networks.items():
        state |= {f"model.feature_extractor.{part}.{name}": value for name, value in tensors.items()}
    state["loss.weight"] = torch.ones(3)
    content = {
        "state_dict": state,
        "hyper_parameters": argparse.Namespace(category="screw", data=Path("x")),
        "epoch": 7,
    }
    torch.save(content, path)
    return path


def our_names(graph):
    """FrEIA's state with permutations as indices, read off the matrices, for the plain restatement."""
    state = {}
    for name, value in graph.state_dict().items():
        if name.endswith("w_perm"):
            state[name.replace("w_perm", "permutation")] = value[:, :, 0, 0].argmax(dim=1)
        elif "w_perm" not in name and "kernel" not in name:
            state[name] = value
    return state


def network_input(image):
    """A batch of one image, normalised as for ImageNet."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - mean) / std


def test_ms_cait_judges_as_the_restated_method(ms_cait, tmp_path):
    graph = graph_of((192, 192))
    path = write_checkpoint(tmp_path / "screw_auc.ckpt", graph, extractor1=ms_cait[0], extractor2=ms_cait[1])
    run = import_published(path, out=tmp_path / "screw", dataset="mvtec", category="screw", device=CPU)
    assert (run.model.paper_exact, run.model.tests, run.model.lot, run.caveat) == (True, "paper", 1, PAPER_EXACT_CAVEAT)
    assert run.origin.imported == str(path)
    model = load_model(run, device=CPU)
    image = good_image(3, side=64)
    features = [f.double().numpy() for f in model.features([image])]
    expected, _ = u_flow(features, our_names(graph))
    with torch.inference_mode():
        embeddings = model.embeddings([image])
    for z, e in zip(embeddings, expected, strict=True):
        np.testing.assert_allclose(z, e, atol=1e-4 * np.abs(e).max())
    [prediction] = predict(model, run.calibration.detector(model), [image])
    log_pfas = published_log_pfa(expected)
    merged = np.minimum.reduce([bilinear(e[None], SCORE_SIZE)[0] for e in log_pfas])
    log_n_tests = log_number_of_tests([16, 4])
    np.testing.assert_allclose(prediction.log_nfa_map - log_n_tests, merged, atol=1e-3 * -merged.min())
    np.testing.assert_allclose(prediction.score_map, 1 - likelihood(expected, SCORE_SIZE)[0], atol=1e-4)


def test_networks_come_from_the_file(ms_cait, tmp_path):
    path = write_checkpoint(tmp_path / "a.ckpt", graph_of((192, 192)), extractor1=ms_cait[0], extractor2=ms_cait[1])
    model = load_model(
        import_published(path, out=tmp_path / "a", dataset="mvtec", category="a", device=CPU), device=CPU
    )
    network = timm.create_model(CAIT, img_size=64, pretrained=False).eval()
    network.load_state_dict(ms_cait[0])
    x = network_input(good_image(1, side=64))
    with torch.inference_mode():
        [tokens] = network.forward_intermediates(x, indices=[2], norm=True, intermediates_only=True)
        torch.testing.assert_close(model.features([good_image(1, side=64)])[0], tokens, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("flow_steps", [2, 6])
@pytest.mark.parametrize("n_scales", [1, 2])
def test_all_scales_and_step_counts(ms_cait, tmp_path, monkeypatch, n_scales, flow_steps):
    monkeypatch.setitem(EXTRACTORS, "cait-m48", CaitBackbone("cait-m48", SMALL[:1]))
    graph = graph_of((192,) * n_scales, flow_steps, coarsest=4 // n_scales)
    parts = {f"extractor{i + 1}": state for i, state in enumerate(ms_cait[:n_scales])}
    path = write_checkpoint(tmp_path / "a.ckpt", graph, **parts)
    run = import_published(path, out=tmp_path / "a", dataset="mvtec", category="a", device=CPU)
    assert (run.model.flow_steps, run.model.kernel_sizes) == (flow_steps, (3, 1) * (flow_steps // 2))
    model = load_model(run, device=CPU)
    features = model.features([good_image(3, side=64)])
    with torch.inference_mode():
        ours, theirs = model.embed(features)[0], graph(features)[0]
    for z, e in zip(ours, theirs, strict=True):
        torch.testing.assert_close(z, e, rtol=1e-3, atol=1e-3)


def resnet_checkpoint(path):
    torch.manual_seed(1)
    network = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3), pretrained=False).eval()
    graph, shapes = graph_of((64, 128, 256), coarsest=4), ((64, 16, 16), (128, 8, 8), (256, 4, 4))
    affine = {f"{s}.{kind}": torch.randn(shape) for s, shape in enumerate(shapes) for kind in ("weight", "bias")}
    write_checkpoint(path, graph, extractor=network.state_dict(), feature_normalizations=affine)
    return network, graph, affine


def test_trained_layer_norms_of_a_resnet_are_applied(tmp_path):
    network, graph, affine = resnet_checkpoint(tmp_path / "r.ckpt")
    run = import_published(tmp_path / "r.ckpt", out=tmp_path / "r", dataset="mvtec", category="r", device=CPU)
    assert (run.model.extractor, run.model.input_size) == ("resnet18", (64, 64))
    model = load_model(run, device=CPU)
    image = good_image(5, side=64)
    features = model.features([image])
    with torch.inference_mode():
        raw = network(network_input(image))
        normalised = [
            F.layer_norm(f, f.shape[1:]) * affine[f"{s}.weight"] + affine[f"{s}.bias"] for s, f in enumerate(raw)
        ]
        theirs, ours = graph(normalised)[0], model.embed(features)[0]
    for z, e in zip(ours, theirs, strict=True):
        torch.testing.assert_close(z, e, rtol=1e-3, atol=2e-3)


def test_networks_may_be_of_half_the_precision(ms_cait, tmp_path):
    halves = [{name: value.bfloat16() for name, value in network.items()} for network in ms_cait]
    path = write_checkpoint(tmp_path / "a.ckpt", graph_of((192, 192)), extractor1=halves[0], extractor2=halves[1])
    run = import_published(path, out=tmp_path / "run", dataset="mvtec", category="a", device=CPU)
    load_model(run, device=CPU)


def test_runs_share_what_is_the_same_and_may_be_moved(ms_cait, tmp_path):
    graph = graph_of((192, 192))
    for name in ("one", "two"):
        path = write_checkpoint(tmp_path / f"{name}.ckpt", graph, extractor1=ms_cait[0], extractor2=ms_cait[1])
        import_published(path, out=tmp_path / "runs" / name, dataset="mvtec", category=name, device=CPU)
    (file,) = (path.name for path in (tmp_path / "runs" / "one").glob(f"{CAIT}-*.safetensors"))
    assert (tmp_path / "runs" / "one" / file).samefile(tmp_path / "runs" / "two" / file)
    with pytest.raises(UflowError, match="already holds a run"):
        import_published(path, out=tmp_path / "runs" / "two", dataset="mvtec", category="two", device=CPU)
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere")
    load_model(load_run(tmp_path / "elsewhere" / "two"), device=CPU)


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("screw.ckpt", "screw"),
        ("metal_nut_auc.ckpt", "metal_nut"),
        ("tile/best.ckpt", "tile"),
        ("mine.ckpt", "mine"),
        ("Grid-pro.ckpt", "grid"),
    ],
)
def test_the_category_is_in_the_name(name, category):
    assert guess_category(Path(name)) == category


class Burglar:
    def __reduce__(self):
        return os.mkdir, ("trace",)


def refusals(tmp_path):
    flow = {f"model.flow.{name}": value for name, value in graph_of((8, 16)).state_dict().items()}
    code = {"state_dict": flow, "hyper_parameters": Burglar()}
    shifted = {name.replace("module_list.7.", "module_list.6."): value for name, value in flow.items()}
    unjust = {**flow, "model.flow.module_list.0.w_perm": torch.zeros(16, 16, 1, 1)}
    return {
        "no such file": None, "holds Python objects that could run code .*mkdir": code,
        "holds no flow; expected": {"state_dict": {"a": torch.ones(1)}}, "neither MS-CaiT nor ResNet": {"state_dict": flow},
        "which are no U": {"state_dict": shifted}, "is damaged: module_list.0.w_perm": {"state_dict": unjust},
    }  # fmt: skip


@pytest.mark.parametrize("case", range(6))
def test_what_is_no_published_model_is_one_line_and_makes_nothing(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    message, content = list(refusals(tmp_path).items())[case]
    if content is not None:
        torch.save(content, "x.ckpt")
    with pytest.raises((CheckpointError, WeightsError), match=message) as raised:
        import_published(Path("x.ckpt"), out=Path("run"), dataset="mvtec", category="x", device=CPU)
    assert "\n" not in str(raised.value)
    assert not Path("run").exists()
    assert not Path("trace").exists()


def test_a_flow_that_does_not_fit_its_networks_is_one_line(ms_cait, tmp_path):
    path = write_checkpoint(tmp_path / "x.ckpt", graph_of((192, 96)), extractor1=ms_cait[0], extractor2=ms_cait[1])
    with pytest.raises(CheckpointError, match="does not fit ms-cait"):
        import_published(path, out=tmp_path / "run", dataset="mvtec", category="x", device=CPU)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="does not fit ms-cait"):
        import_published(path, out=tmp_path / "run", dataset="mvtec", category="x", device=CPU)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["notes.txt"]


def refused(path, *_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_a_read_only_disk_is_one_line(ms_cait, tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "a.ckpt", graph_of((192, 192)), extractor1=ms_cait[0], extractor2=ms_cait[1])
    for name in ("unlink", "replace"):
        monkeypatch.setattr(Path, name, refused)
    with pytest.raises(NoRoomError, match=r"cannot be written \(Read-only file system\); choose another folder"):
        import_published(path, out=tmp_path / "run", dataset="mvtec", category="x", device=CPU)


def test_a_full_disk_is_one_line(ms_cait, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    path = write_checkpoint(tmp_path / "a.ckpt", graph_of((192, 192)), extractor1=ms_cait[0], extractor2=ms_cait[1])
    monkeypatch.setattr("uflow_cli.checkpoints.save_file", full)
    with pytest.raises(UflowError, match=r"run.*cannot be written \(.*No space left on device.*choose another folder"):
        import_published(path, out=tmp_path / "run", dataset="mvtec", category="x", device=CPU)
    assert not (tmp_path / "run").exists()


def test_what_fails_leaves_the_run_that_it_was_to_replace(ms_cait, tmp_path):
    flow, words = graph_of((192, 192)), {"dataset": "mvtec", "category": "x", "device": CPU}
    path = write_checkpoint(tmp_path / "a.ckpt", flow, extractor1=ms_cait[0], extractor2=ms_cait[1])
    import_published(path, out=tmp_path / "run", **words)
    (tmp_path / "run" / f"{CAIT}.safetensors").write_bytes(b"the user's own")
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    others = [{name: value + 1 for name, value in network.items()} for network in ms_cait]
    for flow_of_it in (graph_of((192, 96)), flow):
        path = write_checkpoint(tmp_path / "b.ckpt", flow_of_it, extractor1=others[0], extractor2=others[1])
        with contextlib.nullcontext() if flow_of_it is flow else pytest.raises(CheckpointError, match="does not fit"):
            import_published(path, out=tmp_path / "run", overwrite=True, **words)
        after = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
        assert (after == before, len(after)) == (flow_of_it is not flow, len(before))
    load_model(load_run(tmp_path / "run"), device=CPU)


def test_a_disk_that_keeps_what_nobody_needs_hinders_nothing(ms_cait, tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "a.ckpt", graph_of((192, 192)), extractor1=ms_cait[0], extractor2=ms_cait[1])
    stale = tmp_path / "run" / "flow-0001-0123456789ab.safetensors"
    write_bytes(stale, b"of another run")
    words = {"out": tmp_path / "run", "dataset": "mvtec", "category": "x", "device": CPU, "overwrite": True}
    unlink = Path.unlink
    with monkeypatch.context() as readonly:
        readonly.setattr(Path, "unlink", lambda path, **how: refused(path) if path == stale else unlink(path, **how))
        run = import_published(path, **words)
    assert stale.exists()
    assert load_run(tmp_path / "run") == run
    import_published(path, **words)
    assert not stale.exists()
