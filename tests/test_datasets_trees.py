"""The folder trees of official releases, as small ones: names, suffixes, case and strays as public code describes them.

Sources: anomalib's data modules (MVTec AD, MVTec AD 2, BTech, VisA, Kolektor, ShanghaiTech); amazon-science/spot-diff for
VisA's raw tree and its split; public scripts that index KolektorSDD2 for its copies; the kaggle_3m folder of "Brain MRI
segmentation" for LGG.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from uflow_cli.datasets import find_root, load_dataset, read_label_mask
from uflow_cli.images import write_png

SIZE = (6, 8)
IMAGE = np.full((*SIZE, 3), 90, dtype=np.uint8)
EMPTY, MARKED = np.zeros(SIZE, dtype=np.uint8), np.zeros(SIZE, dtype=np.uint8)
MARKED[2:4, 1:4] = 255
VISA_SPLIT = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0000.JPG,
candle,test,normal,candle/Data/Images/Normal/0001.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
"""
LGG = "TCGA_{}_4941_19960909"

# By data set: the folder that the archive makes, files (+ has a mark, = an empty mask, ~ a text), category, what tests.
TREES = {
    "mvtec": (
        "mvtec_anomaly_detection",
        "~license.txt ~readme.txt ~metal_nut/license.txt ~metal_nut/readme.txt metal_nut/train/good/000.png metal_nut/test/good/000.png "
        "metal_nut/test/bent/000.png +metal_nut/ground_truth/bent/000_mask.png metal_nut/test/color/000.png +metal_nut/ground_truth/color/000_mask.png",
        "metal_nut", 1, {"good": 1, "bent": 1, "color": 1},
    ),
    "mvtec_ad_2": (
        "mvtec_ad_2",
        "fruit_jelly/train/good/000_regular.png fruit_jelly/validation/good/000_regular.png fruit_jelly/test_public/good/000_regular.png "
        "fruit_jelly/test_public/bad/000_overexposed.png +fruit_jelly/test_public/ground_truth/bad/000_overexposed_mask.png "
        "fruit_jelly/test_private/000.png fruit_jelly/test_private_mixed/000_mixed.png",
        "fruit_jelly", 2, {"good": 1, "bad": 1},
    ),
    "btad": (
        "BTech_Dataset_transformed",
        "01/train/ok/0000.bmp 01/test/ok/0000.bmp 01/test/ko/0000.bmp +01/ground_truth/ko/0000.png "
        "03/train/ok/0001.bmp 03/test/ok/0001.bmp 03/test/ko/0003.bmp +03/ground_truth/ko/0003.bmp",
        "03", 1, {"good": 1, "ko": 1},
    ),
    "visa": (
        "VisA",
        "~candle/image_anno.csv candle/Data/Images/Normal/0000.JPG candle/Data/Images/Normal/0001.JPG candle/Data/Images/Anomaly/000.JPG "
        "+candle/Data/Masks/Anomaly/000.png ~split_csv/1cls.csv ~split_csv/2cls_fewshot.csv",
        "candle", 1, {"good": 1, "anomaly": 1},
    ),
    "ksdd": (
        "KolektorSDD",
        "kos01/Part0.jpg =kos01/Part0_label.bmp kos01/Part5.jpg +kos01/Part5_label.bmp kos50/Part0.jpg =kos50/Part0_label.bmp "
        "kos50/Part1.jpg +kos50/Part1_label.bmp",
        None, 1, {"good": 1, "defect": 1},
    ),
    "ksdd2": (
        "KolektorSDD2",
        "train/10000.png =train/10000_GT.png train/10001.png +train/10001_GT.png =train/10301_GT(copy).png train/10301(copy).png "
        "train/10301.png =train/10301_GT.png test/20000.png =test/20000_GT.png test/20004.png +test/20004_GT.png",
        None, 2, {"good": 1, "defect": 1},
    ),
    "lgg_mri": (
        "lgg-mri-segmentation",
        "~kaggle_3m/README.md ~kaggle_3m/data.csv "
        + " ".join(f"kaggle_3m/{p}/{p}_1.tif =kaggle_3m/{p}/{p}_1_mask.tif kaggle_3m/{p}/{p}_11.tif +kaggle_3m/{p}/{p}_11_mask.tif" for p in (LGG.format("CS"), LGG.format("DU"))),
        None, 1, {"good": 1, "tumour": 1},
    ),
    "shanghaitech": (
        "shanghaitech",
        "~training/videos/01_001.avi training/frames/01_001/000.jpg training/frames/01_001/001.jpg testing/frames/01_0014/000.jpg "
        "testing/frames/01_0014/001.jpg",
        None, 2, {"good": 1, "anomaly": 1},
    ),
}  # fmt: skip


def write(root: Path, files: str) -> None:
    for word in files.split(" "):
        path = root / word.lstrip("+=~")
        if word.startswith("~"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(VISA_SPLIT if path.name == "1cls.csv" else "text", encoding="utf-8")
        else:
            write_png(path, {"+": MARKED, "=": EMPTY}.get(word[0], IMAGE))  # the content decides, not the suffix


@pytest.mark.parametrize("name", TREES)
def test_official_releases_load_from_where_they_were_unpacked(tmp_path, name):
    folder, files, category, n_train, kinds = TREES[name]
    write(tmp_path / folder, files)
    if name == "shanghaitech":
        for part, stack in (("test_pixel_mask", np.stack([EMPTY, MARKED])), ("test_frame_mask", np.array([0, 1]))):
            (tmp_path / folder / "testing" / part).mkdir()
            np.save(tmp_path / folder / "testing" / part / "01_0014.npy", stack)
    root = find_root(name, category, root=tmp_path)
    assert root == tmp_path / folder
    data = load_dataset(name, root=root, category=category)
    assert len(data.train) == n_train
    assert Counter(image.defect for image in data.test) == kinds
    for image in (*data.train, *data.test):
        assert image.path.is_file()
        assert read_label_mask(image, SIZE).sum() == (0 if image.is_good else 6)
