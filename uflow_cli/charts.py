"""Charts as SVG: the axes that all charts share, and the losses of a training. Their colours come from a style."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from uflow_cli.text import clean, readable

WIDTH: Final = 640.0
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
    ".chart .plateau{fill:#17804a;opacity:.1}.chart text.best{fill:#17804a;stroke:none}"
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
class Axes:
    """The rectangle of a chart and its two scales: from values to places in the drawing.

    `x_scale` and `y_scale` (the logarithm, say) come before the limits, which are scaled values. Values beyond the
    limits stand at the border if `clamped`.
    """

    left: float
    right: float
    top: float
    bottom: float
    x_limits: tuple[float, float]
    y_limits: tuple[float, float]
    x_scale: Callable[[float], float] = float
    y_scale: Callable[[float], float] = float
    clamped: bool = True

    def x(self, value: float) -> float:
        """Place of a value from the left."""
        return self.left + (self.right - self.left) * self._share(self.x_scale(value), self.x_limits)

    def y(self, value: float) -> float:
        """Place of a value from the top."""
        return self.bottom - (self.bottom - self.top) * self._share(self.y_scale(value), self.y_limits)

    def _share(self, value: float, limits: tuple[float, float]) -> float:
        share = (value - limits[0]) / (limits[1] - limits[0])
        return min(max(share, 0.0), 1.0) if self.clamped else share

    def rows(self, ticks: Mapping[float, str]) -> list[str]:
        """Horizontal grid lines at values of y, with their labels on the left."""
        return [
            f'<path class="grid" d="M{self.left},{self.y(tick):.1f}H{self.right}"/>'
            f'<text x="{self.left - 8}" y="{self.y(tick) + 4:.1f}" text-anchor="end">{label}</text>'
            for tick, label in ticks.items()
        ]

    def columns(self, ticks: Mapping[float, str], *, lines: bool = False) -> list[str]:
        """Labels of values of x below the chart, with vertical grid `lines` if wished."""
        return [
            (f'<path class="grid" d="M{self.x(tick):.1f},{self.top}V{self.bottom}"/>' if lines else "")
            + f'<text x="{self.x(tick):.1f}" y="{self.bottom + 19}" text-anchor="middle">{label}</text>'
            for tick, label in ticks.items()
        ]

    def line(self, points: Iterable[tuple[float, float]], style: str, *, clip: str = "") -> str:
        """A line through (x, y) values; `clip` names the area that it stays in."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        clipped = f' clip-path="url(#{clip})"' if clip else ""
        return f'<polyline class="line {style}"{clipped} points="{places}"/>'

    def mark(self, value: float, label: str, style: str, *, height: float) -> list[str]:
        """A vertical line at a value of x, from `height` down, with its label beside the upper end."""
        x = self.x(value)
        anchor, gap = ("start", 5) if x < (self.left + self.right) / 2 else ("end", -5)
        return [
            f'<path class="{style}" d="M{x:.1f},{height:.1f}V{self.bottom}"/>',
            self.note(label, x=x + gap, y=height + 5, style="label", anchor=anchor),
        ]

    def note(self, text: str, *, below: float = 0.0, x: float | None = None, y: float | None = None, style: str = "",
             anchor: str = "start") -> str:  # fmt: skip
        """Text at (x, y), or `below` the chart: from its left, or with anchor "end" up to its right."""
        x = (self.right if anchor == "end" else self.left) if x is None else x
        kind = f' class="{style}"' if style else ""
        ending = "" if anchor == "start" else f' text-anchor="{anchor}"'
        return f'<text{kind} x="{x:.1f}" y="{self.bottom + below if y is None else y:.1f}"{ending}>{text}</text>'


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
    limits = _loss_limits(list(lines.values()))
    axes = Axes(58, WIDTH - 92, 22, 236, (first, max(last, first + 1)), limits, clamped=False)
    heights = list(ticks(*limits, about=5))
    digits = max(0, -math.floor(math.log10(heights[1] - heights[0]))) if len(heights) > 1 else 2
    area = f"M{axes.left - 6},{axes.top - 4}H{axes.right + 6}V{axes.bottom + 4}H{axes.left - 6}Z"
    parts = [
        *axes.rows({tick: readable(tick, digits) for tick in heights}),
        *axes.columns({tick: f"{tick:.0f}" for tick in ticks(*axes.x_limits, about=6) if tick == int(tick)}),
        f'<clipPath id="loss-area"><path d="{area}"/></clipPath>',
        axes.note("epoch", below=40, anchor="end"),
        axes.note("negative log-likelihood, bits per dimension", below=40),
    ]
    parts += [axes.line(line, name, clip="loss-area") for name, line in lines.items()]
    for name, height in _apart([(name, max(axes.y(line[-1][1]), axes.top)) for name, line in lines.items()]):
        parts.append(axes.note(name, x=axes.right + 8, y=height + 4, style=f"label {name}"))
    for epoch, loss in lines.get("held-out") or lines["training"]:
        if epoch == best_epoch:
            x, y = axes.x(epoch), axes.y(loss)
            parts.append(f'<path class="best" d="M{x:.1f},{axes.top}V{axes.bottom}"/>')
            parts.append(f'<circle class="best" clip-path="url(#loss-area)" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
            parts.append(axes.note(f"kept: {epoch}", x=x, y=axes.top - 8, style="label", anchor="middle"))
    return svg_element(parts, height=axes.bottom + 50, title="Training and held-out loss by epoch")


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
