"""The report's folder and page: pictures are written one image at a time, and the whole appears at once."""

import base64
import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import jinja2
import numpy as np
from numpy.typing import NDArray

from uflow_cli.charts import WIDTH, loss_chart
from uflow_cli.errors import UflowError
from uflow_cli.files import swap_folder, workshop, write_text
from uflow_cli.images import encode_jpeg, encode_png
from uflow_cli.inputs import REPORT_MARK
from uflow_cli.render import SCORE_RANGE, fit_mask, heat, heat_png, outline_path, shrunk
from uflow_cli.report.contents import Card, Fact, KindRow, Outcome, ReportImage, ReportSummary, outcome_of
from uflow_cli.report.drawings import lowest_histogram, separation_axes, separation_chart
from uflow_cli.text import brief, printable, readable

PAGE_NAME: Final = "index.html"
_GENERATOR: Final = f'<meta name="generator" {REPORT_MARK}>'  # by which a report is known as ours
_PICTURES: Final = "images"
_PICTURE_SIDE: Final = 512  # pixels: sharp in the gallery, fair when enlarged, and a thousand fit on a memory stick
_SINGLE_SIDE: Final = 320  # pixels, where all pictures are inside one file
_SINGLE_SUFFIXES: Final = (".html", ".htm")
_MOST_LEVELS: Final = 255  # regions of an image whose outlines follow the threshold, the most significant ones
_MOST_REGIONS: Final = 20  # listed one by one for an image, in the order given; all are in the outline


class ReportWriter:
    """Takes images one at a time, then the summary that follows from them. Use it through `report_writer`."""

    def __init__(self, keep: Callable[[str, NDArray[np.uint8] | bytes], str], put_in_place: Callable[[str], Path], *,
                 picture_side: int) -> None:  # fmt: skip
        self._keep, self._put_in_place, self._side = keep, put_in_place, picture_side
        self._cards: list[Card] = []

    def add(self, image: ReportImage) -> None:
        """Write the pictures of the next image."""
        self._cards.append(_kept(self._keep, len(self._cards) + 1, image, side=self._side))

    def finish(self, *, title: str, summary: ReportSummary) -> Path:
        """Write the page, put the report in its place, and return the page's path there."""
        return self._put_in_place(_page(title=title, summary=summary, cards=self._cards))


@contextlib.contextmanager
def report_writer(place: Path, *, picture_side: int | None = None) -> Iterator[ReportWriter]:
    """A writer of the report `place`, which holds it once `finish` was called and what it held before until then.

    `place` is a folder, or a file ending in .html that holds all pictures itself. An earlier report there is replaced;
    anything else is left alone: UflowError. Also for a disk that does not take it. A run that is killed leaves what was
    there before.
    """
    folder = Path(place)
    if folder.suffix.lower() in _SINGLE_SUFFIXES:
        _check_replaceable_file(folder)

        def put_page(page: str) -> Path:
            write_text(folder, page)
            return folder

        yield ReportWriter(_inside, put_page, picture_side=picture_side or _SINGLE_SIDE)
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with workshop(folder) as bench:
            _check_replaceable(folder)
            made = bench / "new"
            (made / _PICTURES).mkdir(parents=True)

            def keep(name: str, picture: NDArray[np.uint8] | bytes) -> str:
                link = f"{_PICTURES}/{name}.png"
                (made / link).write_bytes(picture if isinstance(picture, bytes) else encode_png(picture))
                return link

            def put_in_place(page: str) -> Path:
                (made / PAGE_NAME).write_text(page, encoding="utf-8")
                swap_folder(made, folder, old=bench / "old")
                return folder / PAGE_NAME

            yield ReportWriter(keep, put_in_place, picture_side=picture_side or _PICTURE_SIDE)
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
    picture_side: int | None = None,
) -> Path:
    """Write `folder`/index.html and its pictures and return the page's path; see `report_writer`."""
    with report_writer(folder, picture_side=picture_side) as writer:
        for image in images:
            writer.add(image)
        return writer.finish(title=title, summary=summary)


def _inside(_name: str, picture: NDArray[np.uint8] | bytes) -> str:
    """A picture, or the bytes of a PNG, as a data link."""
    kind, data = ("png", picture) if isinstance(picture, bytes) else ("jpeg", encode_jpeg(picture))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _kept(keep: Callable[[str, NDArray[np.uint8] | bytes], str], number: int, image: ReportImage, *, side: int) -> Card:
    """Keep picture and heat of one image, to which `keep` gives a link, and what the page says of it."""
    picture = shrunk(image.image, side)
    shown = (int(picture.shape[0]), int(picture.shape[1]))
    levels, level_map = _level_map(image.log_nfa_map)
    evidence: NDArray[np.uint8] | bytes | None = None
    if image.score_map.any():
        evidence = heat_png(image.score_map)
    elif image.overlay is not None:
        evidence = shrunk(image.overlay, side)
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
        picture=keep(f"{number:04d}", picture),
        heat="" if evidence is None else keep(f"{number:04d}-heat", evidence),
        found_outline=outline_path(fit_mask(image.mask, shown)),
        true_outline="" if image.true_mask is None else outline_path(fit_mask(image.true_mask, shown)),
        roi_outline="" if image.roi is None else outline_path(fit_mask(image.roi, shown)),
        regions=image.regions,
        path=image.path,
        levels=levels,
        level_map=level_map,
    )


def _level_map(log_nfa_map: NDArray[np.floating[Any]] | None) -> tuple[tuple[float, ...], str]:
    """The values of a map of log NFA, and as a data link the picture of their numbers, the most significant first.

    A page may not read the pixels of a picture beside it when it was opened as a file, so this one is inside.
    """
    if log_nfa_map is None:
        return (), ""
    values, numbers = np.unique(log_nfa_map, return_inverse=True)
    values = values[:-1][:_MOST_LEVELS]  # the highest is the ceiling: no region
    numbers = np.where(numbers < len(values), numbers, _MOST_LEVELS).reshape(log_nfa_map.shape)
    link = base64.b64encode(encode_png(numbers.astype(np.uint8))).decode("ascii")
    return tuple(float(value) for value in values), f"data:image/png;base64,{link}"


def _check_replaceable_file(file: Path) -> None:
    """Raise UflowError unless `file` is missing or a report."""
    if not file.exists() and not file.is_symlink():
        return
    if not file.is_file() or _GENERATOR not in file.read_text(encoding="utf-8", errors="replace"):
        raise UflowError(f"{file} is in the way: it is no report; remove it, or choose another name")


def _check_replaceable(folder: Path) -> None:
    """Raise UflowError unless `folder` is missing, empty, or holds a report and nothing else."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UflowError(f"{folder} is in the way: it is no folder; remove it, or choose another folder")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if not found:
        return
    if PAGE_NAME not in found or _GENERATOR not in (folder / PAGE_NAME).read_text(encoding="utf-8", errors="replace"):
        raise UflowError(f"{folder} holds {len(found)} files and is no report; remove it, or choose another folder")
    foreign = sorted(name for name in found - {PAGE_NAME} if not _is_picture(name))
    if foreign:
        raise UflowError(
            f"{folder} is a report to which {foreign[0]} was added; move that away, or choose another folder"
        )


def _is_picture(name: str) -> bool:
    path = Path(name)
    return path.parent.as_posix() == _PICTURES and path.suffix == ".png" and path.stem.removesuffix("-heat").isdecimal()


def _page(*, title: str, summary: ReportSummary, cards: Sequence[Card]) -> str:
    """The whole page as HTML; it needs nothing but the pictures beside it."""
    low, high = SCORE_RANGE
    knows_truth = any(card.truly_defective is not None for card in cards)
    has_overlap = any(card.overlap is not None for card in cards)
    kinds = sorted({card.kind for card in cards}, key=lambda kind: (kind != "good", kind is None, kind or ""))
    return _template().render(
        generator=_GENERATOR,
        title=title,
        summary=summary,
        lot=None if summary.log_lot is None else round(10**summary.log_lot),
        cards=cards,
        n_flagged=sum(card.is_defect for card in cards),
        counted=_counted(cards),
        knows_truth=knows_truth,
        separation=separation_chart(cards, threshold=summary.threshold, held_out=summary.held_out),
        axes=separation_axes(cards, threshold=summary.threshold, held_out=summary.held_out),
        histogram=lowest_histogram(cards, threshold=summary.threshold, held_out=summary.held_out),
        chart_width=WIDTH,
        losses=loss_chart(summary.losses, best_epoch=summary.best_epoch),
        kind_names=[kind for kind in kinds if kind is not None],
        kinds=[_kind_row(kind, [card for card in cards if card.kind == kind]) for kind in kinds],
        has_overlap=has_overlap,
        filters=_filters(cards, knows_truth=knows_truth),
        score_low=f"{low:g}",
        score_high=f"{high:g}",
        legend=_legend(),
        most_regions=_MOST_REGIONS,
    )


@functools.cache
def _template() -> jinja2.Template:
    """The page's template; all values are escaped, and file names that are no Unicode are made printable."""
    page = resources.files("uflow_cli.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: page.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,  # what is safe is Markup
        trim_blocks=True,
    )
    environment.filters |= {"brief": brief, "readable": readable, "exactly": _exactly}
    return environment.get_template("page.html")


def _exactly(log_nfa: float) -> str:
    """A number for the page's script, which compares as Python does."""
    return repr(float(log_nfa) + 0.0) if math.isfinite(log_nfa) else ("-1e99" if log_nfa < 0 else "1e99")


def _legend() -> str:
    """The heat's own colours as a CSS gradient."""
    colour, opacity = heat(np.linspace(*SCORE_RANGE, 9)[None])
    stops = (f"rgb({r} {g} {b} / {a:.2f})" for (r, g, b), a in zip(colour[0].tolist(), opacity[0], strict=True))
    return f"linear-gradient(to right, {', '.join(stops)}), #8a8f98"


def _counted(cards: Sequence[Card]) -> list[tuple[Fact, str]]:
    """Figures that follow from verdicts and truths alone, each with the class of its colour."""
    groups = (
        (True, "Defects found", "of defective images"),
        (False, "False alarms", "of good images"),
        (None, "Called defective", "of images without known truth"),
    )
    figures = []
    for truth, label, of_which in groups:
        verdicts = [card.is_defect for card in cards if card.truly_defective is truth]
        if verdicts:
            n_flagged, n_images = sum(verdicts), len(verdicts)
            if truth is None:
                colour = ""
            elif truth:
                colour = "well" if n_flagged == n_images else ""
            else:
                colour = "bad" if n_flagged else "well"
            share = f"{100 * n_flagged / n_images:.3g} % {of_which}"
            figures.append((Fact(label, f"{n_flagged} / {n_images}", share), colour))
    return figures


def _filters(cards: Sequence[Card], *, knows_truth: bool) -> list[tuple[str, tuple[Outcome, ...], int]]:
    """Buttons above the gallery: name, outcomes shown (none: all), and number of images."""
    choices: list[tuple[str, tuple[Outcome, ...]]] = [
        ("All", ()),
        ("Defect", (Outcome.FOUND, Outcome.FALSE_ALARM, Outcome.FLAGGED)),
        ("Good", (Outcome.MISSED, Outcome.CORRECT_PASS, Outcome.PASSED)),
    ]
    if knows_truth:
        choices += [("False alarms", (Outcome.FALSE_ALARM,)), ("Missed", (Outcome.MISSED,))]
    return [
        (label, outcomes, sum(not outcomes or card.outcome in outcomes for card in cards))
        for label, outcomes in choices
    ]


def _kind_row(kind: str | None, cards: Sequence[Card]) -> KindRow:
    overlaps = [card.overlap for card in cards if card.overlap is not None]
    return KindRow(
        name="unlabelled" if kind is None else kind,
        n_images=len(cards),
        n_flagged=sum(card.is_defect for card in cards),
        is_good=all(card.truly_defective is False for card in cards),
        log_nfa=median(card.log_nfa for card in cards),
        overlap=fmean(overlaps) if overlaps else math.nan,
    )
