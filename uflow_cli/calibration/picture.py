"""The calibration as a drawing: false alarms promised and measured, the law of U against the images, U over positions.

NFA in log10; levels are U / C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from uflow_cli.calibration.record import FALSE_BELOW, PROBABILITIES, Calibration, Reference
from uflow_cli.charts import WIDTH, Axes, svg_element
from uflow_cli.detection.nfa import Background

_LOWEST: Final = -6.0  # log NFA at the left
_FEWEST: Final = -3.0  # log10 of false detections per image at the bottom
_WIDTH, _TOP, _BOTTOM = 226.0, 40.0, 240.0  # of the two charts
_MAP_LEFT, _MAP_TOP = 54.0, _BOTTOM + 96.0
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
    axes = Axes(
        54, 54 + _WIDTH, _TOP, _BOTTOM, (_LOWEST, FALSE_BELOW), (_FEWEST, FALSE_BELOW),
        y_scale=lambda count: math.log10(count) if count > 0 else -math.inf,
    )  # fmt: skip
    fewest = axes.y(1 / calibration.n_images)
    few = f'width="{_WIDTH}" height="{max(_BOTTOM - fewest, 0):.1f}"'  # rarer than once in all the images
    thresholds = [min(float(t), FALSE_BELOW) for t in np.arange(_LOWEST, FALSE_BELOW + 0.05, 0.1)]
    seen = [(t, count) for t in thresholds if (count := calibration.false_detections(t + calibration.log_lot)) > 0]
    return [
        axes.note("False detections per good image", y=_TOP - 16, style="label"),
        *axes.rows({10.0**power: f"{10.0**power:g}" for power in range(int(_FEWEST), int(FALSE_BELOW) + 1)}),
        *axes.columns({power: f"{power}" for power in range(int(_LOWEST), int(FALSE_BELOW) + 1, 2)}),
        f'<rect class="zone" x="{axes.left}" y="{fewest:.1f}" {few}/>',
        f'<path class="best" d="M{axes.x(_FEWEST):.1f},{_BOTTOM}L{axes.x(FALSE_BELOW):.1f},{_TOP}"/>',
        *([axes.line(seen, "held-out")] if seen else []),
        axes.note("threshold on log₁₀ NFA of one image;", below=40),
        axes.note("measured", below=57, style="held-out"),
        axes.note("beside what is promised (dashed)", x=axes.left + 66, below=57),
    ]


def _quantiles(calibration: Calibration) -> list[str]:
    """Quantiles of U on held-out images over those of the background law, one line per scale."""
    lines = [
        (_law_quantiles(law, n_channels), np.array(reference.quantiles))
        for law, reference, n_channels in zip(
            calibration.background, calibration.references, calibration.n_channels, strict=False
        )
    ]
    low = math.log(max(min(float(min(a[0], b[0])) for a, b in lines), 1e-3))
    high = math.log(max(float(max(a[-1], b[-1])) for a, b in lines))
    axes = Axes(WIDTH - 16 - _WIDTH, WIDTH - 16, _TOP, _BOTTOM, (low, high), (low, high), _log_level, _log_level)
    levels = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000)
    ticks = {level: f"{level:g}" for level in levels if low <= math.log(level) <= high}
    parts = [
        axes.note("U / C of cells, images against law", y=_TOP - 16, style="label"),
        *axes.rows(ticks),
        *axes.columns(ticks),
        f'<path class="best" d="M{axes.left},{_BOTTOM}L{axes.right},{_TOP}"/>',
    ]
    for number, (of_law, of_images) in enumerate(lines, start=1):
        parts.append(axes.line(zip(of_law.tolist(), of_images.tolist(), strict=True), f"scale-{number}"))
        parts.append(axes.note(f"scale {number}", x=axes.left + 64 * (number - 1), below=57, style=f"scale-{number}"))
    return [*parts, axes.note("quantiles of the background law", below=40)]


def _log_level(level: float) -> float:
    return math.log(max(level, 1e-9))


def _law_quantiles(law: Background, n_channels: int) -> np.ndarray:
    from scipy import stats  # 0.3 s, which detection need not wait for

    levels: np.ndarray = law.scale * stats.chi2.ppf(PROBABILITIES, law.degrees_of_freedom) / n_channels
    return levels


def _positions(references: Sequence[Reference]) -> list[str]:
    """Mean level over the held-out images at each position, a map per scale: red above the mean of all, blue below."""
    parts = [f'<text class="label" x="{_MAP_LEFT}" y="{_MAP_TOP - 12}">Mean U / C over positions</text>']
    for number, reference in enumerate(references):
        levels = np.array(reference.position_levels)
        ratio = levels / levels.mean()
        cell = _MAP_SIDE / max(levels.shape)
        left = _MAP_LEFT + number * (_MAP_SIDE + 32)
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
