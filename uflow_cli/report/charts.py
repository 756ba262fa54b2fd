"""The two drawings of a report as inline SVG; their colours come from the page's style. NFA in log10."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from uflow_cli.report.contents import Card, LossPoint
from uflow_cli.report.text import brief, clean, readable

_WIDTH: Final = 640.0
_FARTHEST: Final = 1e7  # log NFA, either way; dots beyond it stand at the border
_GOLDEN: Final = 0.618034  # multiples of it, modulo 1, spread points evenly
_MAX_LOSS_SPREAD: Final = 4.0  # the first epochs may lie far above; the drawing shows this many times the later spread


def separation_chart(cards: Sequence[Card], *, threshold: float) -> str:
    """One dot per image at its lowest log NFA, a row per kind; left of the threshold line is called a defect."""
    rows = _rows(cards)
    values = [card.log_nfa for card in cards if math.isfinite(card.log_nfa)]
    squeezed = [_squeeze(value) for value in (*values, threshold, 1.0, -1.0)]  # 0 is always in sight
    margin = 0.04 * (max(squeezed) - min(squeezed))
    low, high = min(squeezed) - margin, max(squeezed) + margin
    left, right, top, step = 128.0, _WIDTH - 16, 30.0, 34.0
    bottom = top + step * len(rows)

    def x(value: float) -> float:
        place = (_squeeze(value) - low) / (high - low)
        return left + (right - left) * min(max(place, 0.0), 1.0)

    parts = [f'<rect class="zone" x="{left}" y="{top}" width="{x(threshold) - left:.1f}" height="{bottom - top}"/>']
    for tick in _squeezed_ticks(low, high):
        parts.append(f'<path class="grid" d="M{x(tick):.1f},{top}V{bottom}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{readable(tick, 0)}</text>')
    for number, (label, members) in enumerate(rows):
        middle = top + step * (number + 0.5)
        parts.append(f'<path class="grid" d="M{left},{top + step * (number + 1)}H{right}"/>')
        parts.append(f'<text class="label" x="{left - 10}" y="{middle + 4}" text-anchor="end">{_short(label)}</text>')
        for card in members:
            y = middle + 0.62 * step * ((card.number * _GOLDEN) % 1 - 0.5)
            parts.append(
                f'<a href="#image-{card.number}"><circle class="dot {card.outcome}" cx="{x(card.log_nfa):.1f}" '
                f'cy="{y:.1f}" r="4.2"><title>{clean(card.name)}: {readable(card.log_nfa)}</title></circle></a>'
            )
    line = x(threshold)
    parts.append(f'<path class="threshold" d="M{line:.1f},{top - 6}V{bottom}"/>')
    anchor = "start" if line < (left + right) / 2 else "end"
    parts.append(
        f'<text class="label" x="{line + (6 if anchor == "start" else -6):.1f}" y="{top - 10}" '
        f'text-anchor="{anchor}">threshold {brief(threshold)}</text>'
    )
    parts.append(f'<text x="{left}" y="{bottom + 38}">← more anomalous</text>')
    parts.append(f'<text x="{right}" y="{bottom + 38}" text-anchor="end">lowest log₁₀ NFA of each image</text>')
    return _svg(parts, height=bottom + 48, title="Lowest log10 NFA of each image, by kind")


def loss_chart(losses: Sequence[LossPoint], *, best_epoch: int | None) -> str:
    """Training and held-out loss by epoch, the chosen epoch marked; "" where nothing can be drawn."""
    points = [p for p in losses if math.isfinite(p.loss) and math.isfinite(p.held_out_loss)]
    if not points:
        return ""
    low, high = _loss_limits(points)
    first, last = points[0].epoch, max(points[-1].epoch, points[0].epoch + 1)
    left, right, top, bottom = 58.0, _WIDTH - 92, 22.0, 236.0

    def x(epoch: float) -> float:
        return left + (right - left) * (epoch - first) / (last - first)

    def y(loss: float) -> float:
        return bottom - (bottom - top) * (loss - low) / (high - low)

    parts = []
    ticks = list(_ticks(low, high, about=5))
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]))) if len(ticks) > 1 else 2
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{left},{y(tick):.1f}H{right}"/>')
        parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{readable(tick, digits)}</text>')
    parts += [
        f'<text x="{x(tick):.1f}" y="{bottom + 20}" text-anchor="middle">{tick:.0f}</text>'
        for tick in _ticks(first, last, about=6)
        if tick == int(tick)
    ]
    parts.append(f'<clipPath id="loss-area"><path d="M{left},{top - 4}H{right + 4}V{bottom + 4}H{left}Z"/></clipPath>')
    best = next((point for point in points if point.epoch == best_epoch), None)
    if best is not None:
        parts.append(f'<path class="best" d="M{x(best.epoch):.1f},{top}V{bottom}"/>')
    for name, loss in (("training", _training_loss), ("held-out", _held_out_loss)):
        line = " ".join(f"{x(point.epoch):.1f},{y(loss(point)):.1f}" for point in points)
        parts.append(f'<polyline class="line {name}" clip-path="url(#loss-area)" points="{line}"/>')
    for name, height in _apart(("training", y(points[-1].loss)), ("held-out", y(points[-1].held_out_loss))):
        parts.append(f'<text class="label {name}" x="{right + 8}" y="{height + 4:.1f}">{name}</text>')
    if best is not None:
        at = x(best.epoch)
        parts.append(f'<circle class="best" cx="{at:.1f}" cy="{y(best.held_out_loss):.1f}" r="5"/>')
        parts.append(f'<text class="label" x="{at:.1f}" y="{top - 8}" text-anchor="middle">kept: {best.epoch}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 40}" text-anchor="end">epoch</text>')
    parts.append(f'<text x="{left}" y="{bottom + 40}">negative log-likelihood, bits per dimension</text>')
    return _svg(parts, height=bottom + 50, title="Training and held-out loss by epoch")


def _training_loss(point: LossPoint) -> float:
    return point.loss


def _held_out_loss(point: LossPoint) -> float:
    return point.held_out_loss


def _loss_limits(points: Sequence[LossPoint]) -> tuple[float, float]:
    values = [value for point in points for value in (point.loss, point.held_out_loss)]
    later = [value for point in points[len(points) // 4 :] for value in (point.loss, point.held_out_loss)]
    low = min(values)
    high = min(max(values), low + _MAX_LOSS_SPREAD * (max(later) - low))
    if high - low < 1e-9 * max(1.0, abs(low)):
        low, high = low - 0.5, high + 0.5
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _rows(cards: Sequence[Card]) -> list[tuple[str, list[Card]]]:
    """Cards by kind, good ones first; one row of all where no kind is known."""
    kinds = sorted({card.kind for card in cards if card.kind is not None}, key=lambda kind: (kind != "good", kind))
    rows = [(kind, [card for card in cards if card.kind == kind]) for kind in kinds]
    unknown = [card for card in cards if card.kind is None]
    return [*rows, ("unlabelled" if kinds else "images", unknown)] if unknown or not rows else rows


def _squeeze(value: float) -> float:
    """Linear around 0, logarithmic far away: log NFA goes from 500 to minus many thousands."""
    return math.asinh(min(max(value, -_FARTHEST), _FARTHEST) / 2)


def _squeezed_ticks(low: float, high: float) -> list[float]:
    """0 and decades, with 3, 30, ... where there is room for them, without the odd decades where there is little."""
    decades = [0.0, *(sign * 10.0**power for sign in (-1, 1) for power in range(8))]
    choices = ([*decades, *(3 * tick for tick in decades)], decades, [t for t in decades if _is_even_decade(t)])
    inside = [sorted({tick for tick in choice if low <= _squeeze(tick) <= high}) for choice in choices]
    return next((ticks for ticks in inside if len(ticks) <= 9), inside[-1])


def _is_even_decade(tick: float) -> bool:
    return tick == 0 or round(math.log10(abs(tick))) % 2 == 0


def _ticks(low: float, high: float, *, about: int) -> Iterator[float]:
    """Round numbers in low..high, roughly `about` of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(base * power for base in (1, 2, 5, 10) if base * power >= rough * 0.99)
    count = math.ceil(low / step)
    while count * step <= high:
        yield count * step
        count += 1


def _apart(*labels: tuple[str, float]) -> list[tuple[str, float]]:
    """Labels with their heights moved until they do not overlap."""
    (first, a), (second, b) = sorted(labels, key=lambda label: label[1])
    push = max(0.0, 16 - (b - a)) / 2
    return [(first, a - push), (second, b + push)]


def _short(label: str) -> str:
    return clean(label if len(label) <= 15 else label[:14] + "…")


def _svg(parts: Sequence[str], *, height: float, title: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )
