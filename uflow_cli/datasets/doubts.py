"""Find what cannot be right in a data set: empty or inverted masks, test images that are training images too."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from uflow_cli.datasets.labelled_image import GOOD, LabelledImage, read_stored_mask
from uflow_cli.errors import UflowError
from uflow_cli.images import done_ahead, page_of, read_encoded

HALF = 0.5  # of an image; a mask over more of it is likely inverted


def doubtful_masks(test: Sequence[LabelledImage]) -> list[str]:
    """One sentence for each kind of fault in the masks of defective images: empty, or over half of the image.

    Masks that are missing or cannot be read are left to those who need them.
    """
    with_mask = [image for image in test if image.has_mask]
    shares = list(zip(with_mask, done_ahead(_share, with_mask), strict=True))
    empty = [image.mask_path for image, share in shares if share == 0]
    large = [image.mask_path for image, share in shares if share is not None and share > HALF]
    found = f"of {len(with_mask)} masks of defective images"
    sentences = []
    if empty:
        sentences.append(
            f"{len(empty)} {found} mark nothing, such as {empty[0]}: a defect must be white there, "
            "not alpha or a black palette, and above 127 in a JPEG"
        )
    if large:
        sentences.append(
            f"{len(large)} {found} mark more than half of the image, such as {large[0]}: white must mean defect"
        )
    return sentences


def shared_files(some: Iterable[Path], others: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files of one content, one of `some` and one of `others`; only files of one size are read."""
    by_size = _by_size(others)
    hashes: dict[int, dict[bytes, Path]] = {}
    pairs = []
    for size, paths in _by_size(some).items():
        if size not in by_size:
            continue
        hashes[size] = {_content(path): path for path in by_size[size]}
        pairs += [(path, hashes[size][digest]) for path in paths if (digest := _content(path)) in hashes[size]]
    return pairs


def doubtful_split(train: Sequence[LabelledImage], test: Sequence[LabelledImage]) -> list[str]:
    """A sentence where test images have the content of training images."""
    pairs = shared_files([image.path for image in test], [image.path for image in train])
    if not pairs:
        return []
    return [
        f"{len(pairs)} of {len(test)} test images are training images too, such as {pairs[0][0]} and {pairs[0][1]}: "
        "the measures are too good"
    ]


def folders_as_read(test: Sequence[LabelledImage]) -> str:
    """Which test folders were taken for good images and which for defects, unless the good ones are called "good".

    "" where there is nothing to say.
    """
    good = sorted({image.path.parent.name for image in test if image.is_good})
    kinds = sorted({image.defect for image in test if not image.is_good})
    if not test or good == [GOOD]:
        return ""
    if not good:
        return f"no test folder is called good, ok or normal: all images count as defective ({', '.join(kinds)})"
    return f"test folders as they are read: {', '.join(good)} as good, {', '.join(kinds) or 'none'} as defective"


def _share(image: LabelledImage) -> float | None:
    try:
        return float(read_stored_mask(image).mean())
    except UflowError:
        return None


def _by_size(paths: Iterable[Path]) -> dict[int, list[Path]]:
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            sizes[page_of(path)[0].stat().st_size].append(path)
        except OSError:  # whoever reads it says what is wrong
            continue
    return sizes


def _content(path: Path) -> bytes:
    try:
        return hashlib.sha256(read_encoded(path)).digest()
    except UflowError:
        return str(path).encode()
