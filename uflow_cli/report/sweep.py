"""What every threshold on log10 NFA would give (the paper's Figure 7), as a drawing and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from uflow_cli.charts import WIDTH, svg_element
from uflow_cli.evaluation import NfaSweep
from uflow_cli.report.separation import squeeze, squeezed_ticks
from uflow_cli.text import brief, readable

_LINES: Final = (
    ("miou-all", "mIoU, all images"), ("miou-defective", "mIoU, defective"), ("flagged", "good images flagged"),
)  # fmt: skip
_TOP, _BOTTOM, _LEFT, _RIGHT = 30.0, 246.0, 48.0, WIDTH - 16


def sweep_chart(sweep: NfaSweep, *, threshold: float, oracle: float) -> str:
    """Mean IoU and share of flagged good images over the thresholds; the one in use and the oracle are marked."""
    low, high = squeeze(float(sweep.thresholds[0])), squeeze(float(sweep.thresholds[-1]))

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * min(max((squeeze(value) - low) / (high - low), 0.0), 1.0)

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * value

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path class="grid" d="M{_LEFT},{y(tick):.1f}H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [
        f'<text x="{x(tick):.1f}" y="{_BOTTOM + 20}" text-anchor="middle">{readable(tick, 0)}</text>'
        for tick in squeezed_ticks(low, high)
    ]
    lines = zip(_LINES, (sweep.miou_all, sweep.miou_defective, sweep.flagged_good), strict=True)
    for number, ((name, label), values) in enumerate(lines):
        points = [(t, v) for t, v in zip(sweep.thresholds, values, strict=True) if math.isfinite(v)]
        if points:
            path = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in _thinned(points))
            parts.append(f'<polyline class="line {name}" points="{path}"/>')
        parts.append(f'<text class="{name}" x="{_LEFT + number * 150}" y="{_BOTTOM + 64}">■ {label}</text>')
    parts += _mark(x(threshold), f"used: {brief(threshold)}", "threshold", height=_TOP - 6)
    parts += _mark(x(oracle), f"best: {brief(oracle)}", "best", height=_TOP - 18)
    parts.append(f'<text x="{_RIGHT}" y="{_BOTTOM + 40}" text-anchor="end">threshold on log₁₀ NFA</text>')
    return svg_element(parts, height=_BOTTOM + 74, title="Overlap and false alarms over the threshold on log10 NFA")


def sweep_csv(sweep: NfaSweep) -> str:
    """One line per threshold; empty cells where the data cannot tell."""
    columns = {
        "log_nfa_threshold": sweep.thresholds, "miou_all_images": sweep.miou_all,
        "miou_defective_images": sweep.miou_defective, "good_images_flagged": sweep.flagged_good,
        "false_detections_per_good_image": sweep.false_regions,
    }  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        ["" if math.isnan(value) else f"{value:.6g}" for value in row] for row in np.stack(list(columns.values())).T
    )
    return text.getvalue()


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without the points whose neighbours on both sides have the same value: most of a step curve."""
    return [
        point
        for before, point, after in zip([None, *points[:-1]], points, [*points[1:], None], strict=True)
        if before is None or after is None or not before[1] == point[1] == after[1]
    ]


def _mark(x: float, label: str, kind: str, *, height: float) -> list[str]:
    anchor, gap = ("start", 5) if x < WIDTH / 2 else ("end", -5)
    return [
        f'<path class="{kind}" d="M{x:.1f},{height:.1f}V{_BOTTOM}"/>',
        f'<text class="label" x="{x + gap:.1f}" y="{height + 5:.1f}" text-anchor="{anchor}">{label}</text>',
    ]
