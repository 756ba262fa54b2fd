"""The report's folder: pictures are written one image at a time, and the whole appears at once."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from uflow_cli.errors import UflowError
from uflow_cli.files import swap_folder
from uflow_cli.images import write_png
from uflow_cli.render import fit_mask, heat_png, outline_path, shrunk
from uflow_cli.report.contents import Card, ReportImage, ReportSummary, outcome_of
from uflow_cli.report.page import GENERATOR, report_page

PAGE_NAME: Final = "index.html"
_PICTURES: Final = "images"
_PICTURE_SIDE: Final = 512  # pixels: sharp in the gallery, fair when enlarged, and a thousand fit on a memory stick


class ReportWriter:
    """Takes images one at a time, then the summary that follows from them. Use it through `report_writer`."""

    def __init__(self, made: Path, put_in_place: Callable[[], Path], *, picture_side: int) -> None:
        self._made, self._put_in_place, self._side = made, put_in_place, picture_side
        self._cards: list[Card] = []

    def add(self, image: ReportImage) -> None:
        """Write the pictures of the next image."""
        self._cards.append(_write_pictures(self._made, len(self._cards) + 1, image, side=self._side))

    def finish(self, *, title: str, summary: ReportSummary) -> Path:
        """Write the page, put the report in its place, and return the page's path there."""
        page = report_page(title=title, summary=summary, cards=self._cards)
        (self._made / PAGE_NAME).write_text(page, encoding="utf-8")
        return self._put_in_place()


@contextlib.contextmanager
def report_writer(folder: Path, *, picture_side: int = _PICTURE_SIDE) -> Iterator[ReportWriter]:
    """A writer of the report `folder`, which holds it once `finish` was called and what it held before until then.

    An earlier report in `folder` is replaced; anything else there is left alone: UflowError. Also for a disk that
    does not take it. A run that is killed leaves what was there before.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=folder.parent, ignore_cleanup_errors=True) as workshop:
            made = Path(workshop) / "new"
            (made / _PICTURES).mkdir(parents=True)

            def put_in_place() -> Path:
                swap_folder(made, folder, old=Path(workshop) / "old")
                return folder / PAGE_NAME

            yield ReportWriter(made, put_in_place, picture_side=picture_side)
    except OSError as error:
        raise UflowError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder or free its disk"
        ) from error


def write_report(
    folder: Path,
    *,
    title: str,
    summary: ReportSummary,
    images: Iterable[ReportImage],
    picture_side: int = _PICTURE_SIDE,
) -> Path:
    """Write `folder`/index.html and its pictures and return the page's path; see `report_writer`."""
    with report_writer(folder, picture_side=picture_side) as writer:
        for image in images:
            writer.add(image)
        return writer.finish(title=title, summary=summary)


def _write_pictures(folder: Path, number: int, image: ReportImage, *, side: int) -> Card:
    """Write picture and heat of one image and keep what the page says of it."""
    picture = shrunk(image.image, side)
    shown = (int(picture.shape[0]), int(picture.shape[1]))
    names = f"{_PICTURES}/{number:04d}.png", f"{_PICTURES}/{number:04d}-heat.png"
    write_png(folder / names[0], picture)
    (folder / names[1]).write_bytes(heat_png(image.score_map))
    return Card(
        number=number,
        name=image.name,
        kind=image.kind,
        outcome=outcome_of(is_defect=image.is_defect, truly_defective=image.truly_defective),
        log_nfa=image.log_nfa,
        anomaly_score=image.anomaly_score,
        overlap=image.overlap,
        size=(int(image.image.shape[0]), int(image.image.shape[1])),
        shown=shown,
        picture=names[0],
        heat=names[1],
        found_outline=outline_path(fit_mask(image.mask, shown)),
        true_outline="" if image.true_mask is None else outline_path(fit_mask(image.true_mask, shown)),
        regions=image.regions,
    )


def _check_replaceable(folder: Path) -> None:
    """Raise UflowError unless `folder` is missing, empty, or holds a report and nothing else."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UflowError(f"{folder} is in the way: it is no folder; remove it, or choose another folder")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if not found:
        return
    if PAGE_NAME not in found or GENERATOR not in (folder / PAGE_NAME).read_text(encoding="utf-8", errors="replace"):
        raise UflowError(f"{folder} holds {len(found)} files and is no report; remove it, or choose another folder")
    foreign = sorted(name for name in found - {PAGE_NAME} if not _is_picture(name))
    if foreign:
        raise UflowError(
            f"{folder} is a report to which {foreign[0]} was added; move that away, or choose another folder"
        )


def _is_picture(name: str) -> bool:
    path = Path(name)
    return path.parent.as_posix() == _PICTURES and path.suffix == ".png" and path.stem.removesuffix("-heat").isdecimal()
