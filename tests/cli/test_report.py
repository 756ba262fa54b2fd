"""`uflow report`: a page from what a detection left, whole even where images are gone."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np

from uflow_cli.images import read_image, write_png
from uflow_cli.report import page
from uflow_cli.run.record import load_run


def test_a_page_of_earlier_results_says_what_they_say(uflow, small_run, product, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for kind in ("good", "spot"):
        for path in (product / "stripes" / "test" / kind).iterdir():
            (images / f"{kind}_{path.name}").write_bytes(path.read_bytes())
    assert uflow("detect", images, "--model", small_run, "--out", out).code == 0
    (images / "good_000.png").unlink()
    outcome = uflow("report", out)
    assert (outcome.code, outcome.out) == (0, f"{out / 'report' / 'index.html'}\n")
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    shown = [i for i in json.loads((out / "detections.json").read_text())["images"] if "good_000" not in i["path"]]
    assert re.findall(r'data-nfa="([^"]+)"', page) == [repr(image["log_nfa"]) for image in shown]
    assert "1 of 8 images cannot be shown any more" in page
    levels = re.findall(r'data-levels="([^"]*)"', page)
    for image, stored in zip(shown, levels, strict=True):
        drawn = {region["log_nfa"] for region in image["regions"] if not region["is_whole_image"]}
        assert {float(level) for level in stored.split()} <= drawn
        assert bool(stored) == bool(drawn)
    assert uflow("report", out).code == 0  # its own page is replaced
    shutil.move(out / "report", images / "report")
    again = uflow("detect", images, "--model", small_run, "--out", tmp_path / "again", "--json")
    assert json.loads(again.out)["n_images"] == 7  # none of the page's pictures


def test_held_out_images_stand_in_the_histogram_where_thresholds_count_them(
    uflow, small_run, photographs, product, tmp_path, monkeypatch
):
    """The calibration stores what is counted per image; thresholds and the images that are inspected count in lots."""
    drawn, draw = [], page.lowest_histogram

    def histogram(cards, *, threshold, held_out):
        drawn.append(held_out)
        return draw(cards, threshold=threshold, held_out=held_out)

    monkeypatch.setattr(page, "lowest_histogram", histogram)
    uflow("detect", *photographs, "--model", small_run, "--out", tmp_path / "out", "--report", tmp_path / "page")
    uflow("evaluate", "--model", small_run, "--data-root", product, "--out", tmp_path / "measures", "--report",
          tmp_path / "evaluated")  # fmt: skip
    calibration = load_run(small_run).calibration
    assert calibration.log_lot == 2.0
    assert [len(held_out) for held_out in drawn] == [calibration.n_images] * 2
    for held_out in drawn:
        for threshold in (-1.0, 0.0, 1.0, 2.0, 3.0):
            assert sum(value < threshold for value in held_out) == calibration.false_alarm_images(threshold)


def test_a_folder_without_results_is_named(uflow, tmp_path):
    outcome = uflow("report", tmp_path)
    assert outcome.code == 1
    assert (
        outcome.err == f"uflow: {tmp_path / 'detections.json'}: no such file; name a folder that `uflow detect` wrote\n"
    )
    (tmp_path / "detections.json").mkdir()
    assert "detections.json: cannot be read (Is a directory); name a folder" in uflow("report", tmp_path).err
    (tmp_path / "detections.json").rmdir()
    (tmp_path / "detections.json").write_text("{}")
    outcome = uflow("report", tmp_path / "detections.json")
    assert outcome.err.endswith(
        "detections.json/detections.json: no such file; name a folder that `uflow detect` wrote\n"
    )
    assert "detections.json cannot be read (it has no version); detect again" in uflow("report", tmp_path).err


def test_overlays_are_the_evidence_of_what_was_detected_earlier(uflow, small_run, photographs, tmp_path):
    out, page = tmp_path / "out", tmp_path / "page"
    uflow("detect", *photographs, "--model", small_run, "--out", out)
    (out / "overlays" / "b.png").unlink()
    write_png(out / "overlays" / "c.png", read_image(out / "overlays" / "c.png")[:50])  # of another image
    outcome = uflow("detect", *photographs, "--model", small_run, "--out", out, "--resume", "--report", page)
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (page / "images").glob("*-heat.png")) == ["0001-heat.png"]
    assert np.array_equal(read_image(page / "images" / "0001-heat.png"), read_image(out / "overlays" / "a.png"))
    assert (page / "index.html").read_text(encoding="utf-8").count('class="heat"') == 1
