"""Training: honest splits, falling loss, a run that is whole at every moment, and clear refusals."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from products import SMALL_MODEL, SMALL_TRAINING, Recorder, good_image, shared_cache

from uflow_cli.cache import GIB, CacheFolder, ResidentFeatures, features_of
from uflow_cli.config import TrainingConfig
from uflow_cli.errors import ImageError, TrainingError
from uflow_cli.flow import UFlow
from uflow_cli.images import write_png
from uflow_cli.model import build_model
from uflow_cli.run.record import load_model, load_run
from uflow_cli.run.state import has_state
from uflow_cli.training import resume, split_images, train
from uflow_cli.training.engine import on_gpu_if_room
from uflow_cli.training.processes import _is_broken_link
from uflow_cli.training.steps import adam, batched, rate_factor

CPU = torch.device("cpu")


def run_training(paths, out, recorder, config=SMALL_TRAINING, **options):
    return train(
        paths, out=out, dataset="d", category="c", model_config=SMALL_MODEL, config=config, device=CPU, observer=recorder,
        **{"cache": shared_cache(), **options},
    )  # fmt: skip


@pytest.fixture
def good_paths(product):
    return sorted((product / "stripes" / "train" / "good").iterdir())


@pytest.mark.parametrize("n_images", [2, 3, 5, 9, 10, 16, 40, 53, 54, 160, 761])
def test_split_uses_every_image_once_and_holds_out_enough(n_images):
    split = split_images(n_images, held_out_fraction=0.15, seed=3)
    held_out = set(split.selection) | set(split.calibration)
    assert sorted(set(split.training) | held_out) == list(range(n_images))
    assert not set(split.training) & held_out
    assert len(held_out) == min(max(8, min(n_images // 4, 15), round(0.15 * n_images)), n_images // 2)
    if split.shared:
        assert split.selection == split.calibration
        assert len(held_out) < 24
    else:
        assert not set(split.selection) & set(split.calibration)
        assert min(len(split.selection), len(split.calibration)) >= 8


def test_split_depends_on_the_seed_alone():
    assert split_images(50, held_out_fraction=0.15, seed=1) == split_images(50, held_out_fraction=0.15, seed=1)
    assert split_images(50, held_out_fraction=0.15, seed=1) != split_images(50, held_out_fraction=0.15, seed=2)


@pytest.mark.parametrize("sizes", [(1, 1), (10, 10), (5,) * 8, (30, 3, 3), (20,) * 12, (1,) * 200, (4, 90, 6)])
def test_split_never_parts_a_group(sizes):
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    split = split_images(len(groups), held_out_fraction=0.15, seed=1, groups=groups)
    held_out = {*split.selection, *split.calibration}
    assert sorted([*split.training, *held_out]) == list(range(len(groups)))
    uses = [{groups[i] for i in rows} for rows in (split.training, split.selection, split.calibration)]
    assert all(uses)
    assert not uses[0] & (uses[1] | uses[2])
    assert split.shared or not uses[1] & uses[2]
    assert len(held_out) <= len(groups) // 2
    if max(sizes) <= 20 and len(sizes) > 3:
        assert len(held_out) >= 0.15 * len(groups)
        assert split.shared == (len(held_out) < 24 or len(uses[1] | uses[2]) < 3)


@pytest.mark.parametrize("groups", [(), [str(i // 6) for i in range(40)]])
def test_folds_are_parts_of_all_images(groups):
    split = split_images(40, held_out_fraction=0.15, seed=1, groups=groups, n_folds=4)
    parts = [split.selection, *split.folds]
    assert sorted(i for part in parts for i in part) == list(range(40))
    assert sorted(split.training) == sorted(i for part in split.folds for i in part)
    assert max(map(len, parts)) - min(map(len, parts)) <= (6 if groups else 0)
    if groups:
        assert sum(len({groups[i] for i in part}) for part in parts) == 7


def test_all_images_calibrate_by_flows_that_have_not_seen_them(good_paths, tmp_path, recorder):
    """Calibrated by the other fold too, whose images the kept flow has seen and another flow has not."""
    alone = run_training(good_paths, tmp_path / "alone", recorder)
    config, flows = replace(SMALL_TRAINING, folds=2), []
    recorder.on_flow = lambda number, total: flows.append((number, total))
    run = run_training(good_paths, tmp_path / "run", recorder, config=config)
    assert (run.origin.n_training, run.origin.n_selection, run.origin.n_images, run.origin.n_flows) == (10, 10, 20, 2)
    assert (run.calibration.n_images, run.calibration.shared) == (20, False)
    assert (alone.calibration.n_images, alone.origin.n_flows) == (8, 1)
    assert load_run(tmp_path / "run").calibration == run.calibration
    assert flows == [(2, 2)]


def test_cross_fitting_that_was_stopped_is_done_anew(good_paths, tmp_path, recorder):
    config, flows = replace(SMALL_TRAINING, folds=2, flow_precision="fp32"), []
    recorder.on_flow = lambda number, _total: flows.append(number)
    whole = run_training(good_paths, tmp_path / "whole", recorder, config=config)
    assert flows == [2]
    stopped = run_training(good_paths, tmp_path / "run", recorder, config=config, should_stop=lambda: len(flows) > 1)
    assert (stopped.progress.state, stopped.calibration.n_images, stopped.calibration.shared) == ("stopped", 10, True)
    resumed = resume(tmp_path / "run", good_paths, device=CPU, observer=recorder, cache=shared_cache())
    assert resumed.progress.state == "finished"
    assert resumed.calibration == whole.calibration


def test_a_single_group_cannot_be_split():
    with pytest.raises(TrainingError, match="one group, 'a'"):
        split_images(20, held_out_fraction=0.15, seed=0, groups=["a"] * 20)


@pytest.mark.parametrize("n_images", [0, 1])
def test_too_few_images_to_hold_one_out(n_images):
    with pytest.raises(TrainingError, match="at least 2"):
        split_images(n_images, held_out_fraction=0.15, seed=0)


def test_loss_falls_and_the_best_epoch_is_kept(good_paths, tmp_path, recorder):
    result = run_training(good_paths, tmp_path / "run", recorder)
    losses = [record.loss for record in recorder.epochs]
    assert losses[-1] < losses[0] - 0.05
    best = min(recorder.epochs, key=lambda record: record.held_out_loss)
    run = load_run(tmp_path / "run")
    assert run.progress.best_epoch == best.epoch == result.progress.best_epoch
    assert run.weights.startswith(f"flow-{best.epoch:04d}-")
    assert run.progress.state == "finished"
    assert recorder.images == recorder.features == len(good_paths)


def test_log_can_be_plotted(small_run):
    with (small_run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert all(float(row["loss"]) > 0 and float(row["held_out_loss"]) > 0 for row in rows)
    assert float(rows[-1]["seconds"]) > float(rows[0]["seconds"])


def test_the_loss_curve_shows_every_epoch_and_the_one_kept(small_run):
    svg = ElementTree.parse(small_run / "loss.svg").getroot()
    lines = [element for element in svg.iter() if element.tag.endswith("polyline")]
    assert [len(line.attrib["points"].split()) for line in lines] == [4, 4]
    words = [element.text for element in svg.iter() if element.tag.endswith("text")]
    assert f"kept: {load_run(small_run).progress.best_epoch}" in words
    assert "mvtec/stripes" in words


def test_same_seed_same_model_other_seed_another(good_paths, tmp_path):
    config = TrainingConfig(epochs=1, batch_size=4)
    states = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run_training(good_paths, tmp_path / name, Recorder([]), TrainingConfig(epochs=1, batch_size=4, seed=seed))
        states.append(load_model(load_run(tmp_path / name), device=CPU).state_dict())
    assert config.seed == 0
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_stopping_keeps_a_usable_run(good_paths, tmp_path, recorder):
    asked = itertools.count()
    result = run_training(good_paths, tmp_path / "run", recorder, should_stop=lambda: next(asked) >= 1)
    assert [record.epoch for record in recorder.epochs] == [1, 2]
    run = load_run(tmp_path / "run")
    assert run.progress.state == result.progress.state == "stopped"
    load_model(run, device=CPU)


def test_run_is_whole_after_the_first_epoch(good_paths, tmp_path):
    """A kill after any epoch leaves a model that works."""

    class Killed(Recorder):
        def on_epoch(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(good_paths, tmp_path / "run", Killed([]))
    load_model(load_run(tmp_path / "run"), device=CPU)
    assert not list((tmp_path / "run").glob(".*"))  # no litter


def test_existing_run_is_not_overwritten_unless_asked(good_paths, tmp_path, recorder):
    one_epoch = TrainingConfig(epochs=1, batch_size=4)
    run_training(good_paths, tmp_path / "run", recorder, one_epoch)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(TrainingError, match="--overwrite"):
        run_training(good_paths, tmp_path / "run", recorder, one_epoch)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    run_training(good_paths, tmp_path / "run", recorder, TrainingConfig(epochs=1, batch_size=4, seed=1), overwrite=True)
    assert load_run(tmp_path / "run").training.seed == 1


def test_unreadable_images_are_named_before_training_starts(good_paths, tmp_path, recorder):
    broken, empty = tmp_path / "broken.png", tmp_path / "empty.png"
    broken.write_bytes(good_paths[0].read_bytes()[:500])
    empty.touch()
    with pytest.raises(ImageError, match=r"broken\.png.*1 more of 22 images"):
        run_training([*good_paths, broken, empty], tmp_path / "run", recorder)
    assert recorder.features == 0
    assert not (tmp_path / "run").exists()


def test_few_images_train_and_share_the_held_out_ones(tmp_path, recorder):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        write_png(path, good_image(i))
    result = run_training(paths, tmp_path / "run", recorder, TrainingConfig(epochs=1, batch_size=2))
    assert result.calibration.shared
    assert result.calibration.n_images == 2


def test_diverging_training_is_one_clear_error(good_paths, tmp_path, recorder):
    with pytest.raises(TrainingError, match="--learning-rate below 1000"):
        run_training(good_paths, tmp_path / "run", recorder, TrainingConfig(epochs=3, batch_size=4, learning_rate=1e4))


def test_features_live_on_the_device_where_there_is_twice_the_room(good_paths):
    model = build_model(SMALL_MODEL, device=CPU)
    kept = features_of(model, good_paths, cache=shared_cache(), on_progress=lambda _done, _total: None)
    resident = on_gpu_if_room(kept, CPU, free_bytes=2 * kept.n_bytes)
    assert isinstance(resident, ResidentFeatures)
    for a, b in zip(resident.read([3, 1, 3], device=CPU), kept.read([3, 1, 3], device=CPU), strict=True):
        assert torch.equal(a, b)
    assert on_gpu_if_room(kept, CPU, free_bytes=2 * kept.n_bytes - 1) is kept
    assert on_gpu_if_room(kept, CPU) is kept  # the system keeps what it can in memory anyway


def test_a_divergence_goes_back_one_epoch_and_on_with_a_lower_rate(good_paths, tmp_path, recorder):
    """Once; the epoch is done again from the same state, and all later ones are those of the lower rate."""
    config = dataclasses.replace(SMALL_TRAINING, epochs=3, schedule="published")
    run_training(good_paths, tmp_path / "run", recorder, config, criterion=Scripted(0.5, float("nan"), 0.6, 0.7))
    assert [record.learning_rate for record in recorder.epochs] == pytest.approx([2e-3, 2e-4, 2e-4])
    assert [record.epoch for record in recorder.epochs] == [1, 2, 3]
    assert len(recorder.warnings) == 1
    assert "diverged in epoch 2" in recorder.warnings[0]
    untroubled = Recorder([])
    run_training(good_paths, tmp_path / "other", untroubled, dataclasses.replace(config, epochs=2))
    assert (
        untroubled.epochs[1].loss < recorder.epochs[1].loss < recorder.epochs[0].loss
    )  # from the same state by smaller steps


def test_a_second_divergence_ends_training_with_the_best_epoch_kept(good_paths, tmp_path, recorder):
    config = dataclasses.replace(SMALL_TRAINING, epochs=3)
    with pytest.raises(TrainingError, match="diverged in epoch 2"):
        run_training(good_paths, tmp_path / "run", recorder, config, criterion=Scripted(0.5, *[float("nan")] * 2))
    run = load_run(tmp_path / "run")
    assert (run.progress.state, run.progress.best_epoch) == ("failed", 1)
    load_model(run, device=CPU)
    assert not has_state(tmp_path / "run")


def test_feature_noise_is_for_training_steps_alone(good_paths, tmp_path):
    """Losses of an almost untrained flow: noise of variance 1 raises the one that it trains with, not the other."""
    losses = {}
    for noise in (0.0, 1.0):
        config = dataclasses.replace(SMALL_TRAINING, epochs=1, learning_rate=1e-9, feature_noise=noise)
        recorder = Recorder([])
        run_training(good_paths, tmp_path / str(noise), recorder, config)
        losses[noise] = recorder.epochs[0].loss, recorder.epochs[0].held_out_loss
    assert losses[1.0][0] - losses[0.0][0] == pytest.approx(1 / (2 * math.log(2)), rel=0.05)  # E|e|^2 / 2, in bits
    assert losses[1.0][1] == pytest.approx(losses[0.0][1], rel=1e-4)


def test_dropout_is_for_training_steps_alone(good_paths, tmp_path):
    """Of a flow that does not move, what is left out changes the loss that it trains with, not the held-out one."""
    losses = []
    for name, dropout in (("whole", 0.0), ("half", 0.5), ("again", 0.5)):
        config = dataclasses.replace(SMALL_TRAINING, epochs=1, learning_rate=1e-9, dropout=dropout)
        recorder = Recorder([])
        run_training(good_paths, tmp_path / name, recorder, config)
        losses.append((recorder.epochs[0].loss, recorder.epochs[0].held_out_loss))
    whole, half, again = losses
    assert half == again
    assert abs(half[0] - whole[0]) > 1e-4
    assert half[1] == pytest.approx(whole[1], rel=1e-6)


def test_half_of_the_hidden_channels_is_left_out_and_the_rest_doubled(good_paths, tmp_path, monkeypatch):
    seen = []

    def thinned(flow, kept):
        seen.append([factors.clone() for factors in kept])
        return contextlib.nullcontext()

    monkeypatch.setattr(UFlow, "thinned", thinned)
    run_training(good_paths, tmp_path / "run", Recorder([]), dataclasses.replace(SMALL_TRAINING, epochs=1, dropout=0.5))
    flow = load_model(load_run(tmp_path / "run"), device=CPU).flow
    assert [len(kept) for kept in seen] == [len(flow.steps)] * len(seen)
    for step, factors in zip(flow.steps, seen[0], strict=True):
        assert factors.shape == (SMALL_TRAINING.batch_size, step.hidden_channels, 1, 1)
    values = torch.cat([factors.flatten() for kept in seen for factors in kept])
    assert set(values.tolist()) == {0.0, 2.0}
    assert float(values.mean()) == pytest.approx(1.0, abs=4 / len(values) ** 0.5)
    assert not torch.equal(seen[0][0], seen[1][0])


def test_gradient_clip_bounds_the_step(good_paths, tmp_path):
    """A tiny bound makes the gradient so small that Adam's epsilon and the weight decay are all that is left."""
    losses = []
    for name, clip in (("free", 0.0), ("loose", 1e6), ("tight", 1e-13)):
        config = dataclasses.replace(SMALL_TRAINING, epochs=1, gradient_clip=clip, weight_decay=0.0)
        recorder = Recorder([])
        run_training(good_paths, tmp_path / name, recorder, config)
        losses.append(recorder.epochs[0].loss)
    assert losses[0] == losses[1] < losses[2]


def test_steps_in_half_precision_lead_to_the_same_loss(good_paths, tmp_path):
    """Only convolutions of training steps are rounded, not the weights, not the log-determinant, not what judges."""
    logs = []
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(SMALL_TRAINING, epochs=2, flow_precision=precision)
        recorder = Recorder([])
        run_training(good_paths, tmp_path / precision, recorder, config)
        logs.append(recorder.epochs)
    for single, half in zip(*logs, strict=True):
        assert single.loss != half.loss
        assert half.loss == pytest.approx(single.loss, abs=2e-4)
        assert half.held_out_loss == pytest.approx(single.held_out_loss, abs=2e-4)
    state = load_model(load_run(tmp_path / "bf16"), device=CPU).state_dict()
    assert all(value.dtype in (torch.float32, torch.int64) for value in state.values())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # PyTorch looks at it, not we
def test_compiled_steps_are_the_same_steps(good_paths, tmp_path, recorder, monkeypatch):
    """The tracing is PyTorch's own; only the C++ that would come of it is left out, for it takes a minute."""
    compile_, sizes = torch.compile, []

    def traced(function, **options):
        run = compile_(function, backend="aot_eager", **options)

        def counted(features):
            sizes.append(len(features[0]))
            return run(features)

        return counted

    monkeypatch.setattr(torch, "compile", traced)
    config = dataclasses.replace(SMALL_TRAINING, compile=True, batch_size=5)
    plain = Recorder([])
    run_training(good_paths, tmp_path / "compiled", recorder, config)
    run_training(good_paths, tmp_path / "same", plain, dataclasses.replace(config, compile=False))
    assert not recorder.warnings
    assert set(sizes) == {5}  # 12 images: the last batch of 2 goes uncompiled
    assert len(sizes) == 1 + 2 * 4
    for ours, theirs in zip(recorder.epochs, plain.epochs, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)
    assert not plain.warnings


def test_where_nothing_can_be_compiled_training_says_so_and_goes_on(good_paths, tmp_path, recorder, monkeypatch):
    def broken(function, **options):
        def run(features):
            raise RuntimeError("no C++ compiler found\nand many more lines")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    config = dataclasses.replace(SMALL_TRAINING, epochs=2)
    plain = Recorder([])
    run_training(good_paths, tmp_path / "plain", plain, config)
    run_training(good_paths, tmp_path / "run", recorder, dataclasses.replace(config, compile=True))
    assert [record.loss for record in recorder.epochs] == [record.loss for record in plain.epochs]
    assert recorder.warnings == [
        "training steps cannot be compiled here (no C++ compiler found); they run as they are, only slower"
    ]


def test_adam_is_adam_with_or_without_its_fused_form(monkeypatch):
    def stepped() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(5, 3, generator=generator)) for _ in range(2)]
        optimiser = adam(parameters, weight_decay=0.1)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn(5, 3, generator=generator)
            optimiser.step()
        return [parameter.detach() for parameter in parameters]

    class OldAdam(torch.optim.Adam):
        def __init__(self, parameters, **options):
            if options.get("fused"):
                raise RuntimeError("`fused=True` requires all the params to be on a GPU")
            super().__init__(parameters, **options)

    fused = stepped()
    monkeypatch.setattr(torch.optim, "Adam", OldAdam)
    for a, b in zip(fused, stepped(), strict=True):
        torch.testing.assert_close(a, b)


def test_batches_cover_all_indices_in_order():
    assert [list(b) for b in batched(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_one_cycle_rises_and_falls_to_a_hundredth():
    rates = [rate_factor("one-cycle", step, n_steps=100, warm_up=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert int(np.argmax(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=0.01)


def test_constant_stays_after_the_rise_and_published_throughout():
    rates = [rate_factor("constant", step, n_steps=10, warm_up=0.2) for step in range(10)]
    assert rates == [0.5, *[1.0] * 9]
    assert [rate_factor("published", step, n_steps=10, warm_up=0.2) for step in range(10)] == [1.0] * 10


def test_log_has_a_column_per_scale(small_run):
    with (small_run / "log.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    assert [name for name in row if name.startswith("mean_square")] == [f"mean_square_{s}" for s in (1, 2, 3)]
    assert all(0.3 < float(row[f"mean_square_{s}"]) < 3 for s in (1, 2, 3))
    assert float(row["images_per_second"]) > 0
    assert row["criterion"] == row["held_out_loss"]


class Scripted:
    """A criterion that gives what it was told, epoch by epoch."""

    name, higher_is_better = "scripted", True

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def value(self, model, held_out_loss):
        assert not model.flow.training
        return self.values.pop(0)


def test_a_criterion_chooses_the_epoch_and_patience_ends_training(good_paths, tmp_path, recorder):
    config = dataclasses.replace(SMALL_TRAINING, epochs=9, patience=2)
    result = run_training(good_paths, tmp_path / "run", recorder, config, criterion=Scripted(0.5, 0.7, 0.7, 0.6, 0.9))
    assert [record.epoch for record in recorder.epochs] == [1, 2, 3, 4]
    assert (result.progress.best_epoch, result.progress.value, result.progress.state) == (2, 0.7, "finished")
    assert load_run(tmp_path / "run").progress.criterion == "scripted"


def test_nothing_need_be_held_out_where_something_else_chooses(good_paths, tmp_path, recorder):
    config = dataclasses.replace(SMALL_TRAINING, epochs=2, held_out_fraction=0)
    result = run_training(good_paths, tmp_path / "run", recorder, config, criterion=Scripted(0.5, 0.7))
    assert result.origin.n_training == len(good_paths)
    run = load_run(tmp_path / "run")
    assert run.progress.held_out_loss is None
    assert [(b.degrees_of_freedom, b.scale) for b in run.calibration.background] == [
        (c, 1.0) for c in run.calibration.n_channels
    ]


def test_views_of_training_images_train_too(good_paths, tmp_path, recorder):
    config = TrainingConfig(epochs=1, batch_size=4, augment=("flips",), views=3)
    result = run_training(good_paths, tmp_path / "run", recorder, config)
    assert (result.origin.n_training, result.origin.n_selection) == (12, 8)
    assert recorder.features == 20 + 12 * 2  # held-out images have no views
    assert recorder.batches == 12 * 3 / 4


def test_fresh_views_are_not_kept(good_paths, tmp_path, recorder):
    cache = CacheFolder(tmp_path / "cache", limit=GIB)
    config = TrainingConfig(epochs=2, batch_size=8, augment=("brightness",), views=2, fresh_views=True)
    run_training(good_paths, tmp_path / "run", recorder, config, cache=cache)
    assert not cache.path.exists()
    fixed = Recorder([])
    run_training(good_paths, tmp_path / "fixed", fixed, replace(config, fresh_views=False), cache=cache)
    assert cache.files()
    assert fixed.epochs[0].loss != recorder.epochs[0].loss


def test_cache_or_not_the_model_is_the_same(good_paths, tmp_path, recorder):
    states = []
    for name, cache in (("kept", shared_cache()), ("computed", None)):
        run_training(good_paths, tmp_path / name, Recorder([]), TrainingConfig(epochs=1, batch_size=4), cache=cache)
        states.append(load_model(load_run(tmp_path / name), device=CPU).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("cause", [torch.OutOfMemoryError("out of memory"), ConnectionError("peer is gone")])
def test_want_of_memory_inside_the_graph_is_no_broken_link(cause):
    flow = UFlow([8], [(4, 4)])

    def fail(*_: object, **__: object) -> None:
        raise cause

    flow.module_list[0].forward = fail
    with pytest.raises(RuntimeError) as caught:
        flow([torch.zeros(1, 8, 4, 4)])
    error = RuntimeError(f"Connection {caught.value}")
    error.__cause__ = caught.value
    assert _is_broken_link(error) == isinstance(cause, ConnectionError)
