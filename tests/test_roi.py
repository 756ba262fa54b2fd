"""Regions of interest: what lies outside changes nothing, cells count by share, and a run keeps its mask."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from products import Recorder, shared_cache
from test_any_image import STRIP, strip, trained, write_strips

from uflow_cli.check import check_run
from uflow_cli.config import ModelConfig
from uflow_cli.datasets import LabelledImage
from uflow_cli.detect import detect_images
from uflow_cli.detection.fitted import fitted_evidence
from uflow_cli.detection.prediction import predict
from uflow_cli.detection.stream import squared_norm_maps
from uflow_cli.errors import CheckpointError, ImageError, UflowError
from uflow_cli.evaluation import evaluate_images
from uflow_cli.evaluation.tally import EvaluatedImage, Tally
from uflow_cli.features.gaussian import FeatureGaussians
from uflow_cli.flow import UFlow, negative_log_likelihood
from uflow_cli.images import (
    RoiFile,
    Rois,
    Source,
    Stitcher,
    View,
    lay_out,
    list_images,
    read_mask,
    read_roi,
    resize_mask,
    roi_beside,
    write_png,
)  # fmt: skip
from uflow_cli.images.roi import cell_shares, filled
from uflow_cli.metrics import PixelScores
from uflow_cli.report import report_stored, report_writer
from uflow_cli.run.graph import Graph, write_graph
from uflow_cli.run.record import load_model, load_run
from uflow_cli.training import resume
from uflow_cli.training.roi import CellShares

CPU = torch.device("cpu")
ROI = np.zeros(STRIP, dtype=np.bool_)
ROI[6:64, 20:130] = True  # the defect of `strip` is at columns 140 to 160
sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


@st.composite
def masks(draw):
    size, seed = draw(sizes), draw(st.integers(0, 2**16))
    mask = np.random.default_rng(seed).random(size) < draw(st.sampled_from([0.02, 0.3, 0.9]))
    mask[seed % size[0], seed % size[1]] = True
    return mask


@given(masks(), st.integers(0, 2**16))
def test_nothing_outside_is_seen_and_nothing_inside_is_changed(roi, seed):
    a, b = (np.random.default_rng([seed, i]).integers(0, 256, (*roi.shape, 3), dtype=np.uint8) for i in (0, 1))
    b[roi] = a[roi]
    assert np.array_equal(filled(a, roi), filled(b, roi))
    assert np.array_equal(filled(a, roi)[roi], a[roi])


def test_what_is_outside_becomes_the_mirror_image_of_what_is_inside():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    roi = np.zeros((8, 12), dtype=np.bool_)
    roi[:, :9] = True
    assert np.array_equal(filled(image, roi)[:, 9:], image[:, 7:4:-1])


@given(masks(), st.sampled_from(["squash", "letterbox", "tile"]))
def test_shares_add_up_to_the_region(roi, fit):
    layout = lay_out(roi.shape, fit=fit, input_size=(32, 32), step=8)
    grid = layout.grid((8, 8))
    shares = layout.shares(grid, roi=roi)
    whole = lay_out(roi.shape, fit=fit, input_size=(32, 32), step=8).shares(grid)
    n_cells = grid[0] * grid[1] if whole is None else whole.sum()
    assert shares.sum() == pytest.approx(n_cells * roi.mean(), rel=1e-3)
    if whole is not None:
        assert np.all(shares <= whole + 1e-5)


def test_a_cell_half_inside_counts_half():
    roi = np.zeros((16, 32), dtype=np.bool_)
    roi[:, :12] = True
    np.testing.assert_allclose(cell_shares(roi, (2, 4), (2, 4)), [[1, 0.5, 0, 0]] * 2)


def test_tiles_without_a_pixel_inside_are_left_out():
    roi = np.zeros((64, 400), dtype=np.bool_)
    roi[:, :70] = True
    layout = lay_out((64, 400), fit="tile", input_size=(64, 64), step=32)
    kept = layout.within(roi)
    assert [left for _, left in kept.corners] == [left for _, left in layout.corners if left < 70]
    stitcher = Stitcher(kept)
    for _ in kept.corners:
        stitcher.add([np.full((8, 8), 3.0, np.float32)])
    assert stitcher.maps()[0].shape == (8, 52)
    np.testing.assert_allclose(stitcher.maps()[0], 3.0, rtol=1e-6)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_strips(tmp_path_factory.mktemp("strips"), range(16))


@pytest.fixture(scope="module", params=[("squash", (64, 192)), ("tile", 64), ("letterbox", 128)], ids=str)
def run(request, good, tmp_path_factory):
    fit, side = request.param
    folder = tmp_path_factory.mktemp(fit)
    write_png(folder / "mask.png", ROI)
    config = ModelConfig(input_size=side, fit=fit, precision="fp32")
    return trained(good, folder / "run", config, roi=folder / "mask.png")


def test_a_defect_outside_changes_nothing_to_the_bit(run, tmp_path):
    """Detections, scores, masks: as those of the same image without the defect, from training to the files."""
    plain, spoilt = strip(99), strip(99, defect=True)
    assert not np.array_equal(plain, spoilt)
    model, rois = load_model(run, device=CPU), run.rois()
    detector = run.calibration.detector(model)
    for threshold in (0.0, 3.0):
        [a], [b] = (predict(model, detector, [i], threshold=threshold, rois=[rois.everywhere]) for i in (plain, spoilt))
        assert a.detections == b.detections
        assert (a.log_nfa, a.anomaly_score) == (b.log_nfa, b.anomaly_score)
        for name in ("score_map", "mask", "log_nfa_map"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
    [whole] = predict(model, detector, [spoilt])
    assert whole.log_nfa < a.log_nfa  # without the mask it is seen
    write_png(tmp_path / "a.png", spoilt)
    [image] = detect_images(load_run(run.folder), [tmp_path / "a.png"], out=tmp_path / "out", device=CPU).images
    assert image.log_nfa == pytest.approx(a.log_nfa, abs=1e-9)
    assert image.roi_share == pytest.approx(ROI.mean())
    assert not (read_mask(image.mask) & ~ROI).any()


def test_a_defect_inside_is_found_where_it_is(run, tmp_path):
    write_png(tmp_path / "a.png", strip(99, defect=True))
    roi = np.zeros(STRIP, dtype=np.bool_)
    roi[10:, 90:] = True
    write_png(tmp_path / "other.png", roi)
    [image] = detect_images(
        run, [tmp_path / "a.png"], out=tmp_path / "out", device=CPU, roi=tmp_path / "other.png"
    ).images
    assert image.verdict == "defect"
    rows, columns = np.nonzero(read_mask(image.mask))
    assert abs(rows.mean() - 30) < 15
    assert abs(columns.mean() - 150) < 15


def test_tests_are_counted_by_share(run):
    """An image is tested on as many cells as its region has, so its ceiling is lower than that of the whole."""
    model = load_model(run, device=CPU)
    [inside], [whole] = (list(fitted_evidence(model, [strip(99)], [roi])) for roi in (ROI, np.ones_like(ROI)))
    assert inside.shares.sum() / whole.shares.sum() == pytest.approx(ROI.mean(), rel=0.05)
    detector = replace(run.calibration.detector(model), curves=())
    ceilings = [detector.find([u[None] for u in one.maps], shares=one.shares[None]).ceiling for one in (inside, whole)]
    assert ceilings[0] < ceilings[1]


def test_check_and_recalibration_look_inside_alone(run, tmp_path):
    fresh = write_strips(tmp_path / "fresh", range(40, 50), defect=True)
    shutil.copytree(run.folder, tmp_path / "run")
    result = check_run(load_run(tmp_path / "run"), fresh, device=CPU, recalibrate=True)
    plain = check_run(load_run(run.folder), write_strips(tmp_path / "plain", range(40, 50)), device=CPU)
    assert result.promises == plain.promises
    assert load_run(tmp_path / "run").roi == run.roi


def test_a_run_keeps_its_mask_and_notices_damage(run, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(run.folder, folder)
    assert np.array_equal(load_run(folder).rois().everywhere, ROI)
    mask = folder / run.roi.file
    mask.write_bytes(mask.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="checksum"):
        load_run(folder).rois()
    mask.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_run(folder).rois()


def test_masks_beside_the_images_hold_for_each(tmp_path):
    """Each image has its own, training and detection find them, and an image without one is named."""
    folder = tmp_path / "good"
    good = write_strips(folder, range(10))
    for number, path in enumerate(good):
        roi = np.ones(STRIP, dtype=np.bool_)
        roi[:, 130 + number : 170 + number] = False
        write_png(folder / "roi" / path.name, roi)
    assert list_images(folder, recursive=True) == good
    run = trained(good, tmp_path / "run", ModelConfig(input_size=(64, 192), precision="fp32"))
    assert run.roi.file is None
    bad = folder / "099.png"
    write_png(bad, strip(99, defect=True))
    result = detect_images(run, [good[0], bad], out=tmp_path / "out", device=CPU)
    assert [image.path for image in result.images] == [good[0]]
    assert "has no region of interest" in result.errors[0].message
    roi = np.ones(STRIP, dtype=np.bool_)
    roi[:, 130:170] = False
    write_png(folder / "roi" / "099.png", roi)
    [hidden] = detect_images(run, [bad], out=tmp_path / "out", device=CPU).images
    write_png(bad, strip(99))
    [plain] = detect_images(run, [bad], out=tmp_path / "out", device=CPU).images
    assert (hidden.log_nfa, hidden.regions) == (plain.log_nfa, plain.regions)
    (folder / "roi" / "003.png").unlink()
    with pytest.raises(ImageError, match=r"003\.png: has no region of interest"):
        trained(good, tmp_path / "again", ModelConfig(input_size=(64, 192), precision="fp32"))


def test_masks_lie_beside_the_image_or_above_it_at_the_same_relative_name(tmp_path):
    image, mask = tmp_path / "screw/train/good/a.jpg", tmp_path / "screw/roi/train/good/a.png"
    for path in (image, mask):
        write_png(path, ROI)
    assert roi_beside(image) == mask
    nearer = image.parent / "roi" / "a.png"
    write_png(nearer, ROI)
    assert roi_beside(image) == nearer
    assert roi_beside(tmp_path / "screw/train/good/b.jpg") is None


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros(STRIP, dtype=np.bool_), "marks no pixel"),
        (np.ones((70, 200), dtype=np.bool_), "is 210 x 70 pixels, but its region of interest .* is 200 x 70"),
    ],
    ids=["empty", "other size"],
)
def test_masks_that_do_not_fit_are_told_in_one_line(good, mask, words, tmp_path):
    write_png(tmp_path / "mask.png", mask)
    with pytest.raises(UflowError, match=words) as caught:
        trained(good, tmp_path / "run", ModelConfig(input_size=64, precision="fp32"), roi=tmp_path / "mask.png")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ImageError, match="no such file"):
        read_roi(tmp_path / "gone.png")
    with pytest.raises(ImageError):
        Rois(mask).of(good[0], (1, 1))


def test_pages_show_the_border_of_the_region(run, tmp_path):
    write_png(tmp_path / "a.png", strip(99))
    result = detect_images(run, [tmp_path / "a.png"], out=tmp_path / "out", device=CPU)
    with report_writer(tmp_path / "page") as writer:
        page = report_stored(result, writer).read_text(encoding="utf-8")
    assert re.search(r'class="line-roi" d="M20\.5,6\.5 ', page)


def test_defects_outside_are_none_in_an_evaluation(run, tmp_path):
    write_png(tmp_path / "a.png", strip(99, defect=True))
    outside = np.zeros(STRIP, dtype=np.bool_)
    outside[20:40, 140:160] = True
    inside = outside | np.roll(outside, -60, axis=1)
    for mask, kind, n_true in ((outside, "good", 0), (inside, "hole", 400)):
        write_png(tmp_path / "mask.png", mask)
        labelled = LabelledImage(tmp_path / "a.png", "hole", tmp_path / "mask.png")
        [seen] = evaluate_images(load_model(run, device=CPU), run, [labelled])
        assert (seen.labelled.defect, int(seen.true_mask.sum())) == (kind, n_true)


def test_an_export_for_another_machine_has_the_mask(run, tmp_path):
    graph = Graph("graph-0.onnx", "0", run.weights, (1,), (1,), 17, {}, 0.0, "nothing")
    write_graph(run, b"", graph, out=tmp_path / "out")
    assert np.array_equal(load_run(tmp_path / "out").rois().everywhere, ROI)


def test_a_resumed_training_goes_on_with_its_mask(good, tmp_path):
    write_png(tmp_path / "mask.png", ROI)
    config = ModelConfig(input_size=(64, 192), precision="fp32")
    once = trained(good, tmp_path / "once", config, roi=tmp_path / "mask.png")
    stops = iter([False, True])
    stopped = trained(good, tmp_path / "run", config, roi=tmp_path / "mask.png", should_stop=lambda: next(stops))
    assert stopped.progress.state == "stopped"
    (tmp_path / "mask.png").unlink()
    resumed = resume(tmp_path / "run", good, device=CPU, observer=Recorder([]), cache=shared_cache())
    assert (resumed.roi, resumed.calibration) == (once.roi, once.calibration)


def test_a_mask_that_the_run_was_not_trained_with_hides_nothing(run, tmp_path):
    """It only says what counts; the run's own, wherever it lies, hides the rest."""
    write_png(tmp_path / "own.png", ROI)
    write_png(tmp_path / "other.png", np.roll(ROI, 9, axis=1))
    assert run.rois(tmp_path / "own.png").hides
    assert run.rois().hides
    other = run.rois(tmp_path / "other.png")
    assert not other.hides
    write_png(tmp_path / "a.png", strip(99))
    model = load_model(run, device=CPU)
    [(_, inside)] = squared_norm_maps(model, [tmp_path / "a.png"], rois=other)
    [whole] = fitted_evidence(model, [strip(99)])
    if run.model.fit != "tile":  # which leaves tiles out
        for a, b in zip(inside.maps, whole.maps, strict=True):
            np.testing.assert_array_equal(a, b)
    assert inside.shares.sum() < ROI.mean() * inside.shares.size * 1.1


def test_measures_of_pixels_leave_out_what_does_not_count(run, tmp_path):
    """Score 0 outside would be many pixels that are easily told good."""
    model, rois = load_model(run, device=CPU), run.rois()
    mask = np.zeros(STRIP, dtype=np.bool_)
    mask[10:20, 20:40] = True
    image = strip(99)
    image[mask] = 255
    [found] = predict(model, run.calibration.detector(model), [image], rois=[rois.everywhere])
    tally = Tally(for_bootstrap=True)
    tally.add(EvaluatedImage(LabelledImage(tmp_path / "a.png", "spot"), mask & ROI, found))
    size = found.score_map.shape
    inside, truth = resize_mask(ROI, size), resize_mask(mask & ROI, size)
    assert 0 < inside.mean() < 1
    assert truth.any()
    expected = PixelScores()
    expected.add(found.score_map[inside][None], truth[inside][None])
    assert tally.measures()["pixel_auroc"] == expected.curve().auroc
    assert tally.measures()["pixel_ap"] == expected.curve().average_precision


@pytest.mark.parametrize("coupling", ["affine", "uniform"])
def test_the_loss_counts_cells_by_share_and_its_gradient_follows(coupling):
    """With shares of 1 nothing changes; with shares of 0 neither the square nor the log-determinant counts."""
    torch.manual_seed(0)
    flow = UFlow([8, 16], [(8, 8), (4, 4)], coupling=coupling, kernel_sizes=[1]).double()
    for parameter in flow.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    features = [torch.randn(2, 8, 8, 8).double(), torch.randn(2, 16, 4, 4).double()]

    def loss(coarse):
        shares = [torch.nn.functional.interpolate(coarse, grid) for grid in flow.grids]
        with flow.weighted(shares):
            return negative_log_likelihood(*flow(features), shares)

    left = torch.zeros(2, 1, 4, 4).double()
    left[..., :2] = 1
    whole = negative_log_likelihood(*flow(features))
    assert torch.equal(loss(torch.ones(2, 1, 4, 4).double()), whole)
    torch.testing.assert_close(loss(left) + loss(1 - left), whole)
    torch.testing.assert_close(loss(0.25 * left), 0.25 * loss(left))
    changed = [torch.cat([f[..., : f.shape[3] // 2], torch.randn_like(f[..., f.shape[3] // 2 :])], 3) for f in features]
    kept, features = loss(left), changed
    torch.testing.assert_close(loss(left), kept)  # no convolution here looks beside a cell
    shares = torch.rand(2, 1, 4, 4).double()
    loss(shares).sum().backward()
    for parameter in flow.parameters():
        place = parameter.data.view(-1)
        ends = []
        for step in (1e-6, -2e-6):
            place[0] += step
            ends.append(loss(shares).sum().item())
        place[0] += 1e-6
        assert float(parameter.grad.view(-1)[0]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)


def test_gaussians_are_of_the_cells_inside():
    torch.manual_seed(0)
    fine, coarse = torch.randn(6, 4, 8, 8), torch.randn(6, 6, 4, 4)
    shares = torch.zeros(6, 1, 8, 8)
    shares[..., :4] = 1
    part, alone = FeatureGaussians([4, 6]), FeatureGaussians([4, 6])
    part.fit([[fine, coarse]], [shares])
    alone.fit([[fine[..., :4], coarse[..., :2]]])
    for name, value in part.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[name])


def test_shares_follow_tiles_and_views(tmp_path):
    write_png(tmp_path / "mask.png", ROI)
    file = RoiFile(tmp_path / "mask.png", hashlib.sha256((tmp_path / "mask.png").read_bytes()).digest())
    layout = lay_out(STRIP, fit="tile", input_size=(64, 64), step=16)
    shares = layout.shares(layout.grid((4, 4)), roi=ROI)
    seen = np.zeros_like(shares)
    for tile, (top, left) in enumerate(layout.corners):
        source = Source(tmp_path / "a.png", b"a", layout=layout, tile=tile, roi=file)
        own = source.shares((4, 4))
        seen[top // 16 : top // 16 + 4, left // 16 : left // 16 + 4] = own
        turned = replace(source, view=View(mirror=True, quarter_turns=1, brightness=0.9)).shares((4, 4))
        np.testing.assert_allclose(turned, np.rot90(own[:, ::-1]), atol=1 / 255)
    np.testing.assert_array_equal(seen, shares)
    last = Source(tmp_path / "a.png", b"a", layout=layout, tile=len(layout.corners) - 1)
    assert not last.counts_whole
    np.testing.assert_array_equal(last.shares((4, 4)), layout.shares(layout.grid((4, 4)))[-4:, -4:])
    whole = lay_out(STRIP, fit="squash", input_size=(64, 64), step=16)
    for source_of_all in (replace(last, layout=whole, tile=0), Source(tmp_path / "a.png", b"a")):
        assert source_of_all.counts_whole
        assert source_of_all.shares((4, 4)) is None
    counted = CellShares(lambda _epoch: [source], (4, 4))
    [fine, coarse] = counted.of([0, 0], [(8, 8), (4, 4)], CPU)
    assert fine.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(coarse[1, 0], own)
    assert counted.mean(0) == pytest.approx(own.mean())
