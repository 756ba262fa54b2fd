"""A stated split for data sets that come without one: whole groups (patients, items) train or test, never both."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from uflow_cli.datasets.labelled_image import LabelledImage
from uflow_cli.errors import DatasetError

SEED = 0


def split(
    groups: Mapping[str, Sequence[LabelledImage]], *, train_share: float, seed: int = SEED
) -> tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...]]:
    """Draw `train_share` of the groups: their good images train and know their group, all images of the others test.

    At least one group is drawn and one left. The draw depends on the names of the groups and `seed` only; defective
    images of drawn groups are in neither part. Raises DatasetError for fewer than two groups, and where the drawn
    groups hold no good image.
    """
    names = sorted(groups)
    if len(names) < 2:
        raise DatasetError(f"{len(names)} group(s) of images ({', '.join(names)}); a split needs two or more")
    n_train = min(max(round(train_share * len(names)), 1), len(names) - 1)
    drawn = {names[index] for index in np.random.default_rng(seed).permutation(len(names))[:n_train]}
    train = tuple(
        replace(image, group=name) for name in names if name in drawn for image in groups[name] if image.is_good
    )
    if not train:
        raise DatasetError(f"no good image among the groups drawn for training ({', '.join(sorted(drawn))})")
    return train, tuple(image for name in names if name not in drawn for image in groups[name])
