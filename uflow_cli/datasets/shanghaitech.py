"""ShanghaiTech Campus: frames of surveillance clips, and per test clip one .npy of masks (frames, H, W).

`<root>/training/frames/<clip>/*.jpg`, `testing/frames/<clip>/*.jpg`, `testing/test_pixel_mask/<clip>.npy`; where it is
there, `testing/test_frame_mask/<clip>.npy` (frames,) saves reading the masks to know which frames are good.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uflow_cli.datasets.labelled_image import GOOD, Dataset, LabelledImage, open_mask_stack, subfolders
from uflow_cli.errors import DatasetError
from uflow_cli.images import LeftOut, list_images

LAYOUT = (
    "expected <root>/training/frames/<clip>/*.jpg, testing/frames/<clip>/*.jpg and testing/test_pixel_mask/<clip>.npy"
)
CATEGORY = "campus"


def categories(root: Path) -> list[str]:
    """Name the one category where `root` holds training frames, or videos that could become some."""
    return [CATEGORY] if any((root / "training" / part).is_dir() for part in ("frames", "videos")) else []


def load(root: Path, category: str = CATEGORY) -> Dataset:
    """Load all clips. Raises DatasetError, also where the videos' frames were not extracted yet."""
    left_out: list[LeftOut] = []
    train = tuple(
        LabelledImage(path, GOOD, group=clip.name.partition("_")[0])  # the scene: clips are <scene>_<number>
        for clip in _clips(root / "training")
        for path in list_images(clip, left_out=left_out)
    )
    test = tuple(image for clip in _clips(root / "testing") for image in _labelled(root / "testing", clip, left_out))
    return Dataset("shanghaitech", category, train, test, tuple(left_out))


def _clips(part: Path) -> list[Path]:
    frames = part / "frames"
    if not frames.is_dir() and (part / "videos").is_dir():
        raise DatasetError(
            f"{part / 'videos'}: videos, not frames; extract each first, for example: "
            f"ffmpeg -i {part / 'videos'}/CLIP.avi -start_number 0 {frames}/CLIP/%03d.jpg"
        )
    clips = subfolders(frames, layout=LAYOUT)
    if not clips:
        raise DatasetError(f"{frames}: holds no clip; {LAYOUT}")
    return clips


def _labelled(testing: Path, clip: Path, left_out: list[LeftOut]) -> list[LabelledImage]:
    frames = list_images(clip, left_out=left_out)
    masks = testing / "test_pixel_mask" / f"{clip.name}.npy"
    defective = _defective_frames(testing, clip, masks)
    if len(defective) != len(frames):
        raise DatasetError(f"{clip} holds {len(frames)} frames and {masks} {len(defective)} masks; expected as many")
    return [
        LabelledImage(path, "anomaly", masks, mask_index=index) if defective[index] else LabelledImage(path, GOOD)
        for index, path in enumerate(frames)
    ]


def _defective_frames(testing: Path, clip: Path, masks: Path) -> NDArray[np.bool_]:
    stack = open_mask_stack(masks)
    frame_labels = testing / "test_frame_mask" / f"{clip.name}.npy"
    if not frame_labels.is_file():
        return np.array([bool(mask.any()) for mask in stack], dtype=np.bool_)
    try:
        labels = np.load(frame_labels, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{frame_labels}: cannot be read ({error}); expected a .npy file of one label per frame"
        ) from error
    if labels.shape != (len(stack),):
        raise DatasetError(
            f"{frame_labels} has shape {labels.shape} and {masks} {len(stack)} masks; expected one label each"
        )
    return np.asarray(labels != 0)
