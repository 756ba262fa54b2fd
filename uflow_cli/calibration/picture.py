"""The calibration as a drawing: false alarms promised and measured, the law of U against the images, U over positions.

NFA in log10; levels are U / C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import stats

from uflow_cli.calibration.record import FALSE_BELOW, PROBABILITIES, Calibration, Reference
from uflow_cli.charts import WIDTH, svg_element
from uflow_cli.detection.nfa import Background

_LOWEST: Final = -6.0  # log NFA at the left
_FEWEST: Final = -3.0  # log10 of false detections per image at the bottom
_PANEL: Final = (226.0, 200.0)  # width and height of the two charts
_LEFTS: Final = (54.0, WIDTH - 16 - _PANEL[0])
_TOP: Final = 40.0
_MAP_TOP: Final = _TOP + _PANEL[1] + 96.0
_MAP_SIDE: Final = 120.0
_LEVEL_SPREAD: Final = 0.3  # of the level: as strong as colours get


def calibration_chart(calibration: Calibration) -> str:
    """All three drawings in one; "" where no images were held out."""
    if not calibration.references or not calibration.n_images:
        return ""
    parts = [*_false_alarms(calibration), *_quantiles(calibration), *_positions(calibration.references)]
    return svg_element(parts, height=_MAP_TOP + _MAP_SIDE + 34, title="Calibration on held-out good images")


def _false_alarms(calibration: Calibration) -> list[str]:
    """Detections per held-out image over the threshold, beside what each threshold promises."""
    left, (width, height) = _LEFTS[0], _PANEL

    def x(threshold: float) -> float:
        return left + width * (threshold - _LOWEST) / (FALSE_BELOW - _LOWEST)

    def y(count: float) -> float:
        log = math.log10(count) if count > 0 else -math.inf
        return _TOP + height * min((FALSE_BELOW - log) / (FALSE_BELOW - _FEWEST), 1.0)

    ticks = range(int(_FEWEST), int(FALSE_BELOW) + 1)
    parts = _frame(left, "False detections per good image")
    parts += [_row(left, width, y(10.0**tick), f"{10.0**tick:g}") for tick in ticks]
    parts += [_number(x(tick), f"{tick}") for tick in range(int(_LOWEST), int(FALSE_BELOW) + 1, 2)]
    fewest = y(1 / calibration.n_images)
    few = max(_TOP + height - fewest, 0)  # rarer than once in all the images
    parts.append(f'<rect class="zone" x="{left}" y="{fewest:.1f}" width="{width}" height="{few:.1f}"/>')
    parts.append(f'<path class="best" d="M{x(_FEWEST):.1f},{y(10.0**_FEWEST):.1f}L{x(FALSE_BELOW):.1f},{_TOP}"/>')
    thresholds = np.arange(_LOWEST, FALSE_BELOW + 0.05, 0.1)
    counts = [calibration.false_detections(min(float(t), FALSE_BELOW)) for t in thresholds]
    seen = [(x(float(t)), y(count)) for t, count in zip(thresholds, counts, strict=True) if count > 0]
    if seen:
        parts.append(f'<polyline class="line held-out" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in seen)}"/>')
    return [
        *parts,
        f'<text x="{left}" y="{_TOP + height + 40}">threshold on log₁₀ NFA;</text>',
        f'<text class="held-out" x="{left}" y="{_TOP + height + 57}">measured</text>',
        f'<text x="{left + 66}" y="{_TOP + height + 57}">beside what is promised (dashed)</text>',
    ]


def _quantiles(calibration: Calibration) -> list[str]:
    """Quantiles of U on held-out images over those of the background law, one line per scale."""
    left, (width, height) = _LEFTS[1], _PANEL
    lines = [
        (_law_quantiles(law, n_channels), np.array(reference.quantiles))
        for law, reference, n_channels in zip(
            calibration.background, calibration.references, calibration.n_channels, strict=True
        )
    ]
    low = math.log(max(min(float(min(a[0], b[0])) for a, b in lines), 1e-3))
    high = math.log(max(float(max(a[-1], b[-1])) for a, b in lines))

    def place(level: float) -> float:
        return min(max((math.log(max(level, 1e-9)) - low) / (high - low), 0.0), 1.0)

    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if low <= math.log(t) <= high]
    parts = _frame(left, "U / C of cells, images against law")
    parts += [_row(left, width, _TOP + height * (1 - place(t)), f"{t:g}") for t in ticks]
    parts += [_number(left + width * place(t), f"{t:g}") for t in ticks]
    parts.append(f'<path class="best" d="M{left},{_TOP + height}L{left + width},{_TOP}"/>')
    for number, (law_levels, levels) in enumerate(lines, start=1):
        points = " ".join(
            f"{left + width * place(float(a)):.1f},{_TOP + height * (1 - place(float(b))):.1f}"
            for a, b in zip(law_levels, levels, strict=True)
        )
        parts.append(f'<polyline class="line scale-{number}" points="{points}"/>')
        place_of_name = f'x="{left + 64 * (number - 1)}" y="{_TOP + height + 57}"'
        parts.append(f'<text class="scale-{number}" {place_of_name}>scale {number}</text>')
    return [*parts, f'<text x="{left}" y="{_TOP + height + 40}">quantiles of the background law</text>']


def _law_quantiles(law: Background, n_channels: int) -> np.ndarray:
    levels: np.ndarray = law.scale * stats.chi2.ppf(PROBABILITIES, law.degrees_of_freedom) / n_channels
    return levels


def _positions(references: Sequence[Reference]) -> list[str]:
    """Mean level over the held-out images at each position, a map per scale: red above the mean of all, blue below."""
    parts = [f'<text class="label" x="{_LEFTS[0]}" y="{_MAP_TOP - 12}">Mean U / C over positions</text>']
    for number, reference in enumerate(references):
        levels = np.array(reference.position_levels)
        ratio = levels / levels.mean()
        cell = _MAP_SIDE / max(levels.shape)
        left = _LEFTS[0] + number * (_MAP_SIDE + 32)
        for (row, column), value in np.ndenumerate(ratio):
            strength = min(abs(value - 1.0) / _LEVEL_SPREAD, 1.0)
            kind = "above" if value > 1 else "below"
            parts.append(
                f'<rect class="{kind}" x="{left + column * cell:.1f}" y="{_MAP_TOP + row * cell:.1f}" '
                f'width="{cell:.1f}" height="{cell:.1f}" fill-opacity="{strength:.2f}"/>'
            )
        bottom = _MAP_TOP + cell * levels.shape[0]
        parts.append(
            f'<text x="{left}" y="{bottom + 18:.1f}">scale {number + 1}: {ratio.min():.2f}-{ratio.max():.2f}</text>'
        )
    return parts


def _frame(left: float, title: str) -> list[str]:
    return [f'<text class="label" x="{left}" y="{_TOP - 16}">{title}</text>']


def _row(left: float, width: float, y: float, text: str) -> str:
    line = f'<path class="grid" d="M{left},{y:.1f}H{left + width}"/>'
    return f'{line}<text x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _number(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{_TOP + _PANEL[1] + 18}" text-anchor="middle">{text}</text>'
