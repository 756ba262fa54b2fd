"""benchmarks/peers.py: the parts that need no anomalib."""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import peers
import peers_differnet
import pytest
import torch
from peers_differnet import DifferNet, turned_vectors
from peers_images import choose_images
from peers_measures import Scored, fair_threshold, measure, miou_above, oracle_of_scores
from peers_rows import Job, run_row
from peers_spade import Spade
from peers_table import as_csv, as_markdown, as_text

from uflow_cli.datasets import Dataset, load_dataset
from uflow_cli.evaluation import evaluate_run
from uflow_cli.metrics import mean_iou
from uflow_cli.run.record import load_run


@pytest.fixture
def data(product: Path) -> Dataset:
    return load_dataset("mvtec", root=product, category="stripes")


def scored(maps: list[np.ndarray]) -> Scored:
    return Scored(tuple(m.astype(np.float32) for m in maps), tuple(float(m.max()) for m in maps))


def random_maps(n: int, seed: int, side: int = 16) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).permutation(n * side * side).reshape(n, side, side).astype(np.float32))


def squares(side: int = 16) -> list[np.ndarray]:
    """An empty mask and two with a square."""
    masks = [np.zeros((side, side), dtype=np.bool_) for _ in range(3)]
    masks[1][2:6, 3:8] = True
    masks[2][9:12, 9:12] = True
    return masks


def test_images_are_drawn_by_seed_and_good_ones_are_split_without_overlap(data: Dataset) -> None:
    draw = {"n_train": 18, "n_good": 2, "n_defective": 3}
    chosen = choose_images(data, **draw, seed=0)
    assert chosen == choose_images(data, **draw, seed=0)
    assert set(chosen.good) != set(choose_images(data, **draw, seed=1).good)
    assert len(chosen.good) == len(set(chosen.good)) == 18
    assert sorted(chosen.training + chosen.held_out) == sorted(chosen.good)
    assert [item.is_good for item in chosen.test] == [True, True, False, False, False]


def test_all_images_are_taken_where_no_number_is_given(data: Dataset) -> None:
    chosen = choose_images(data, n_train=None, n_good=None, n_defective=None, seed=3)
    assert len(chosen.good) == len(data.train)
    assert set(chosen.test) == set(data.test)


def test_fair_threshold_leaves_one_pixel_per_training_image_on_average() -> None:
    maps = random_maps(5, seed=0)
    threshold = fair_threshold(maps)
    assert sum(int((m > threshold).sum()) for m in maps) == 5


def test_oracle_is_the_best_of_all_thresholds() -> None:
    masks, maps = squares(), random_maps(3, seed=1)
    for score_map, mask in zip(maps, masks, strict=True):
        score_map[mask] += 400
    values = np.unique(np.stack(maps))
    best = max(mean_iou((m > t, g) for m, g in zip(maps, masks, strict=True)).all_images for t in values)
    threshold, found = oracle_of_scores(maps, masks)
    assert found.all_images == pytest.approx(best)
    assert miou_above(maps, masks, threshold=threshold) == found


def test_a_perfect_map_has_perfect_measures_and_a_constant_one_has_none() -> None:
    masks, normal = squares(), scored(random_maps(2, seed=2))
    labels = [False, True, True]
    perfect = measure(scored([m * 1.0 for m in masks]), masks, labels, training=normal, held_out=normal, seed=0)
    for name in ("image_auroc", "pixel_auroc", "aupro", "oracle_miou", "oracle_miou_defective"):
        assert perfect[name] == pytest.approx(1.0), name
    constant = measure(scored([m * 0.0 for m in masks]), masks, labels, training=normal, held_out=normal, seed=0)
    assert constant["image_auroc"] == constant["pixel_auroc"] == 0.5
    assert constant["fair_miou"] == pytest.approx(1 / 3)  # nothing found: the good image alone counts
    assert constant["fair_miou_defective"] == 0.0
    assert "nfa_automatic_miou" not in constant


def test_the_two_fair_thresholds_come_from_their_own_images() -> None:
    masks, maps = squares(), random_maps(3, seed=4)
    training, held_out = random_maps(2, seed=5), [m + 100 for m in random_maps(2, seed=5)]
    found = measure(
        scored(maps), masks, [False, True, True], training=scored(training), held_out=scored(held_out), seed=0
    )
    assert found["fair_held_out_threshold"] == found["fair_threshold"] + 100
    assert found["fair_miou"] == miou_above(maps, masks, threshold=found["fair_threshold"]).all_images


def test_the_row_of_uflow_says_what_evaluate_says_of_the_same_run(data: Dataset, tmp_path: Path) -> None:
    selection = choose_images(data, n_train=None, n_good=None, n_defective=None, seed=0)
    result = run_row(Job("uflow", None, input_size=96, epochs=2, seed=0, folder=tmp_path), selection)
    run = load_run(tmp_path / "uflow-efficientnet-lite0")
    assert run.origin.n_training == len(selection.training)
    expected = evaluate_run(run, data, device="cpu", nfa_threshold=0.0)
    same = {
        "image_auroc": expected.image_auroc,
        "image_auroc_nfa": expected.image_auroc_nfa,
        "pixel_auroc": expected.pixel_auroc,
        "aupro": expected.aupro,
        "nfa_automatic_miou": expected.miou.all_images,
        "nfa_automatic_miou_defective": expected.miou.defective_images,
        "nfa_oracle_miou": expected.oracle.miou.all_images,
    }
    assert {name: result.measures[name] for name in same} == pytest.approx(same, rel=1e-5)
    assert result.training_seconds > 0
    assert result.seconds_per_image > 0
    assert result.peak_memory_mib > 50
    json.dumps(asdict(result))


@pytest.fixture
def options(product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    argv = ["peers.py", "--data-root", str(product), "--out", str(tmp_path), "--epochs", "uflow=2"]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr(peers, "find_spec", lambda _: True)  # no row runs here; anomalib need not be there
    return peers.parse_options()


def test_a_row_that_cannot_run_is_not_tried_and_says_why(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_kwargs: pytest.fail("it ran"))
    assert "--resnet-weights FILE" in peers.result_of("fastflow-resnet", options)["not_run"]
    assert "--b5-weights FILE" in peers.result_of("csflow-b5", options)["not_run"]
    options.input_size = 448
    assert "multiples of 128, not 448" in peers.result_of("csflow", options)["not_run"]
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    assert "pip install --group peers" in peers.result_of("padim", options)["not_run"]
    assert peers.reason_not_to_run("differnet", options) is None


def test_a_row_is_run_again_only_where_its_settings_changed(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        name = command[-1]
        runs.append(name)
        content = {"settings": peers.settings_of(name, options), "measures": {}}
        (options.out / f"{name}.json").write_text(json.dumps(content))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        peers.result_of("uflow", options)
        peers.result_of("padim", options)
    assert runs == ["uflow", "padim"]
    options.epochs = {"uflow": 3}
    peers.result_of("uflow", options)
    peers.result_of("padim", options)
    assert runs == ["uflow", "padim", "uflow"]


def test_a_row_that_fails_says_so_and_keeps_no_old_figures(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], *, stdout: io.TextIOBase, **_: object) -> subprocess.CompletedProcess[str]:
        stdout.write("Traceback\nMemoryError: too little\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    (options.out / "padim.json").write_text(json.dumps({"settings": {}, "measures": {"pixel_auroc": 1.0}}))
    assert peers.result_of("padim", options) == {"not_run": "failed with status 1: MemoryError: too little"}


def test_tables_hold_figures_of_rows_that_ran_and_reasons_of_others() -> None:
    normal = scored(random_maps(2, seed=2))
    measures = measure(scored(random_maps(3, seed=3)), squares(), [False, True, True], training=normal, held_out=normal,
                       seed=0)  # fmt: skip
    times = {"training_seconds": 61.2, "training_cpu_seconds": 30.1, "seconds_per_image": 0.25}
    ran = {
        "row": "padim", "title": "PaDiM", "facts": {"weights": "a file"}, "measures": measures, **times,
        "cpu_seconds_per_image": 0.2, "peak_memory_mib": 900.4,
    }  # fmt: skip
    missing = {"row": "cflow", "title": "CFlow", "not_run": "no weights"}
    for text in (as_text([ran, missing], ["seed 0"]), as_markdown([ran, missing], ["seed 0"])):
        assert "61 (30)" in text
        assert f"{measures['pixel_auroc']:.3f}" in text
        assert "CFlow: not run: no weights" in text
        assert "seed 0" in text
        cells = next(line for line in text.splitlines() if line.lstrip("| ").startswith("CFlow "))
        assert not any(character.isdigit() for character in cells)
    first, second = csv.DictReader(io.StringIO(as_csv([ran, missing])))
    assert float(first["pixel_auroc"]) == measures["pixel_auroc"]
    assert (second["not_run"], second["pixel_auroc"]) == ("no weights", "")


def test_spade_scores_by_nearest_images_and_cells(data: Dataset, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    good = [torch.randn(60, c, n, n, generator=generator) for c, n in ((3, 4), (5, 2))]
    spade = Spade(good)
    image_scores, maps = spade.score([f[:2] for f in good])
    assert maps.abs().max() < 1e-2  # a training image's own cells are the nearest
    vectors = good[1].mean(dim=(2, 3))
    for i in range(2):
        nearest = torch.linalg.vector_norm(vectors - vectors[i], dim=1).sort().values[:50]
        assert image_scores[i] == pytest.approx(float(nearest.mean()), rel=1e-3)
    selection = choose_images(data, n_train=8, n_good=1, n_defective=2, seed=0)
    result = run_row(Job("spade", None, input_size=64, epochs=None, seed=0, folder=tmp_path), selection)
    assert result.facts["extractor"] == "efficientnet-lite0"
    assert 0.5 < result.measures["pixel_auroc"] <= 1


def test_differnet_learns_what_is_normal_and_the_same_from_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_differnet, "LEARNING_RATE", 5e-3)
    generator = torch.Generator().manual_seed(0)
    good = 0.1 * torch.randn(24, 4, 6, generator=generator) + 2.0
    strange = good - 2.0  # nearer to zero, where only a trained flow scores high
    first, other = (DifferNet(good, epochs=n, seed=s, width=16) for n, s in ((30, 0), (1, 1)))
    torch.rand(1)  # the state of the global generator does not count
    same = DifferNet(good, epochs=30, seed=0, width=16)
    assert first.score(good).max() < first.score(strange).min()
    assert other.score(good).min() > other.score(strange).max()
    assert torch.equal(first.score(good), same.score(good))
    assert not torch.equal(other.score(good), DifferNet(good, epochs=1, seed=2, width=16).score(good))


def test_vectors_of_a_turned_image_are_those_of_the_image_in_another_order() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def corners(pixels: torch.Tensor) -> list[torch.Tensor]:
        return [pixels.float(), pixels[:, :, :1, :1].float()]

    vectors = turned_vectors(image, corners)
    assert vectors.shape == (1, 4, 9)
    assert torch.equal(turned_vectors(torch.rot90(image, 1, dims=(2, 3)), corners), vectors.roll(-1, dims=1))
    assert not torch.equal(vectors, vectors.roll(-1, dims=1))


def test_the_row_of_differnet_has_an_image_score_and_no_measures_of_pixels(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_differnet.DifferNet.__init__, "__kwdefaults__", {"epochs": 2, "width": 16})
    selection = choose_images(data, n_train=4, n_good=1, n_defective=1, seed=0)
    job = Job("differnet", None, input_size=64, epochs=2, seed=0, folder=tmp_path)
    result = run_row(job, selection)
    assert set(result.measures) == {"image_auroc", "image_auroc_low", "image_auroc_high"}
    assert result.facts["training"].startswith("2 epoch(s) (published: 192)")
    row = {"row": "differnet", "title": "DifferNet", **asdict(result)}
    assert "| - | - | - |" in as_markdown([row], [])
