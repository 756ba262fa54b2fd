"""The measures of one model on one category, and how people and programs read them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from uflow_cli.metrics import MeanIou, OracleIou, Rate

JSON_VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """The measures of one model on one category. Shares are in 0..1, nan where the data cannot tell."""

    dataset: str
    category: str
    model: str
    threshold: float  # log10 NFA below which a region is detected
    promise: str  # what the threshold means, for people
    image_auroc: float  # by the highest anomaly score
    image_auroc_nfa: float  # by the lowest log NFA
    pixel_auroc: float
    aupro: float
    miou: MeanIou  # at `threshold`
    oracle: OracleIou  # at the best threshold over log10 NFA in -1000..400, chosen on these very images
    false_alarms: Rate  # good images flagged
    false_regions: float  # detections per good image
    detected: dict[str, Rate]  # per kind of defect
    seconds_per_image: float  # reading, prediction, mask and measures

    @property
    def n_defective(self) -> int:
        """Defective images."""
        return sum(r.total for r in self.detected.values())

    @property
    def title(self) -> str:
        """What was measured on what."""
        return f"{self.dataset}/{self.category}: {self.false_alarms.total} good and {self.n_defective} defective images"

    def rows(self) -> list[tuple[str, str]]:
        """Measures and values for people."""
        n_detected = sum(r.count for r in self.detected.values())
        rows = [
            ("image AUROC (anomaly score)", _share(self.image_auroc)),
            ("image AUROC (lowest log NFA)", _share(self.image_auroc_nfa)),
            ("pixel AUROC", _share(self.pixel_auroc)),
            ("AUPRO to FPR 0.3", _share(self.aupro)),
            (f"mIoU at log NFA < {self.threshold:.3g}, all images", _share(self.miou.all_images)),
            (f"mIoU at log NFA < {self.threshold:.3g}, defective images", _share(self.miou.defective_images)),
            (
                f"mIoU at the oracle log NFA < {self.oracle.threshold:g}, all images",
                _share(self.oracle.miou.all_images),
            ),
            ("mIoU at the oracle, defective images", _share(self.oracle.miou.defective_images)),
            ("false-alarm images / good images", _rate(self.false_alarms)),
            ("false detections per good image", _share(self.false_regions)),
            ("detected images / defective images", f"{n_detected} / {self.n_defective}"),
        ]
        rows += [(f"  {kind}", _rate(detected)) for kind, detected in self.detected.items()]
        return [*rows, ("seconds per image", f"{self.seconds_per_image:.3f}")]


def evaluation_to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """JSON-ready mapping of `evaluation`; what the data cannot tell is null."""
    values: dict[str, Any] = {"version": JSON_VERSION, **asdict(evaluation)}
    result: dict[str, Any] = _without_nan(values)
    return result


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _rate(value: Rate) -> str:
    interval = f"  (95 %: {value.low:.3f}-{value.high:.3f})" if value.total else ""
    return f"{value.count} / {value.total}{interval}"
