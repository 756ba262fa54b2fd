"""`uflow export` and what the other commands then do: where the graph goes, what it is compared on, which runtime."""

from __future__ import annotations

import json
import shutil

from products import SMALL_MODEL, good_image

from uflow_cli.images import write_png
from uflow_cli.run.record import GRAPH_NAME


def test_a_training_ends_with_a_graph_compared_on_held_out_images(uflow, product, tmp_path):
    outcome = uflow(
        "train", "--dataset", "mvtec", "--category", "stripes", "--data-root", product, "--out", tmp_path / "run",
        "--epochs", 1, "--input-size", SMALL_MODEL.input_size[0], "--graph",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    graph = json.loads((tmp_path / "run" / GRAPH_NAME).read_text())
    assert graph["compared_on"] == "8 held-out images"
    again = uflow("export", "--model", tmp_path / "run", "--json")  # finds the same images in the data set
    assert json.loads(again.out)["compared_on"] == "8 held-out images"
    assert json.loads(again.out)["sha256"] == graph["sha256"]


def test_a_run_whose_images_are_gone_is_compared_on_others(uflow, small_run, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run")
    outcome = uflow("export", "--model", run)
    assert outcome.code == 1
    assert "name others with --images" in outcome.err
    write_png(tmp_path / "images" / "a.png", good_image(7))
    outcome = uflow("export", "--model", run, "--images", tmp_path / "images", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "on 1 given images" in " ".join(outcome.out.split())
    assert not (run / GRAPH_NAME).exists()
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_check_and_evaluate_know_the_runtimes(uflow, graph_run, product, tmp_path):
    run = shutil.copytree(graph_run, tmp_path / "run")
    shutil.move(run / GRAPH_NAME, tmp_path)
    good = product / "stripes" / "test" / "good"
    for command in (
        ["check", "--images", good],
        ["evaluate", "--data-root", product, "--out", tmp_path / "evaluation"],
        ["detect", good, "--out", tmp_path / "out"],
    ):
        outcome = uflow(*command, "--model", run, "--runtime", "onnx")
        assert outcome.code == 1
        assert "has no graph of its weights" in outcome.err
        outcome = uflow(*command, "--model", graph_run, "--runtime", "onnx", "--json")
        assert outcome.code == 0, outcome.err


def test_pictures_are_left_out(uflow, graph_run, photographs, tmp_path):
    outcome = uflow("detect", *photographs, "--model", graph_run, "--no-overlays", "--out", tmp_path / "a", "--json")
    assert outcome.code == 0, outcome.err
    assert {image["overlay"] for image in json.loads(outcome.out)["images"]} == {None}
    assert len(list((tmp_path / "a").rglob("*.png"))) == len(photographs)
    uflow("detect", *photographs, "--model", graph_run, "--no-overlays", "--no-masks", "--out", tmp_path / "b")
    assert not [path for path in (tmp_path / "b").rglob("*") if path.suffix == ".png"]
