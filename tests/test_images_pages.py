"""Files of several pages: each page is an image of its own, with a path that tells it apart, in listing and training."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tifffile
from products import SMALL_MODEL, defective_image, good_image
from test_any_image import trained

from uflow_cli.check import check_run
from uflow_cli.datasets import folder_dataset
from uflow_cli.detect import detect_images
from uflow_cli.errors import ImageError
from uflow_cli.images import list_images, page_of, pages_of, read_encoded, read_image, read_mask
from uflow_cli.inputs import find_images


def write_pages(path, images, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(
        path, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", None)
    ) as file:
        for image in images:
            file.write(image, photometric="rgb" if image.ndim == 3 else "minisblack", **options)
    return path


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}], ids=str)
def test_each_page_is_an_image_and_reads_as_one(tmp_path, options):
    images = [good_image(seed, side=20 + seed) for seed in range(12)]
    path = write_pages(tmp_path / "scan.tif", images, **options)
    pages = list_images(tmp_path)
    assert [page.name for page in pages] == [f"scan_page{n}.tif" for n in range(1, 13)]
    for number, (page, image) in enumerate(zip(pages, images, strict=True), start=1):
        assert page_of(page) == (path, number)
        np.testing.assert_array_equal(read_image(page), image)
    np.testing.assert_array_equal(read_image(path), images[0])
    assert len({hashlib.sha256(read_encoded(page)).digest() for page in pages}) == 12


def test_a_single_page_a_thumbnail_and_what_is_damaged_stay_files(tmp_path):
    single = write_pages(tmp_path / "a.tif", [good_image(0)])
    assert pages_of(single) == [single]
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(good_image(1), photometric="rgb")
        file.write(good_image(1)[::4, ::4], photometric="rgb", subfiletype=1)
    assert pages_of(tmp_path / "b.tif") == [tmp_path / "b.tif"]
    whole = write_pages(tmp_path / "c.tif", [good_image(0), good_image(1)]).read_bytes()
    for length in (0, 3, 8, 40, len(whole) // 2):
        (tmp_path / "c.tif").write_bytes(whole[:length])
        assert pages_of(tmp_path / "c.tif")
    assert page_of(tmp_path / "a_page2.tif") == (tmp_path / "a_page2.tif", None)  # a file of that name


def test_a_page_that_is_not_there_is_told_in_one_line(tmp_path):
    path = write_pages(tmp_path / "scan.tif", [good_image(0), good_image(1)])
    with pytest.raises(ImageError, match="it has no page 3, only 2"):
        read_image(path / "scan_page3.tif")
    with pytest.raises(ImageError, match=r"no such file|cannot be read"):
        read_image(tmp_path / "gone.tif" / "gone_page1.tif")


def test_pages_train_detect_and_check_each_for_itself(tmp_path):
    write_pages(tmp_path / "good" / "lot.tif", [good_image(seed) for seed in range(12)])
    data = folder_dataset(tmp_path / "good")
    assert len(data.train) == 12
    run = trained([item.path for item in data.train], tmp_path / "run", SMALL_MODEL)
    bad, mask = defective_image(99)
    path = write_pages(tmp_path / "new" / "scan.tif", [good_image(50), bad, good_image(51)])
    for named in ([tmp_path / "new"], [path]):
        paths = find_images(named).images
        result = detect_images(run, paths, out=tmp_path / "out", device="cpu")
        assert [image.path.name for image in result.images] == [f"scan_page{n}.tif" for n in (1, 2, 3)]
    assert result.images[1].verdict == "defect"
    assert result.images[1].log_nfa < min(result.images[0].log_nfa, result.images[2].log_nfa)
    drawn = read_mask(result.images[1].mask)
    assert (drawn & mask).any()
    assert "page2" in result.images[1].mask.name
    assert len({image.mask for image in result.images}) == 3
    assert check_run(run, paths, device="cpu").n_images == 3
