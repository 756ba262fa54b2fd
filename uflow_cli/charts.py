"""Drawings as SVG: the losses of a training, and what other drawings share. Their colours come from a style."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from uflow_cli.text import clean, readable

WIDTH: Final = 640.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, WIDTH - 92, 22.0, 236.0  # of the loss chart's axes
_MAX_LOSS_SPREAD: Final = 4.0  # the first epochs may lie far above; the drawing shows this many times the later spread
_PICTURE_MARGIN: Final = 16.0
_PICTURE_STYLE: Final = (
    ".chart text{fill:#5a6474;font:12.5px system-ui,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}"
    ".chart .label,.title{fill:#171c26}.title{font:600 15px system-ui,'Segoe UI',Roboto,Arial,sans-serif}"
    ".chart .grid{stroke:#e2e6ec}.chart .line{fill:none;stroke-width:2;stroke-linejoin:round}"
    ".chart .training{stroke:#5a6474}.chart .held-out{stroke:#0a63c2}"
    ".chart text.training{fill:#5a6474;stroke:none}.chart text.held-out{fill:#0a63c2;stroke:none}"
    ".chart .miou-all{stroke:#5a6474}.chart .miou-defective{stroke:#0a63c2}.chart .flagged{stroke:#b35900}"
    ".chart text.miou-all{fill:#5a6474;stroke:none}.chart text.miou-defective{fill:#0a63c2;stroke:none}"
    ".chart text.flagged{fill:#b35900;stroke:none}.chart .threshold{stroke:#171c26;stroke-dasharray:4 3}"
    ".chart .scale-1{stroke:#0a63c2}.chart .scale-2{stroke:#b35900}.chart .scale-3{stroke:#7a35c4}"
    ".chart .scale-4{stroke:#17804a}.chart text.scale-1{fill:#0a63c2;stroke:none}"
    ".chart text.scale-2{fill:#b35900;stroke:none}.chart text.scale-3{fill:#7a35c4;stroke:none}"
    ".chart text.scale-4{fill:#17804a;stroke:none}.chart .zone{fill:#c4262e;opacity:.06}"
    ".chart .above{fill:#c4262e}.chart .below{fill:#0a63c2}"
    ".chart path.best{stroke:#17804a;stroke-dasharray:3 3}.chart circle.best{fill:#17804a;stroke:#fff;stroke-width:2}"
)


@dataclass(frozen=True)
class LossPoint:
    """One epoch of training; the held-out loss is nan where no images are held out."""

    epoch: int
    loss: float
    held_out_loss: float


@dataclass(frozen=True)
class _Axes:
    """From epoch and loss to places on the chart."""

    first: int
    last: int
    low: float
    high: float

    def x(self, epoch: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (epoch - self.first) / (self.last - self.first)

    def y(self, loss: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (loss - self.low) / (self.high - self.low)


def loss_chart(losses: Sequence[LossPoint], *, best_epoch: int | None) -> str:
    """Training and held-out loss by epoch, the chosen epoch marked; "" where nothing can be drawn."""
    lines = {
        "training": [(p.epoch, p.loss) for p in losses if math.isfinite(p.loss)],
        "held-out": [(p.epoch, p.held_out_loss) for p in losses if math.isfinite(p.held_out_loss)],
    }
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return ""
    first, last = min(line[0][0] for line in lines.values()), max(line[-1][0] for line in lines.values())
    axes = _Axes(first, max(last, first + 1), *_loss_limits(list(lines.values())))
    chosen = next((point for point in (lines.get("held-out") or lines["training"]) if point[0] == best_epoch), None)
    parts = _drawn_axes(axes)
    if chosen is not None:
        parts.append(f'<path class="best" d="M{axes.x(chosen[0]):.1f},{_TOP}V{_BOTTOM}"/>')
    for name, line in lines.items():
        places = " ".join(f"{axes.x(epoch):.1f},{axes.y(loss):.1f}" for epoch, loss in line)
        parts.append(f'<polyline class="line {name}" clip-path="url(#loss-area)" points="{places}"/>')
    for name, height in _apart([(name, max(axes.y(line[-1][1]), _TOP)) for name, line in lines.items()]):
        parts.append(f'<text class="label {name}" x="{_RIGHT + 8}" y="{height + 4:.1f}">{name}</text>')
    if chosen is not None:
        x, y = axes.x(chosen[0]), axes.y(chosen[1])
        parts.append(f'<circle class="best" clip-path="url(#loss-area)" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        parts.append(f'<text class="label" x="{x:.1f}" y="{_TOP - 8}" text-anchor="middle">kept: {chosen[0]}</text>')
    return svg_element(parts, height=_BOTTOM + 50, title="Training and held-out loss by epoch")


def loss_picture(losses: Sequence[LossPoint], *, best_epoch: int | None, title: str) -> str:
    """`loss_chart` as an SVG file of its own, with its colours; "" where nothing can be drawn."""
    return svg_file(loss_chart(losses, best_epoch=best_epoch), title=title)


def svg_file(chart: str, *, title: str) -> str:
    """A drawing that `svg_element` made as a file of its own, with its colours; "" stays ""."""
    if not chart:
        return ""
    [inner] = re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', chart)
    width, top = WIDTH + 2 * _PICTURE_MARGIN, 30.0
    height = float(inner) + top + 2 * _PICTURE_MARGIN
    placed = f'<svg x="{_PICTURE_MARGIN:g}" y="{_PICTURE_MARGIN + top:g}" width="{WIDTH:g}" height="{inner}" '
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}"><style>{_PICTURE_STYLE}</style>'
        '<rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="title" x="{_PICTURE_MARGIN + 8:g}" y="{_PICTURE_MARGIN + 14:g}">{clean(title)}</text>'
        + chart.replace("<svg ", placed, 1)
        + "</svg>\n"
    )


def _drawn_axes(axes: _Axes) -> list[str]:
    """Grid, numbers and names of both axes, and the area that lines stay in."""
    parts = []
    heights = list(ticks(axes.low, axes.high, about=5))
    digits = max(0, -math.floor(math.log10(heights[1] - heights[0]))) if len(heights) > 1 else 2
    for tick in heights:
        y = axes.y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT},{y:.1f}H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{readable(tick, digits)}</text>')
    parts += [
        f'<text x="{axes.x(tick):.1f}" y="{_BOTTOM + 20}" text-anchor="middle">{tick:.0f}</text>'
        for tick in ticks(axes.first, axes.last, about=6)
        if tick == int(tick)
    ]
    area = f"M{_LEFT - 6},{_TOP - 4}H{_RIGHT + 6}V{_BOTTOM + 4}H{_LEFT - 6}Z"
    return [
        *parts,
        f'<clipPath id="loss-area"><path d="{area}"/></clipPath>',
        f'<text x="{_RIGHT}" y="{_BOTTOM + 40}" text-anchor="end">epoch</text>',
        f'<text x="{_LEFT}" y="{_BOTTOM + 40}">negative log-likelihood, bits per dimension</text>',
    ]


def _loss_limits(lines: Sequence[Sequence[tuple[int, float]]]) -> tuple[float, float]:
    values = [loss for line in lines for _, loss in line]
    later = [loss for line in lines for _, loss in line[len(line) // 4 :]]
    low = min(values)
    high = min(max(values), low + _MAX_LOSS_SPREAD * (max(later) - low))
    if high - low < 1e-9 * max(1.0, abs(low)):
        low, high = low - 0.5, high + 0.5
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _apart(labels: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """One or two labels with their heights moved until they do not overlap."""
    if len(labels) < 2:
        return list(labels)
    (first, a), (second, b) = sorted(labels, key=lambda label: label[1])
    push = max(0.0, 16 - (b - a)) / 2
    return [(first, a - push), (second, b + push)]


def ticks(low: float, high: float, *, about: int) -> Iterator[float]:
    """Round numbers in low..high, roughly `about` of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(base * power for base in (1, 2, 5, 10) if base * power >= rough * 0.99)
    count = math.ceil(low / step)
    while count * step <= high:
        yield count * step
        count += 1


def svg_element(parts: Sequence[str], *, height: float, title: str) -> str:
    """`parts` as an element that stands in a page and grows with it."""
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{clean(title)}">'
        + "".join(parts)
        + "</svg>"
    )
