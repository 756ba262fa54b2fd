"""`uflow cache`, and how training tells of it."""

from __future__ import annotations

import json
import re

import pytest

from uflow_cli.schema import VERSION

QUICK = ["--epochs", "1", "--batch-size", "4", "--input-size", "64", "--device", "cpu"]


@pytest.fixture
def train(uflow, product, tmp_path):
    """`train(run, *options)` trains on the product with a cache of its own, and gives what stderr said."""

    def run(name, *options):
        outcome = uflow("train", "--images", product / "stripes" / "train" / "good", "--out", tmp_path / name,
                        "--cache-dir", tmp_path / "cache", *QUICK, *options)  # fmt: skip
        assert outcome.code == 0, outcome.err
        return outcome.err

    return run


def test_second_run_takes_features_from_the_cache(train):
    assert re.search(r"^features of 20 images: 20 computed at [\d.e+]+ images/s$", train("a"), re.MULTILINE)
    assert re.search(r"^features of 20 images: all from the cache$", train("b"), re.MULTILINE)
    views = train("c", "--augment", "flips", "--views", 2)
    assert re.search(r"^features of 32 images: 20 from the cache, 12 computed at ", views, re.MULTILINE)


def test_no_cache_leaves_nothing_and_trains_the_same(train, tmp_path):
    assert "features of" not in train("a", "--no-cache")
    assert not (tmp_path / "cache").exists()
    train("b")
    logs = [(tmp_path / name / "log.csv").read_text().splitlines()[1].split(",")[:4] for name in "ab"]
    assert logs[0] == logs[1]


def test_cache_is_shown_and_cleared(uflow, train, tmp_path):
    train("a")
    folder = ["--cache-dir", tmp_path / "cache"]
    shown = uflow("cache", *folder)
    assert shown.code == 0
    assert re.search(r"cache: 0\.\d MiB of at most 50\.00 GiB", shown.out)
    assert re.search(r"efficientnet-lite0 +64 +20 +0\.\d MiB", shown.out)
    values = json.loads(uflow("cache", *folder, "--json").out)
    assert values["version"] == VERSION
    assert [(held["extractor"], held["n_images"]) for held in values["held"]] == [("efficientnet-lite0", 20)]
    assert values["bytes"] == values["held"][0]["n_bytes"] > 0
    cleared = uflow("cache", *folder, "--clear")
    assert re.search(r"removed 0\.\d MiB$", cleared.out.strip())
    assert json.loads(uflow("cache", *folder, "--json").out)["held"] == []
    assert json.loads(uflow("cache", *folder, "--clear", "--json").out)["removed"] == 0


def test_cache_that_is_too_small_is_one_line(uflow, product, tmp_path):
    outcome = uflow("train", "--images", product / "stripes" / "train" / "good", "--out", tmp_path / "run",
                    "--cache-dir", tmp_path / "cache", "--cache-size", "0.0001", *QUICK)  # fmt: skip
    assert outcome.code == 1
    assert outcome.err.count("uflow:") == 1
    assert "raise --cache-size" in outcome.err


def test_views_that_do_not_exist_are_one_line(uflow, product, tmp_path):
    outcome = uflow("train", "--images", product / "stripes" / "train" / "good", "--out", tmp_path / "run",
                    "--augment", "flips,rotations", "--views", 9, *QUICK)  # fmt: skip
    assert outcome.code == 1
    assert "give only 8" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", ["inf", "nan"])
def test_a_size_that_is_no_number_is_wrong_usage(uflow, tmp_path, size):
    outcome = uflow("cache", "--cache-dir", tmp_path / "cache", "--cache-size", size)
    assert outcome.code == 2
    assert "--cache-size" in outcome.err


def test_features_of_an_older_version_are_told_of_and_cleared(uflow, tmp_path):
    old = tmp_path / "cache" / ("0" * 32) / "00000000000000000001-0a1b2c3d.features"
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(2**20))
    folder = ["--cache-dir", tmp_path / "cache"]
    assert "1.0 MiB were kept by an older uflow" in uflow("cache", *folder).out
    assert "removed 1.0 MiB" in uflow("cache", *folder, "--clear").out
    assert not old.exists()
