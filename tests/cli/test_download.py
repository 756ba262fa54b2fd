"""`uflow download`, and training that offers it."""

from __future__ import annotations

import pytest

from uflow_cli import download as module
from uflow_cli.datasets import load_dataset


@pytest.fixture
def fetched(product, monkeypatch, tmp_path):
    """Fetching copies the small product; the working folder has no data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "system"))
    monkeypatch.delenv("UFLOW_DATA", raising=False)
    calls = []

    def fake(source, folder, *, category, on_progress):
        calls.append((source.name, folder, category))
        on_progress("fetching", 1, 1)
        folder.mkdir(exist_ok=True)
        (folder / source.name).symlink_to(product, target_is_directory=True)
        return folder / source.name

    monkeypatch.setattr(module, "download", fake)
    return calls


def test_the_list_shows_licence_checksum_and_source(uflow):
    outcome = uflow("download")
    assert outcome.code == 0
    for text in (
        "mvtec\n",
        "cf4313b13603",
        "CC BY-NC-SA 4.0, for non-commercial use only",
        "anomalib",
        "no SHA-256 is known",
    ):
        assert text in outcome.out


def test_the_licence_must_be_accepted(uflow, fetched):
    outcome = uflow("download", "mvtec", "--category", "stripes")
    assert outcome.code == 1
    assert "--accept-licence" in outcome.err
    assert not fetched
    outcome = uflow("download", "mvtec", "--category", "stripes", "--accept-licence")
    assert outcome.code == 0, outcome.err
    assert [(name, str(folder), category) for name, folder, category in fetched] == [("mvtec", "data", "stripes")]
    assert "licence: CC BY-NC-SA 4.0, for non-commercial use only" in outcome.err
    assert "uflow train --dataset mvtec --category stripes\n" in outcome.out
    assert load_dataset("mvtec", root=fetched[0][1] / "mvtec", category="stripes").train


def test_an_unknown_data_set_is_one_line(uflow):
    outcome = uflow("download", "imagenet")
    assert outcome.code == 1
    assert "known are mvtec, " in outcome.err


def test_training_offers_it_on_a_terminal_and_names_it_elsewhere(uflow, fetched, monkeypatch):
    arguments = [
        "train",
        "--dataset",
        "mvtec",
        "--category",
        "stripes",
        "--device",
        "cpu",
        "--architecture",
        "single:9",
    ]
    outcome = uflow(*arguments)
    assert outcome.code == 1
    assert "uflow download mvtec --accept-licence" in outcome.err
    assert "was not found in data, data/mvtec, " in outcome.err
    questions = []
    monkeypatch.setattr("uflow_cli.cli.options.ask", lambda question: not questions.append(question))
    monkeypatch.setattr("uflow_cli.cli.download.ask", lambda question: not questions.append(question))
    outcome = uflow(*arguments)
    assert questions == ["Fetch MVTec AD?", "Do you accept the licence?"]
    assert fetched
    assert "data set mvtec is in data/mvtec" in outcome.err
    assert "single:9" in outcome.err  # and went on
