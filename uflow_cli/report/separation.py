"""How far apart good and defective images are, as inline SVG. NFA in log10."""

import math
from collections.abc import Sequence
from typing import Final

from uflow_cli.charts import WIDTH, svg_element
from uflow_cli.report.contents import Card
from uflow_cli.text import brief, clean, readable

_FARTHEST: Final = 1e7  # log NFA, either way; dots beyond it stand at the border
_GOLDEN: Final = 0.618034  # multiples of it, modulo 1, spread points evenly


def separation_chart(cards: Sequence[Card], *, threshold: float) -> str:
    """One dot per image at its lowest log NFA, a row per kind; left of the threshold line is called a defect."""
    rows = _rows(cards)
    values = [card.log_nfa for card in cards if math.isfinite(card.log_nfa)]
    squeezed = [squeeze(value) for value in (*values, threshold, 1.0, -1.0)]  # 0 is always in sight
    margin = 0.04 * (max(squeezed) - min(squeezed))
    low, high = min(squeezed) - margin, max(squeezed) + margin
    left, right, top, step = 128.0, WIDTH - 16, 30.0, 34.0
    bottom = top + step * len(rows)

    def x(value: float) -> float:
        place = (squeeze(value) - low) / (high - low)
        return left + (right - left) * min(max(place, 0.0), 1.0)

    parts = [f'<rect class="zone" x="{left}" y="{top}" width="{x(threshold) - left:.1f}" height="{bottom - top}"/>']
    for tick in squeezed_ticks(low, high):
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
    return svg_element(parts, height=bottom + 48, title="Lowest log10 NFA of each image, by kind")


def _rows(cards: Sequence[Card]) -> list[tuple[str, list[Card]]]:
    """Cards by kind, good ones first; one row of all where no kind is known."""
    kinds = sorted({card.kind for card in cards if card.kind is not None}, key=lambda kind: (kind != "good", kind))
    rows = [(kind, [card for card in cards if card.kind == kind]) for kind in kinds]
    unknown = [card for card in cards if card.kind is None]
    return [*rows, ("unlabelled" if kinds else "images", unknown)] if unknown or not rows else rows


def squeeze(value: float) -> float:
    """Linear around 0, logarithmic far away: log NFA goes from 500 to minus many thousands."""
    return math.asinh(min(max(value, -_FARTHEST), _FARTHEST) / 2)


def squeezed_ticks(low: float, high: float) -> list[float]:
    """0 and decades, with 3, 30, ... where there is room for them, without the odd decades where there is little."""
    decades = [0.0, *(sign * 10.0**power for sign in (-1, 1) for power in range(8))]
    choices = ([*decades, *(3 * tick for tick in decades)], decades, [t for t in decades if _is_even_decade(t)])
    inside = [sorted({tick for tick in choice if low <= squeeze(tick) <= high}) for choice in choices]
    return next((ticks for ticks in inside if len(ticks) <= 9), inside[-1])


def _is_even_decade(tick: float) -> bool:
    return tick == 0 or round(math.log10(abs(tick))) % 2 == 0


def _short(label: str) -> str:
    return clean(label if len(label) <= 15 else label[:14] + "…")
