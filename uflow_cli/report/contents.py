"""The contents of a report. Low log10 NFA is anomalous, high anomaly score is; pixels are the image's own."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from uflow_cli.charts import LossPoint


class Outcome(StrEnum):
    """How a verdict compares with the truth; FLAGGED and PASSED where the truth is not known."""

    FOUND = "found"
    MISSED = "missed"
    FALSE_ALARM = "false-alarm"
    CORRECT_PASS = "correct-pass"
    FLAGGED = "flagged"
    PASSED = "passed"

    @property
    def verdict(self) -> str:
        """The verdict in words, and what is wrong with it."""
        return {"missed": "Good · missed", "false-alarm": "Defect · false alarm", "found": "Defect",
                "flagged": "Defect"}.get(self.value, "Good")  # fmt: skip


class Region(Protocol):
    """A detected region; `prediction.Detection` is one."""

    @property
    def log_nfa(self) -> float:
        """Base 10, low is anomalous."""

    @property
    def area(self) -> float:
        """Pixels."""

    @property
    def bounding_box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom; right and bottom are outside."""

    @property
    def centroid(self) -> tuple[float, float]:
        """As (x, y)."""

    @property
    def scale(self) -> int:
        """1 is the finest."""


@dataclass(frozen=True)
class Fact:
    """Something to know, with its value as people read it; `note` explains."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Drawing:
    """An inline SVG with its title, and a line on how to read it."""

    title: str
    svg: str
    hint: str = ""


@dataclass(frozen=True)
class KindRow:
    """One kind of image: how many were called defective, the median of their lowest log NFA, the mean overlap."""

    name: str
    n_images: int
    n_flagged: int
    is_good: bool
    log_nfa: float
    overlap: float  # nan where no true mask is known


@dataclass(frozen=True)
class ReportSummary:
    """The run and its results over all images together.

    `threshold`: on log10 NFA, below it an image is called a defect; `promise`: what that rests on, in a sentence.
    `facts`: the run (model, training images, ...); `figures`: results over all images (AUROC, ...), shown large.
    What follows from the images alone (defects found, false alarms) is counted by the report itself.
    """

    threshold: float
    promise: str
    facts: tuple[Fact, ...] = ()
    figures: tuple[Fact, ...] = ()
    warnings: tuple[str, ...] = ()
    losses: tuple[LossPoint, ...] = ()
    best_epoch: int | None = None
    drawings: tuple[Drawing, ...] = ()
    held_out: tuple[float, ...] = ()  # lowest log NFA of each held-out good image
    log_lot: float | None = None  # log10 of the good images in which 10^threshold false detections are expected


@dataclass(frozen=True)
class ReportImage:
    """One image and what was found in it.

    `image`: (H, W, 3) RGB; `score_map`, `mask`, `true_mask`: of any size, they show the whole image.
    `log_nfa`: the lowest of the image. `kind`: "good" or a kind of defect, None where nobody knows;
    `truly_defective`: None where nobody knows. `overlap`: IoU of mask and true mask, as the caller measures it.
    """

    name: str
    is_defect: bool
    log_nfa: float
    anomaly_score: float
    image: NDArray[np.uint8]
    score_map: NDArray[np.floating[Any]]
    mask: NDArray[np.bool_]
    regions: tuple[Region, ...] = field(default=())
    kind: str | None = None
    truly_defective: bool | None = None
    true_mask: NDArray[np.bool_] | None = None
    overlap: float | None = None
    path: str = ""
    log_nfa_map: NDArray[np.floating[Any]] | None = None  # (h, w); what is below t is the mask at t
    roi: NDArray[np.bool_] | None = None  # the pixels that count, of any size; None: all
    overlay: NDArray[np.uint8] | None = None  # the image under its heat, where the score map is not at hand


@dataclass(frozen=True)
class Card:
    """An image on the page once its pictures are written: a thousand of these are small."""

    number: int  # from 1
    name: str
    kind: str | None
    outcome: Outcome
    log_nfa: float
    anomaly_score: float
    overlap: float | None
    size: tuple[int, int]  # (H, W) of the image
    shown: tuple[int, int]  # (H, W) of its picture; outlines are in its pixels
    picture: str  # relative link
    heat: str
    found_outline: str  # SVG path data, "" for nothing
    true_outline: str
    regions: tuple[Region, ...]
    path: str = ""
    levels: tuple[float, ...] = ()  # log NFA of the regions in `level_map`, rising
    level_map: str = ""  # a picture as data link: each pixel the number of its level, 255 where none is
    roi_outline: str = ""

    @property
    def is_defect(self) -> bool:
        """The verdict."""
        return self.outcome in (Outcome.FOUND, Outcome.FALSE_ALARM, Outcome.FLAGGED)

    @property
    def largest_area(self) -> float:
        """Pixels of the largest region, which the image as a whole is not; 0 without any."""
        whole = self.size[0] * self.size[1]
        return max((region.area for region in self.regions if region.area < whole), default=0.0)

    @property
    def truly_defective(self) -> bool | None:
        """The truth, None where nobody knows."""
        if self.outcome in (Outcome.FLAGGED, Outcome.PASSED):
            return None
        return self.outcome in (Outcome.FOUND, Outcome.MISSED)


def outcome_of(*, is_defect: bool, truly_defective: bool | None) -> Outcome:
    """Compare a verdict with the truth."""
    if truly_defective is None:
        return Outcome.FLAGGED if is_defect else Outcome.PASSED
    if truly_defective:
        return Outcome.FOUND if is_defect else Outcome.MISSED
    return Outcome.FALSE_ALARM if is_defect else Outcome.CORRECT_PASS
