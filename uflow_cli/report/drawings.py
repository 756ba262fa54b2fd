"""Charts of the report: how far apart good and defective images are, and the thresholds. NFA in log10."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from uflow_cli.charts import WIDTH, Axes, svg_element
from uflow_cli.evaluation import NfaSweep
from uflow_cli.report.contents import Card
from uflow_cli.text import brief, clean, readable

_FARTHEST: Final = 1e7  # log NFA, either way; dots beyond it stand at the border
_ROW_HEIGHT: Final = 34.0
_BINS: Final = 60
_PLATEAU: Final = 0.97  # of the best mIoU
_GOLDEN: Final = 0.618034  # multiples of it, modulo 1, spread points evenly
_SWEEP_LINES: Final = (
    ("miou-all", "mIoU, all images"), ("miou-defective", "mIoU, defective"), ("flagged", "good images flagged"),
)  # fmt: skip


def separation_axes(cards: Sequence[Card], *, threshold: float, held_out: Sequence[float] = ()) -> Axes:
    """The axes of `separation_chart`: log NFA of all images, squeezed, and a row per kind.

    `held_out` are the lowest log NFA of held-out good images, which `lowest_histogram` shows, too.
    """
    values = [value for value in (*(card.log_nfa for card in cards), *held_out) if math.isfinite(value)]
    squeezed = [squeeze(value) for value in (*values, threshold, 1.0, -1.0)]  # 0 is always in sight
    margin = 0.04 * (max(squeezed) - min(squeezed))
    low, high = min(squeezed) - margin, max(squeezed) + margin
    return Axes(128, WIDTH - 16, 30, 30 + _ROW_HEIGHT * len(_rows(cards)), (low, high), (0, 1), x_scale=squeeze)


def separation_chart(cards: Sequence[Card], *, threshold: float, held_out: Sequence[float] = ()) -> str:
    """One dot per image at its lowest log NFA, a row per kind; left of the threshold line is called a defect."""
    rows, axes = _rows(cards), separation_axes(cards, threshold=threshold, held_out=held_out)
    low, high = axes.x_limits
    line = axes.x(threshold)
    zone = f'width="{line - axes.left:.1f}" height="{axes.bottom - axes.top}"'
    parts = [f'<rect class="zone" x="{axes.left}" y="{axes.top}" {zone}/>']
    parts += axes.columns({tick: readable(tick, 0) for tick in squeezed_ticks(low, high)}, lines=True)
    for number, (label, members) in enumerate(rows):
        middle = axes.top + _ROW_HEIGHT * (number + 0.5)
        parts.append(f'<path class="grid" d="M{axes.left},{middle + _ROW_HEIGHT / 2}H{axes.right}"/>')
        parts.append(axes.note(_short(label), x=axes.left - 10, y=middle + 4, style="label", anchor="end"))
        for card in members:
            y = middle + 0.62 * _ROW_HEIGHT * ((card.number * _GOLDEN) % 1 - 0.5)
            parts.append(
                f'<a href="#image-{card.number}"><circle class="dot {card.outcome}" cx="{axes.x(card.log_nfa):.1f}" '
                f'cy="{y:.1f}" r="4.2"><title>{clean(card.name)}: {readable(card.log_nfa)}</title></circle></a>'
            )
    parts += axes.mark(threshold, f"threshold {brief(threshold)}", "threshold", height=axes.top - 12)
    parts.append(axes.note("← more anomalous", below=38))
    parts.append(axes.note("lowest log₁₀ NFA of each image", below=38, anchor="end"))
    return svg_element(parts, height=axes.bottom + 48, title="Lowest log10 NFA of each image, by kind")


def lowest_histogram(cards: Sequence[Card], *, threshold: float, held_out: Sequence[float]) -> str:
    """How many of the held-out, good and defective images have their lowest log NFA where, on the axes of the dots."""
    groups = {
        "held-out good images": ("unseen", list(held_out)),
        "good": ("good", [card.log_nfa for card in cards if card.truly_defective is False]),
        "defective": ("defective", [card.log_nfa for card in cards if card.truly_defective]),
        "unlabelled": ("unlabelled", [card.log_nfa for card in cards if card.truly_defective is None]),
    }
    across = separation_axes(cards, threshold=threshold, held_out=held_out)
    edges = np.linspace(*across.x_limits, _BINS + 1)
    shares = {}
    for label, (style, values) in groups.items():
        if values:
            counts = np.histogram(np.clip([squeeze(value) for value in values], *across.x_limits), edges)[0]
            shares[f"{len(values)} {label}"] = style, counts / len(values)
    top = max((float(share.max()) for _, share in shares.values()), default=1.0)
    axes = Axes(across.left, across.right, 8, 78, across.x_limits, (0, top))
    parts = [f'<path class="grid" d="M{axes.left},{axes.bottom}H{axes.right}"/>']
    x = axes.left
    for label, (style, share) in shares.items():
        first, last = np.flatnonzero(share)[[0, -1]]
        steps = [(edges[i + right], share[i]) for i in range(first, last + 1) for right in (0, 1)]
        parts.append(axes.line([(edges[first], 0.0), *steps, (edges[last + 1], 0.0)], f"histogram {style}"))
        parts.append(axes.note(f"■ {label}", x=x, below=18, style=style))
        x += 30 + 7 * len(label)
    line = across.x(threshold)
    parts.append(f'<path class="threshold" d="M{line:.1f},{axes.top}V{axes.bottom}"/>')
    return svg_element(parts, height=axes.bottom + 28, title="Share of the images by their lowest log10 NFA")


def sweep_chart(sweep: NfaSweep, *, threshold: float, oracle: float) -> str:
    """Mean IoU and share of flagged good images over the thresholds; the one in use and the oracle are marked.

    All that changes anything is in sight; the plateau, where mIoU is nearly the best, is shaded.
    """
    first, last = _ends(sweep, marks=(threshold, oracle))
    limits = (squeeze(first), squeeze(last))
    axes = Axes(48, WIDTH - 16, 42, 258, limits, (0, 1), x_scale=squeeze)
    parts = _plateau_parts(axes, _plateau(sweep))
    parts += axes.rows({tick: f"{tick:g}" for tick in (0.0, 0.25, 0.5, 0.75, 1.0)})
    parts += axes.columns({tick: readable(tick, 0) for tick in squeezed_ticks(*limits)})
    lines = zip(_SWEEP_LINES, (sweep.miou_all, sweep.miou_defective, sweep.flagged_good), strict=True)
    for number, ((name, label), values) in enumerate(lines):
        shown = zip(sweep.thresholds, values, strict=True)
        points = [(t, v) for t, v in shown if math.isfinite(v) and first <= t <= last]
        if points:
            parts.append(axes.line(_thinned(points), name))
            parts.append(axes.note(f"■ {label}", x=axes.left + number * 150, below=64, style=name))
    parts += axes.mark(threshold, f"used: {brief(threshold)}", "threshold", height=axes.top - 6)
    if math.isfinite(oracle):
        parts += axes.mark(oracle, f"best: {brief(oracle)}", "best", height=axes.top - 18)
    parts.append(axes.note("threshold on log₁₀ NFA", below=40, anchor="end"))
    return svg_element(parts, height=axes.bottom + 74, title="Overlap and false alarms over the threshold on log10 NFA")


def _ends(sweep: NfaSweep, *, marks: Sequence[float]) -> tuple[float, float]:
    """The thresholds between which anything changes and all `marks` lie, with some room on both sides."""
    curves = [np.nan_to_num(v) for v in (sweep.miou_all, sweep.miou_defective, sweep.flagged_good)]
    changes = np.flatnonzero(np.any([np.diff(values) != 0 for values in curves], axis=0))
    inside = [
        *sweep.thresholds[changes],
        *sweep.thresholds[changes + 1],
        *(m for m in marks if math.isfinite(m)),
        -2,
        2,
    ]
    margin = 0.06 * (squeeze(max(inside)) - squeeze(min(inside)))
    low, high = (2 * math.sinh(squeeze(end) + room) for end, room in ((min(inside), -margin), (max(inside), margin)))
    return max(low, float(sweep.thresholds[0])), min(high, float(sweep.thresholds[-1]))


def _plateau(sweep: NfaSweep) -> tuple[float, float] | None:
    """The thresholds around the best one at which mIoU over all images is nearly as good; None where none is known."""
    known = np.nan_to_num(sweep.miou_all)
    good = known >= _PLATEAU * known.max()
    if not known.max() > 0:
        return None
    low = high = int(known.argmax())
    while low > 0 and good[low - 1]:
        low -= 1
    while high < len(good) - 1 and good[high + 1]:
        high += 1
    return float(sweep.thresholds[low]), float(sweep.thresholds[high])


def _plateau_parts(axes: Axes, plateau: tuple[float, float] | None) -> list[str]:
    if plateau is None:
        return []
    left, right = (axes.x(end) for end in plateau)
    size = f'width="{max(right - left, 1):.1f}" height="{axes.bottom - axes.top}"'
    words = f"plateau, mIoU within {100 * (1 - _PLATEAU):.0f} % of the best: {brief(plateau[0])} to {brief(plateau[1])}"
    return [
        f'<rect class="plateau" x="{left:.1f}" y="{axes.top}" {size}/>',
        axes.note(words, y=axes.top - 30, style="best"),
    ]


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


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without the points whose neighbours on both sides have the same value: most of a step curve."""
    return [
        point
        for before, point, after in zip([None, *points[:-1]], points, [*points[1:], None], strict=True)
        if before is None or after is None or not before[1] == point[1] == after[1]
    ]
