"""`uflow evaluate`: measures as a table and as JSON, and a report."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np

from uflow_cli.images import write_png


def test_table_has_every_measure(uflow, small_run, product, tmp_path):
    outcome = uflow("evaluate", "--model", small_run, "--dataset", "mvtec", "--category", "stripes", "--data-root", product,
                    "--out", tmp_path)  # fmt: skip
    assert outcome.code == 0, outcome.err
    for measure in (
        "image AUROC",
        "pixel AUROC",
        "AUPRO",
        "mIoU",
        "oracle",
        "false-alarm images / good images",
        "spot",
    ):
        assert measure in outcome.out


def test_data_set_of_the_run_is_the_default_and_json_is_alone(uflow, small_run, product, tmp_path):
    outcome = uflow("evaluate", "--model", small_run, "--data-root", product, "--json", "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    values = json.loads(outcome.out)
    assert values["category"] == "stripes"
    assert values["image_auroc"] == 1.0
    assert values["false_alarms"]["total"] == 4


def test_false_alarm_rate_is_reported_with_its_promise(uflow, small_run, product, tmp_path):
    outcome = uflow("evaluate", "--model", small_run, "--data-root", product, "--false-alarm-rate", 0.2, "--json",
                    "--out", tmp_path)  # fmt: skip
    assert outcome.code == 0, outcome.err
    values = json.loads(outcome.out)
    assert "at most 0.2 of good images flagged" in values["promise"]
    assert values["threshold"] != 0.0


def test_two_thresholds_are_wrong_usage(uflow, small_run):
    assert uflow("evaluate", "--model", small_run, "--nfa-threshold", 0, "--false-alarm-rate", 0.2).code == 2


def test_report_is_written_and_named(uflow, small_run, product, tmp_path):
    outcome = uflow("evaluate", "--model", small_run, "--data-root", product, "--report", tmp_path / "report",
                    "--out", tmp_path / "e")  # fmt: skip
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "report" / "index.html").read_text()
    assert "stripes" in page
    assert str(tmp_path / "report" / "index.html") in outcome.out.replace("\n", "")
    assert len(list((tmp_path / "report").rglob("*.png"))) >= 8


def test_unknown_category_lists_those_there_are(uflow, small_run, product):
    outcome = uflow("evaluate", "--model", small_run, "--category", "dots", "--data-root", product)
    assert outcome.code == 1
    assert "stripes" in outcome.err


def test_files_are_written_beside_the_run_or_where_told(uflow, small_run, product, tmp_path):
    outcome = uflow("evaluate", "--model", small_run, "--data-root", product, "--out", tmp_path / "e", "--fair")
    assert outcome.code == 0, outcome.err
    names = {path.name for path in (tmp_path / "e").iterdir()}
    assert names == {"evaluation.json", "evaluation.csv", "evaluation.md", "sweep.csv", "sweep.svg"}
    assert "no test image was looked at" in outcome.out
    assert "fair anomaly score" in outcome.out
    sweep = (tmp_path / "e" / "sweep.csv").read_text().splitlines()
    assert len(sweep) == 1402
    assert sweep[0].startswith("log_nfa_threshold,")


def test_each_source_can_be_measured_alone(uflow, small_run, product, tmp_path):
    outcome = uflow("evaluate", "--model", small_run, "--data-root", product, "--out", tmp_path / "e", "--sources")
    assert outcome.code == 0, outcome.err
    assert "nearest patch, alone" in outcome.out
    values = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    weights = json.loads((small_run / "config.json").read_text())["calibration"]["fusion"]["weights"]
    scales = [f"flow, scale {n + 1}" for n in range(len(weights) - 1)]
    assert [of["source"] for of in values["sources"]] == [*scales, "nearest patch"]
    assert max(of["image_auroc"] for of in values["sources"]) == 1.0
    assert all(of["pixel_auroc"] > 0.5 and 0 < of["aupro"] <= 1 for of in values["sources"])


def test_sources_that_are_not_fused_cannot_be_measured_alone(uflow, product, tmp_path):
    trained = uflow(
        "train", "--images", product / "stripes" / "train" / "good", "--out", tmp_path / "run", "--merge", "min",
        "--input-size", 64, "--epochs", 1,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    folder = product / "stripes" / "test"
    outcome = uflow("evaluate", "--model", tmp_path / "run", "--test", folder, "--sources")
    assert outcome.code == 1
    assert "measured alone where their evidence is fused" in outcome.err


def test_own_folders_need_no_layout_name(uflow, small_run, product, tmp_path):
    folder = product / "stripes"
    outcome = uflow(
        "evaluate", "--model", small_run, "--test", folder / "test", "--masks", folder / "ground_truth",
        "--out", tmp_path / "e", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["image_auroc"] == 1.0


def test_all_categories_make_one_table(uflow, small_run, product, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "stripes").symlink_to(small_run)
    arguments = ("evaluate", "--dataset", "mvtec", "--category", "all", "--data-root", product, "--model",
                 tmp_path / "runs", "--out", tmp_path / "e")  # fmt: skip
    outcome = uflow(*arguments)
    assert outcome.code == 0, outcome.err
    assert "stripes" in outcome.out
    assert {"table.json", "table.csv", "table.md", "stripes"} == {path.name for path in (tmp_path / "e").iterdir()}
    again = uflow(*arguments)
    assert "unchanged since an earlier evaluation: stripes" in again.out


def test_a_category_without_run_fails_with_one_line_and_exit_code_1(uflow, product, tmp_path):
    outcome = uflow("evaluate", "--dataset", "mvtec", "--category", "stripes,", "--data-root", product, "--model",
                    tmp_path / "runs", "--out", tmp_path / "e")  # fmt: skip
    assert outcome.code == 1
    assert "uflow: stripes: model folder" in outcome.err


def test_options_that_do_not_go_together_are_wrong_usage(uflow, small_run, tmp_path):
    assert uflow("evaluate", "--model", small_run, "--masks", tmp_path).code == 2
    assert uflow("evaluate", "--model", small_run, "--test", tmp_path, "--dataset", "mvtec").code == 2
    assert uflow("evaluate", "--category", "all").code == 2
    assert uflow("evaluate", "--dataset", "mvtec", "--category", "all", "--report", tmp_path).code == 2


def test_without_masks_whole_images_are_judged(uflow, small_run, product, tmp_path):
    folder, test = product / "stripes", tmp_path / "test"
    (test / "OK").mkdir(parents=True)
    (test / "NG").mkdir()
    for kind, name in (("good", "OK"), ("spot", "NG")):
        for path in (folder / "test" / kind).iterdir():
            (test / name / path.name).write_bytes(path.read_bytes())
    outcome = uflow("evaluate", "--model", small_run, "--test", test, "--out", tmp_path / "e", "--bootstrap", 5,
                    "--report", tmp_path / "report")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "OK as good, NG as defective" in outcome.err
    assert "no masks of defects" in outcome.err
    assert "image AUROC" in outcome.out
    assert re.search(r"NG +\d / 4", outcome.out)
    assert not re.search("pixel|mIoU|AUPRO|oracle|nan", outcome.out)
    assert not re.search("AUPRO|mIoU|>nan<", (tmp_path / "report" / "index.html").read_text())
    values = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert values["image_auroc"] == 1.0
    assert values["detected"]["NG"]["total"] == 4
    assert values["oracle"] == {"threshold": None, "miou": {"all_images": None, "defective_images": None}}
    assert values["pixel_auroc"] is None


def test_good_images_alone_have_no_overlap(uflow, small_run, product, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "good").symlink_to(product / "stripes" / "test" / "good")
    outcome = uflow("evaluate", "--model", small_run, "--test", tmp_path / "test", "--out", tmp_path / "e")
    assert outcome.code == 0, outcome.err
    assert "false-alarm images / good images" in outcome.out
    assert not re.search("AUROC|mIoU|oracle|defective images", outcome.out.partition("selection")[0].partition("\n")[2])


def test_strict_holds_for_many_categories(uflow, small_run, product, tmp_path):
    shutil.copytree(product / "stripes", tmp_path / "data" / "stripes")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "stripes").symlink_to(small_run)
    mask = next((tmp_path / "data" / "stripes" / "ground_truth" / "spot").iterdir())
    write_png(mask, np.zeros((96, 96), dtype=np.uint8))
    arguments = ("evaluate", "--dataset", "mvtec", "--category", "all", "--data-root", tmp_path / "data", "--model",
                 tmp_path / "runs", "--out", tmp_path / "e")  # fmt: skip
    outcome = uflow(*arguments, "--strict")
    assert outcome.code == 1
    assert "1 of 4 masks of defective images mark nothing" in outcome.err
    assert not (tmp_path / "e").exists()
