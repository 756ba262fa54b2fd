"""The measures of one model on one category, and how people and programs read them. Shares are in 0..1."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, InstanceOf

from uflow_cli.errors import UflowError
from uflow_cli.evaluation.published import published_figures
from uflow_cli.metrics import MeanIou, OracleIou, Rate
from uflow_cli.schema import VERSION, NumberOrNan, from_dict, record, refuse_newer, to_dict

ABSENT = "-"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NfaSweep:
    """Measures at every threshold on log10 NFA (the paper's Figure 7), arrays (T,) by rising threshold."""

    thresholds: Floats
    miou_all: Floats
    miou_defective: Floats
    flagged_good: Floats  # share of good images with a detection
    false_regions: Floats  # detections per good image


@record
class SourceMeasures:
    """The measures of one source of fused evidence alone; nan where the data cannot tell."""

    source: str  # "flow, scale 1" is the finest
    image_auroc: NumberOrNan  # by the highest of its map
    pixel_auroc: NumberOrNan
    aupro: NumberOrNan


@record
class Evaluation:
    """The measures of one model on one category; nan where the data cannot tell."""

    dataset: str
    category: str
    model: str
    selection: str  # how the epoch and the threshold were chosen, for people
    threshold: float  # log10 NFA below which a region is detected
    promise: str  # the meaning of the threshold, for people
    image_auroc: NumberOrNan  # by the anomaly score
    image_auroc_nfa: NumberOrNan  # by the lowest log NFA
    pixel_auroc: NumberOrNan
    pixel_ap: NumberOrNan  # average precision
    pixel_f1_max: NumberOrNan  # at the best score, chosen on these very images
    aupro: NumberOrNan
    miou: MeanIou  # at `threshold`
    miou_automatic: MeanIou  # at log10 NFA < 0
    oracle: OracleIou  # at the best threshold over log10 NFA in -1000..400, chosen on these very images
    score_oracle: OracleIou  # the same for the anomaly score
    score_fair: OracleIou | None  # at the fair threshold of the anomaly score, if it was asked for
    false_alarms: Rate  # good images flagged
    false_regions: NumberOrNan  # detections per good image
    detected: dict[str, Rate]  # per kind of defect
    seconds_per_image: float  # reading, prediction, mask and measures
    sources: tuple[SourceMeasures, ...] = ()  # if they were asked for
    # 95 % bootstrap, by measure
    intervals: dict[str, tuple[NumberOrNan, NumberOrNan]] = dataclasses.field(default_factory=dict)
    sweep: Annotated[InstanceOf[NfaSweep] | None, Field(exclude=True)] = dataclasses.field(
        default=None, compare=False, repr=False
    )  # not in JSON

    @property
    def n_defective(self) -> int:
        """Defective images."""
        return sum(r.total for r in self.detected.values())

    @property
    def n_detected(self) -> int:
        """Defective images with a detection."""
        return sum(r.count for r in self.detected.values())

    @property
    def title(self) -> str:
        """The category and its numbers of images."""
        return f"{self.dataset}/{self.category}: {self.false_alarms.total} good and {self.n_defective} defective images"

    def paper_figures(self) -> dict[str, float]:
        """The measures that the paper publishes, by the names of its data file."""
        return {
            "pixel_auroc": self.pixel_auroc,
            "aupro": self.aupro,
            "image_auroc": self.image_auroc,
            "miou_oracle": self.oracle.miou.all_images,
            "miou_automatic": self.miou_automatic.all_images,
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Measure, our value, the published value and the difference, for people, of what the data can tell."""
        known = published_figures(self.dataset, self.category)
        n_good = self.false_alarms.total
        rows = [
            self._row("image AUROC (anomaly score)", self.image_auroc, "image_auroc", known),
            self._row("image AUROC (lowest log NFA)", self.image_auroc_nfa, "image_auroc_nfa"),
            self._row("pixel AUROC", self.pixel_auroc, "pixel_auroc", known),
            self._row("pixel average precision", self.pixel_ap, "pixel_ap"),
            self._row("pixel F1 at its best threshold", self.pixel_f1_max, "pixel_f1_max"),
            self._row("AUPRO to FPR 0.3", self.aupro, "aupro", known),
            *self._overlap_rows(known),
            _plain("false-alarm images / good images", _rate(self.false_alarms) if n_good else ABSENT),
            _plain("false detections per good image", share(self.false_regions)),
            _plain(
                "detected images / defective images",
                f"{self.n_detected} / {self.n_defective}" if self.n_defective else ABSENT,
            ),
            *(_plain(f"  {kind}", _rate(detected)) for kind, detected in self.detected.items()),
            _plain("seconds per image", f"{self.seconds_per_image:.3f}"),
            *(
                _plain(
                    f"{of.source}, alone: image AUROC / pixel AUROC / AUPRO",
                    f"{share(of.image_auroc)} / {share(of.pixel_auroc)} / {share(of.aupro)}",
                )
                for of in self.sources
            ),
        ]
        return [row for row in rows if row[1] != ABSENT]

    def _overlap_rows(self, known: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
        rows = [
            self._row("mIoU at log NFA < 0, all images", self.miou_automatic.all_images, "miou_automatic", known),
            self._row("  defective images", self.miou_automatic.defective_images, "miou_automatic_defective"),
            self._row(
                f"mIoU at the oracle log NFA < {self.oracle.threshold:zg}, all images",
                self.oracle.miou.all_images, "miou_oracle", known,
            ),
            self._row("  defective images", self.oracle.miou.defective_images, ""),
        ]  # fmt: skip
        if self.threshold != 0:
            at = f"mIoU at log NFA < {self.threshold:z.3g}, all images"
            rows += [
                self._row(at, self.miou.all_images, "miou"),
                self._row("  defective images", self.miou.defective_images, "miou_defective"),
            ]
        for name, chosen in (("oracle", self.score_oracle), ("fair", self.score_fair)):
            if chosen is not None:
                at = f"mIoU at the {name} anomaly score > {chosen.threshold:z.3f}, all images"
                rows += [
                    self._row(at, chosen.miou.all_images, ""),
                    self._row("  defective images", chosen.miou.defective_images, ""),
                ]
        return rows

    def _row(
        self, label: str, value: float, name: str, known: Mapping[str, float] | None = None
    ) -> tuple[str, str, str, str]:
        low, high = self.intervals.get(name, (math.nan, math.nan))
        ours = share(value) if math.isnan(low) else f"{share(value)}  (95 %: {low:.4f}-{high:.4f})"
        published = (known or {}).get(name, math.nan)
        return label, ours, share(published, absent=""), difference(value, published)


def difference(ours: float, published: float) -> str:
    """Ours minus the published value with its sign; empty where either is missing."""
    gap = ours - published
    return "" if math.isnan(gap) else f"{gap:+z.4f}"


def share(value: float, *, absent: str = ABSENT) -> str:
    """A share for people."""
    return absent if math.isnan(value) else f"{value:z.4f}"


def evaluation_to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """JSON-ready mapping of `evaluation` without its sweep, with the published values; nan becomes null."""
    published = published_figures(evaluation.dataset, evaluation.category) or None
    return {"version": VERSION, **to_dict(evaluation), "published": published}


def evaluation_from_dict(values: Mapping[str, Any]) -> Evaluation:
    """Undo `evaluation_to_dict`, without sweep; UflowError for another version, and for missing or wrong values."""
    refuse_newer(values.get("version"), "an evaluation")
    if values.get("version") != VERSION:
        raise UflowError(f"an evaluation of version {values.get('version')}; this uflow reads {VERSION}")
    names = {field.name for field in dataclasses.fields(Evaluation)}
    try:
        return from_dict(Evaluation, {name: value for name, value in values.items() if name in names})
    except ValueError as error:
        raise UflowError(f"not an evaluation ({error})") from error


def _plain(label: str, value: str) -> tuple[str, str, str, str]:
    return label, value, "", ""


def _rate(value: Rate) -> str:
    interval = f"  (95 %: {value.low:.3f}-{value.high:.3f})" if value.total else ""
    return f"{value.count} / {value.total}{interval}"
