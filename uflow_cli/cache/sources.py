"""The images that features are made of: what they hold, whether they can be read, and the views of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uflow_cli.augmentation import ORIGINAL, Augmentation, View
from uflow_cli.cache.ahead import done_ahead
from uflow_cli.errors import ImageError
from uflow_cli.images import decode_image, read_encoded, resize_image


@dataclass(frozen=True, slots=True)
class Source:
    """A view of an image file whose content had `digest` when training began."""

    path: Path
    digest: bytes  # SHA-256
    view: View = ORIGINAL

    @property
    def key(self) -> bytes:
        """What tells this source from every other, whatever its file is called."""
        if self.view == ORIGINAL:
            return self.digest
        return hashlib.sha256(self.digest + repr(self.view).encode()).digest()

    def pixels(self, side: int) -> NDArray[np.uint8]:
        """What the view shows, (side, side, 3). Raises ImageError, also if the file is no longer what it was."""
        data = read_encoded(self.path)
        if hashlib.sha256(data).digest() != self.digest:
            raise ImageError(f"{self.path}: the file changed while it was in use; start again when it is settled")
        return resize_image(self.view.apply(decode_image(data, path=self.path)), (side, side))


def survey_images(
    paths: Sequence[Path], *, known: Container[bytes] | None, on_progress: Callable[[int, int], None]
) -> list[Source]:
    """Read every image once, so that training does not stop half-way; ImageError names those that cannot be decoded.

    Those with features at hand, their digest in `known`, were decoded once and need not be again.
    """

    def survey(path: Path) -> Source | ImageError:
        try:
            data = read_encoded(path)
            digest = hashlib.sha256(data).digest()
            if known is None or digest not in known:
                decode_image(data, path=path)
        except ImageError as error:
            return error
        return Source(path, digest)

    sources: list[Source] = []
    errors: list[ImageError] = []
    for done, result in enumerate(done_ahead(survey, paths), start=1):
        if isinstance(result, Source):
            sources.append(result)
        else:
            errors.append(result)
        on_progress(done, len(paths))
    if errors:
        more = f" (and {len(errors) - 1} more of {len(paths)} images)" if len(errors) > 1 else ""
        raise ImageError(f"{errors[0]}{more}; remove or replace it before training")
    return sources


def with_views(
    sources: Sequence[Source], training: Iterable[int], augmentation: Augmentation, *, epoch: int = 0
) -> list[Source]:
    """`sources`, and after them the views of those at `training`: all other views of the first, of the second, ..."""
    views = [
        replace(sources[i], view=view) for i in training for view in augmentation.views(sources[i].digest, epoch=epoch)
    ]
    return [*sources, *views]
