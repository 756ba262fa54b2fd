"""`uflow import`: a published checkpoint becomes a run, as published or calibrated."""

from __future__ import annotations

from test_checkpoints import resnet_checkpoint

from uflow_cli.run.record import IMPORTED_CAVEAT, load_run


def test_good_images_calibrate_it(uflow, product, tmp_path, monkeypatch):
    resnet_checkpoint(tmp_path / "metal_nut_miou.ckpt")
    monkeypatch.chdir(tmp_path)
    good = product / "stripes" / "train" / "good"
    outcome = uflow("import", "metal_nut_miou.ckpt", "--calibrate", good, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert IMPORTED_CAVEAT in outcome.err
    assert "uflow evaluate --model runs/mvtec/metal_nut --dataset mvtec --category metal_nut" in outcome.out
    run = load_run(tmp_path / "runs" / "mvtec" / "metal_nut")
    assert (run.calibration.n_images, run.model.paper_exact, run.model.lot) == (20, False, 100)
    outcome = uflow("check", "--model", run.folder, "--images", good, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    outcome = uflow("import", "metal_nut_miou.ckpt", "--device", "cpu", "--overwrite")
    assert outcome.code == 0, outcome.err
    assert load_run(run.folder).model.paper_exact
