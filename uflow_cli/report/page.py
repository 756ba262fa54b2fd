"""The report's page: cards and summary to one HTML text that needs nothing but the pictures beside it."""

import math
from collections.abc import Callable, Sequence
from importlib import resources
from statistics import fmean, median
from string import Template
from typing import Final

import numpy as np

from uflow_cli.charts import loss_chart
from uflow_cli.render import SCORE_RANGE, heat
from uflow_cli.report.contents import Card, Fact, Outcome, Region, ReportSummary
from uflow_cli.report.separation import separation_chart
from uflow_cli.text import brief, clean, readable

GENERATOR: Final = '<meta name="generator" content="uflow report">'  # by which a report is known as ours
_MAX_REGIONS: Final = 20  # listed one by one for an image, in the order given; all are in the outline
_VERDICTS: Final = {
    Outcome.FOUND: "Defect",
    Outcome.FLAGGED: "Defect",
    Outcome.FALSE_ALARM: "Defect · false alarm",
    Outcome.CORRECT_PASS: "Good",
    Outcome.PASSED: "Good",
    Outcome.MISSED: "Good · missed",
}


def report_page(*, title: str, summary: ReportSummary, cards: Sequence[Card]) -> str:
    """The whole page as HTML."""
    low, high = SCORE_RANGE
    losses = loss_chart(summary.losses, best_epoch=summary.best_epoch)
    facts = "".join(f"<dt>{clean(f.label)}</dt><dd>{clean(f.value)}{_small(f.note)}</dd>" for f in summary.facts)
    knows_truth = any(card.truly_defective is not None for card in cards)
    kinds = sorted({card.kind for card in cards if card.kind is not None}, key=lambda kind: (kind != "good", kind))
    return Template(_asset("page.html")).substitute(
        generator=GENERATOR,
        title=clean(title),
        style=_asset("page.css").replace("$legend", _legend()),
        script=_asset("page.js"),
        lead=_lead(cards),
        warnings="".join(f'<p class="warning">{clean(text)}</p>' for text in summary.warnings),
        figures="".join([*_counted(cards), *(_figure(fact) for fact in summary.figures)]),
        threshold=brief(summary.threshold),
        promise=clean(summary.promise),
        question="How far apart are good and bad?" if knows_truth else "How sure is each verdict?",
        separation=separation_chart(cards, threshold=summary.threshold),
        loss=_sheet("Training", losses),
        drawings="".join(_sheet(d.title, d.svg + _hint(d.hint)) for d in summary.drawings),
        kinds=_sheet("By kind", _kinds_table(cards) if kinds else ""),
        facts=_sheet("What was run", f"<dl>{facts}</dl>" if facts else ""),
        filters=_filters(cards, knows_truth=knows_truth),
        kind_options='<option value="">all</option>'
        + "".join(f'<option value="={clean(kind)}">{clean(kind)}</option>' for kind in kinds),
        truth_layer='<label class="true"><input type="checkbox" data-layer="true" checked> true</label>'
        if any(card.true_outline for card in cards)
        else "",
        score_low=f"{low:g}",
        score_high=f"{high:g}",
        cards="".join(_card(card) for card in cards),
    )


def _asset(name: str) -> str:
    return resources.files("uflow_cli.report").joinpath(name).read_text(encoding="utf-8")


def _sheet(title: str, content: str) -> str:
    return f'<section class="sheet"><h2>{title}</h2><div class="scroll">{content}</div></section>' if content else ""


def _hint(text: str) -> str:
    return f'<p class="hint">{clean(text)}</p>' if text else ""


def _small(note: str) -> str:
    return f"<small>{clean(note)}</small>" if note else ""


def _legend() -> str:
    """The heat's own colours as a CSS gradient."""
    colour, opacity = heat(np.linspace(*SCORE_RANGE, 9)[None])
    stops = (f"rgb({r} {g} {b} / {a:.2f})" for (r, g, b), a in zip(colour[0].tolist(), opacity[0], strict=True))
    return f"linear-gradient(to right, {', '.join(stops)}), #8a8f98"


def _lead(cards: Sequence[Card]) -> str:
    flagged = sum(card.is_defect for card in cards)
    images = "1 image" if len(cards) == 1 else f"{len(cards):,} images"
    return f"{images} inspected, {'none' if flagged == 0 else f'{flagged:,}'} called defective."


def _figure(fact: Fact, *, mood: str = "") -> str:
    note = f'<span class="note">{clean(fact.note)}</span>' if fact.note else ""
    value = clean(fact.value)
    whole, slash, part = value.partition(" / ")
    shown = f"{whole}<small> / {part}</small>" if slash else value
    label = f'<span class="label">{clean(fact.label)}</span>'
    return f'<div class="figure {mood}">{label}<strong>{shown}</strong>{note}</div>\n'


def _counted(cards: Sequence[Card]) -> list[str]:
    """Tiles of what follows from verdicts and truths alone."""
    bad = [card for card in cards if card.truly_defective is True]
    good = [card for card in cards if card.truly_defective is False]
    unknown = [card for card in cards if card.truly_defective is None]
    tiles = []
    if bad:
        found = sum(card.is_defect for card in bad)
        fact = Fact("Defects found", f"{found} / {len(bad)}", f"{_percent(found, len(bad))} of defective images")
        tiles.append(_figure(fact, mood="well" if found == len(bad) else ""))
    if good:
        alarms = sum(card.is_defect for card in good)
        fact = Fact("False alarms", f"{alarms} / {len(good)}", f"{_percent(alarms, len(good))} of good images")
        tiles.append(_figure(fact, mood="bad" if alarms else "well"))
    if unknown:
        flagged = sum(card.is_defect for card in unknown)
        note = f"{_percent(flagged, len(unknown))} of images without known truth"
        tiles.append(_figure(Fact("Called defective", f"{flagged} / {len(unknown)}", note)))
    return tiles


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"


def _filters(cards: Sequence[Card], *, knows_truth: bool) -> str:
    called_bad = (Outcome.FOUND, Outcome.FALSE_ALARM, Outcome.FLAGGED)
    called_good = (Outcome.MISSED, Outcome.CORRECT_PASS, Outcome.PASSED)
    choices: list[tuple[str, tuple[Outcome, ...]]] = [("All", ()), ("Defect", called_bad), ("Good", called_good)]
    if knows_truth:
        choices += [("False alarms", (Outcome.FALSE_ALARM,)), ("Missed", (Outcome.MISSED,))]
    buttons = []
    for label, outcomes in choices:
        count = sum(not outcomes or card.outcome in outcomes for card in cards)
        pressed = "true" if label == "All" else "false"
        buttons.append(
            f'<button type="button" aria-pressed="{pressed}" data-outcomes="{" ".join(outcomes)}">'
            f"{label}<b>{count:,}</b></button>"
        )
    return "".join(buttons)


def _kinds_table(cards: Sequence[Card]) -> str:
    """Per kind: images, how many were called defective, and the middle of their lowest log NFA and overlap."""
    has_overlap = any(card.overlap is not None for card in cards)
    kinds = sorted({card.kind for card in cards}, key=lambda kind: (kind != "good", kind is None, kind or ""))
    rows = []
    for kind in kinds:
        members = [card for card in cards if card.kind == kind]
        flagged = sum(card.is_defect for card in members)
        meter = "meter good" if all(card.truly_defective is False for card in members) else "meter"
        overlaps = [card.overlap for card in members if card.overlap is not None]
        overlap = f"<td>{readable(fmean(overlaps), 2) if overlaps else '–'}</td>" if has_overlap else ""
        rows.append(
            f"<tr><td>{clean(kind) if kind is not None else 'unlabelled'}</td><td>{len(members)}</td><td>{flagged}"
            f'<span class="{meter}"><i style="width:{100 * flagged / len(members):.0f}%"></i></span></td>'
            f"<td>{readable(median(card.log_nfa for card in members))}</td>{overlap}</tr>"
        )
    overlap_head = '<th title="mean intersection over union with the true mask">overlap</th>' if has_overlap else ""
    return (
        "<table><thead><tr><th>kind</th><th>images</th><th>called defective</th><th>median log₁₀ NFA</th>"
        f"{overlap_head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _card(card: Card) -> str:
    height, width = card.shown
    name, kind = clean(card.name), "" if card.kind is None else clean(card.kind)
    sort_key = f"{card.log_nfa:.6g}" if math.isfinite(card.log_nfa) else ("-1e99" if card.log_nfa < 0 else "1e99")
    label = f"<em>{kind}</em>" if kind else ""
    overlap = "" if card.overlap is None else f"<div><span>overlap</span>{readable(card.overlap, 2)}</div>"
    return f"""<article class="card" id="image-{card.number}" data-number="{card.number}" data-name="{name}" \
data-kind="{kind}" data-outcome="{card.outcome}" data-nfa="{sort_key}">
<button type="button" class="view" aria-label="Enlarge {name}"><span class="frame" style="--shape:{width}/{height};\
--wide:{min(1.0, width / height):.4f};--ratio:{width / height:.4f}">
<img src="{card.picture}" alt="{name}" loading="lazy" decoding="async" width="{width}" height="{height}">
<img class="heat" src="{card.heat}" alt="" loading="lazy" decoding="async">
{_drawing(card)}</span><span class="badge {card.outcome}">{_VERDICTS[card.outcome]}</span></button>
<div class="text"><div class="name"><span title="{name}"><bdi>{name}</bdi></span>{label}</div>
<div class="numbers"><div><span>log₁₀ NFA</span>{readable(card.log_nfa)}</div>\
<div><span>score</span>{readable(card.anomaly_score, 3)}</div>{overlap}\
<div class="more"><span>size</span>{card.size[1]} × {card.size[0]}</div></div>
{_regions(card)}</div></article>
"""


def _drawing(card: Card) -> str:
    """Outlines and region boxes over the picture, in its pixels."""
    height, width = card.shown
    layers = []
    for layer, path, rim in (("true", card.true_outline, "rim true"), ("found", card.found_outline, "rim")):
        if path:
            layers.append(
                f'<g class="layer-{layer}"><path class="{rim}" d="{path}"/><path class="line-{layer}" d="{path}"/></g>'
            )
    across, down = width / card.size[1], height / card.size[0]
    for number, region in enumerate(card.regions[:_MAX_REGIONS]):
        left, top, right, bottom = region.bounding_box
        layers.append(
            f'<rect class="box" data-region="{number}" x="{left * across:.1f}" y="{top * down:.1f}" '
            f'width="{(right - left) * across:.1f}" height="{(bottom - top) * down:.1f}"/>'
        )
    if not layers:
        return ""
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(layers)}</svg>\n'


def _regions(card: Card) -> str:
    if not card.regions:
        return ""
    columns: tuple[tuple[str, str, Callable[[Region], str]], ...] = (
        ("log₁₀ NFA", "", lambda r: readable(r.log_nfa)),
        ("area", "pixels", lambda r: readable(r.area, 0)),
        ("box", "left, top, width × height in pixels", _box),
        ("centre", "x, y in pixels", lambda r: f"{r.centroid[0]:.0f}, {r.centroid[1]:.0f}"),
        ("scale", "1 is the finest", lambda r: str(r.scale)),
    )
    head = "".join(f'<th title="{hint}">{label}</th>' for label, hint, _ in columns)
    rows = "".join(
        f'<tr data-region="{number}">{"".join(f"<td>{shown(region)}</td>" for _, _, shown in columns)}</tr>'
        for number, region in enumerate(card.regions[:_MAX_REGIONS])
    )
    if len(card.regions) > _MAX_REGIONS:
        rows += f'<tr><td colspan="{len(columns)}">and {len(card.regions) - _MAX_REGIONS} more</td></tr>'
    count = "1 region" if len(card.regions) == 1 else f"{len(card.regions)} regions"
    return (
        f'<details><summary>{count}</summary><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _box(region: Region) -> str:
    left, top, right, bottom = region.bounding_box
    return f"{left}, {top}, {right - left} × {bottom - top}"
