"""The report: whole, offline, correctly escaped, and saying what the verdicts and truths say."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from products import files_in

from uflow_cli.errors import UflowError
from uflow_cli.evaluation import NfaSweep
from uflow_cli.images import read_image
from uflow_cli.render import heat, heat_png, outline_path
from uflow_cli.report import Fact, ReportImage, ReportSummary, write_report
from uflow_cli.report.contents import Card, Outcome, outcome_of
from uflow_cli.report.drawings import separation_chart, sweep_chart

NASTY = "a\"b'<script>alert(1)</script>&amp;$title{}\\é #?%20.png"
VOID = {"meta", "img", "input", "br", "hr", "link"}


@dataclass(frozen=True)
class FakeRegion:
    log_nfa: float = -12.5
    area: float = 1234.0
    bounding_box: tuple[int, int, int, int] = (10, 5, 30, 25)
    centroid: tuple[float, float] = (20.0, 15.0)
    scale: int = 2


def an_image(
    name: str = "bolt.png", *, flagged: bool = False, truth: bool | None = None, kind: str | None = None
) -> ReportImage:
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:25, 10:30] = flagged
    return ReportImage(
        name=name,
        is_defect=flagged,
        log_nfa=-12.5 if flagged else 3.0,
        anomaly_score=0.9 if flagged else 0.5,
        image=np.full((40, 60, 3), 120, dtype=np.uint8),
        score_map=np.where(mask, 0.9, 0.39).astype(np.float32),
        mask=mask,
        regions=(FakeRegion(),) if flagged else (),
        kind=kind,
        truly_defective=truth,
    )


FOUR = [
    an_image("hit.png", flagged=True, truth=True, kind="hole"),
    an_image("miss.png", flagged=False, truth=True, kind="stain"),
    an_image("alarm.png", flagged=True, truth=False, kind="good"),
    an_image("fine.png", flagged=False, truth=False, kind="good"),
]
SUMMARY = ReportSummary(threshold=0.0, promise="Nothing is promised.")


class Page(HTMLParser):
    """Parses strictly: every element closed in order; collects attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def write(folder: Path, images: list[ReportImage], *, summary: ReportSummary = SUMMARY, title: str = "T") -> Page:
    return Page(write_report(folder, title=title, summary=summary, images=images).read_text(encoding="utf-8"))


def test_every_link_is_a_file_beside_the_page_and_every_file_is_linked(tmp_path: Path) -> None:
    page = write(tmp_path / "report", FOUR)
    links = {unquote(link) for link in page.all("src")}
    assert links == set(files_in(tmp_path / "report")) - {"index.html"}
    assert len(links) == 8
    assert all(link.startswith("#") for link in page.all("href"))


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    write(tmp_path / "report", FOUR)
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import|fetch\(|XMLHttp", html)


def test_pictures_wait_until_they_are_seen(tmp_path: Path) -> None:
    page = write(tmp_path / "report", FOUR)
    assert page.all("loading") == ["lazy"] * 8


def test_names_of_all_kinds_are_shown_as_they_are(tmp_path: Path) -> None:
    image = replace(an_image(NASTY, flagged=True, truth=True, kind=NASTY), true_mask=np.eye(40, 60, dtype=bool))
    summary = ReportSummary(
        threshold=0.0,
        promise=NASTY,
        facts=(Fact(NASTY, NASTY, NASTY),),
        figures=(Fact(NASTY, NASTY),),
        warnings=(NASTY,),
    )
    page = write(tmp_path / "report", [image], summary=summary, title=NASTY)
    assert page.tags.count("script") == 1
    assert page.all("data-name") == [NASTY]
    assert page.all("data-kind") == [NASTY]
    assert page.words.count(NASTY) >= 8
    assert "$" not in page.words.replace(NASTY, "")


def test_a_name_that_is_no_unicode_does_not_stop_the_report(tmp_path: Path) -> None:
    page = write(tmp_path / "report", [an_image("caf\udce9\x00\n.png")])
    assert page.all("data-name") == ["caf\ufffd\ufffd\ufffd.png"]


def test_what_is_counted(tmp_path: Path) -> None:
    words = write(tmp_path / "report", [*FOUR, an_image("extra.png", flagged=True)]).words
    assert "5 images inspected, 3 called defective." in words
    assert "Defects found 1 / 2 50 % of defective images" in words
    assert "False alarms 1 / 2 50 % of good images" in words
    assert "Called defective 1 / 1 100 % of images without known truth" in words
    assert "All 5 Defect 3 Good 2 False alarms 1 Missed 1" in words


def test_without_truth_nothing_is_said_of_it(tmp_path: Path) -> None:
    page = write(tmp_path / "report", [an_image("a.png", flagged=True), an_image("b.png")])
    assert page.all("data-outcome") == ["flagged", "passed"]
    assert "How sure is each verdict?" in page.words
    for word in ("How far apart", "By kind", "False alarm", "Missed", "missed", "Defects found", "overlap"):
        assert word not in page.words
    assert "true" not in page.all("data-layer")


def test_cards_carry_verdict_numbers_and_regions(tmp_path: Path) -> None:
    page = write(tmp_path / "report", FOUR)
    assert page.all("data-outcome") == ["found", "missed", "false-alarm", "correct-pass"]
    assert page.all("data-nfa") == ["-12.5", "3.0", "-12.5", "3.0"]
    for verdict in ("Defect", "Good · missed", "Defect · false alarm", "Good"):
        assert verdict in page.text
    assert "−12.5 1,234 10, 5, 20 × 20 20, 15 2" in page.words


def test_of_very_many_regions_the_first_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    regions = tuple(FakeRegion(log_nfa=-1000.0 + n) for n in range(120))
    page = write(tmp_path / "report", [replace(FOUR[0], regions=regions)])
    assert "120 regions" in page.words
    assert "and 100 more" in page.words
    assert page.words.count("10, 5, 20 × 20") == 20
    assert "−981.0" in page.words


def test_the_kinds_table_says_how_many_of_each_kind_were_called_defective(tmp_path: Path) -> None:
    images = [replace(FOUR[0], overlap=0.5), replace(FOUR[0], overlap=0.7), *FOUR[1:]]
    words = write(tmp_path / "report", images).words
    assert "good 2 1 −4.8 – hole 2 2 −12.5 0.60 stain 1 0 3.0 –" in words


def test_boxes_and_outlines_are_in_the_pixels_of_the_picture_shown(tmp_path: Path) -> None:
    image = an_image(flagged=True)
    large = replace(
        image,
        image=np.full((400, 600, 3), 120, dtype=np.uint8),
        regions=(FakeRegion(bounding_box=(100, 50, 300, 250)),),
    )
    path = write_report(tmp_path / "report", title="T", summary=SUMMARY, images=[large], picture_side=60)
    html = path.read_text(encoding="utf-8")
    assert 'viewBox="0 0 60 40"' in html
    assert 'x="10.0" y="5.0" width="20.0" height="20.0"' in html
    assert "M10.5,5.5" in html
    assert read_image(path.parent / "images" / "0001.png").shape == (40, 60, 3)


def test_images_are_taken_one_at_a_time(tmp_path: Path) -> None:
    written: list[int] = []

    def stream() -> Iterator[ReportImage]:
        for number in range(5):
            [workshop] = filter(Path.is_dir, tmp_path.glob(".*"))
            written.append(len(list((workshop / "new" / "images").iterdir())))
            yield an_image(f"{number}.png")

    write_report(tmp_path / "report", title="T", summary=SUMMARY, images=stream())
    assert written == [0, 2, 4, 6, 8]


def test_no_images_and_no_losses_make_a_page_all_the_same(tmp_path: Path) -> None:
    page = write(tmp_path / "report", [])
    assert "0 images inspected, none called defective." in page.words
    assert "Training" not in page.words
    assert "What was run" not in page.words


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "report", FOUR)
    write(tmp_path / "report", FOUR[:1])
    assert set(files_in(tmp_path / "report")) == {"index.html", "images/0001.png", "images/0001-heat.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("name", ["notes.txt", "images/mine.png", "images/0001.jpg", "deep/images/0001.png"])
def test_a_report_to_which_something_was_added_is_left_alone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "report"
    write(folder, FOUR)
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text("precious")
    before = files_in(folder)
    with pytest.raises(UflowError, match="was added"):
        write(folder, FOUR[:1])
    assert files_in(folder) == before


@pytest.mark.parametrize("name", ["photo.png", "index.html", "images/0001.png"])
def test_a_folder_that_is_no_report_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"<html>\xff mine</html>")
    with pytest.raises(UflowError, match="is no report"):
        write(tmp_path, FOUR)
    assert files_in(tmp_path) == {name: b"<html>\xff mine</html>"}


def test_a_file_or_a_link_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(UflowError, match="in the way"):
            write(tmp_path / name, FOUR)
    with pytest.raises(UflowError, match="cannot be written"):
        write(tmp_path / "file" / "report", FOUR)


def test_a_run_stopped_half_way_leaves_the_earlier_report(tmp_path: Path) -> None:
    write(tmp_path / "report", FOUR)
    before = files_in(tmp_path / "report")

    def stopped() -> Iterator[ReportImage]:
        yield FOUR[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path / "report", title="T", summary=SUMMARY, images=stopped())
    assert files_in(tmp_path / "report") == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_run_stopped_between_the_two_renames_puts_the_old_report_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "report", FOUR)
    before = files_in(tmp_path / "report")
    rename = Path.rename

    def rename_old_only(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_old_only)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "report", FOUR[:1])
    assert files_in(tmp_path / "report") == before


@pytest.mark.parametrize(
    ("is_defect", "truth", "outcome"),
    [
        (True, True, Outcome.FOUND),
        (False, True, Outcome.MISSED),
        (True, False, Outcome.FALSE_ALARM),
        (False, False, Outcome.CORRECT_PASS),
        (True, None, Outcome.FLAGGED),
        (False, None, Outcome.PASSED),
    ],
)
def test_an_outcome_keeps_verdict_and_truth(*, is_defect: bool, truth: bool | None, outcome: Outcome) -> None:
    assert outcome_of(is_defect=is_defect, truly_defective=truth) is outcome
    assert (a_card(1.0, outcome=outcome).is_defect, a_card(1.0, outcome=outcome).truly_defective) == (is_defect, truth)


def a_card(log_nfa: float, *, number: int = 1, kind: str | None = None, outcome: Outcome = Outcome.PASSED) -> Card:
    return Card(number, "n", kind, outcome, log_nfa, 0.5, None, (9, 9), (9, 9), "p", "h", "", "", ())


def svg_of(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


@given(
    st.lists(st.floats(-1e300, 1e300) | st.sampled_from([np.inf, -np.inf]), max_size=6),
    st.floats(-1e6, 1e3),
)
def test_dots_stand_on_their_side_of_the_threshold_and_in_order(values: list[float], threshold: float) -> None:
    svg = svg_of(separation_chart([a_card(v, number=i) for i, v in enumerate(values)], threshold=threshold))
    xs = [float(dot.attrib["cx"]) for dot in svg.iter("circle")]
    [line] = [
        float(path.attrib["d"][1:].split(",")[0]) for path in svg.iter("path") if path.get("class") == "threshold"
    ]
    assert len(xs) == len(values)
    for value, x in zip(values, xs, strict=True):
        assert x <= line if value < threshold else x >= line
        assert 100 < x < 640
    ordered = [x for _, x in sorted(zip(values, xs, strict=True))]
    assert ordered == sorted(ordered)
    assert len([t for t in svg.iter("text") if t.get("text-anchor") == "middle"]) <= 9


def test_kinds_have_a_row_each_with_the_good_first() -> None:
    cards = [a_card(1.0, number=n, kind=kind) for n, kind in enumerate(["stain", "good", None, "cut"])]
    svg = svg_of(separation_chart(cards, threshold=0.0))
    labels = [t.text for t in svg.iter("text") if t.get("class") == "label" and t.get("text-anchor") == "end"]
    assert labels[:4] == ["good", "cut", "stain", "unlabelled"]


def test_heat_is_a_picture_whose_alpha_is_the_strength(tmp_path: Path) -> None:
    score = np.linspace(0.3, 1, 12 * 7).reshape(12, 7)
    (tmp_path / "heat.png").write_bytes(heat_png(score))
    composited = read_image(tmp_path / "heat.png").astype(float)  # on black: colour times opacity
    colour, opacity = heat(score)
    assert composited == pytest.approx(colour * (np.rint(opacity * 255) / 255)[..., None], abs=1)
    assert len(heat_png(np.full((256, 256), 0.39))) < 2000


def test_an_outline_is_closed_paths_in_pixels() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    assert outline_path(mask) == ""
    mask[2:5, 3:7] = mask[8, 8] = True
    pieces = re.findall(r"M([^Z]+)Z", outline_path(mask))
    assert sorted(sorted(piece.split()) for piece in pieces) == [
        ["3.5,2.5", "3.5,4.5", "6.5,2.5", "6.5,4.5"],
        ["8.5,8.5"],
    ]


def sweep_of(miou: np.ndarray, flagged: np.ndarray) -> NfaSweep:
    thresholds = np.arange(-1000.0, 401.0)
    return NfaSweep(thresholds, miou, 0.5 * miou, flagged, flagged)


def test_the_sweep_shows_the_plateau_and_both_ends() -> None:
    """The sweep over thresholds: nothing changes outside of what is drawn, and the best stretch is shaded."""
    thresholds = np.arange(-1000.0, 401.0)
    miou = np.select([thresholds < -12, thresholds < -7, thresholds <= 1, thresholds <= 3], [0.3, 0.4, 0.5, 0.2], 0.1)
    flagged = np.select([thresholds < 0, thresholds <= 3], [0.0, 0.1], 1.0)
    chart = sweep_chart(sweep_of(miou, flagged), threshold=0.0, oracle=-5.0)
    assert "plateau, mIoU within 3 % of the best: −7 to 1" in chart
    shown = [float(tick) for tick in re.findall(r'text-anchor="middle">(-?[\d.]+)<', chart.replace("−", "-"))]
    assert min(shown) < -7
    assert -30 < min(shown) < 0 < max(shown) < 10
    lines = re.findall(r'<polyline class="line ([\w-]+)" points="([^"]+)"', chart)
    ends = {name: [float(places.split()[i].split(",")[1]) for i in (0, -1)] for name, places in lines}
    assert ends["flagged"] == [258.0, 42.0]  # none at the left end, all at the right one
    assert ends["miou-all"][0] < ends["miou-all"][1]


def test_a_sweep_without_masks_has_no_plateau() -> None:
    nothing = np.full(1401, np.nan)
    assert "plateau" not in sweep_chart(sweep_of(nothing, np.zeros(1401)), threshold=0.0, oracle=math.nan)


@pytest.mark.parametrize(
    ("log_lot", "words"), [(2.0, "in 100 good images"), (0.0, "in one good image"), (None, "in a lot of good images")]
)
def test_the_page_says_among_how_many_images_nfa_counts(tmp_path: Path, log_lot: float | None, words: str) -> None:
    summary = ReportSummary(threshold=0.0, promise="-", log_lot=log_lot)
    page = write_report(tmp_path / "report", title="lots", summary=summary, images=FOUR)
    assert f"chance alone would make {words};" in page.read_text(encoding="utf-8")


def test_one_file_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    for n in (2, 4):
        assert write_report(file, title="T", summary=SUMMARY, images=FOUR[:n]) == file
        assert file.read_text(encoding="utf-8").count('<article class="card"') == n
    file.write_text("mine")
    with pytest.raises(UflowError, match="is no report"):
        write_report(file, title="T", summary=SUMMARY, images=FOUR)
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
