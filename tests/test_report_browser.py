"""The report in a browser: what its slider says is what Python computes from the same log NFA. Needs Chromium."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_report import NASTY, an_image

from uflow_cli.report import ReportImage, ReportSummary, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1400,3000", "--virtual-time-budget=4000",
    "--enable-logging=stderr",
)  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]


def images() -> list[ReportImage]:
    """Twelve images, half of them defective, each with some regions of its own log NFA."""
    made = []
    for number in range(12):
        rng = np.random.default_rng(number)
        log_nfa_map = np.full((64, 96), 5.0, dtype=np.float32)
        for _ in range(4):
            y, x = rng.integers(0, 50), rng.integers(0, 80)
            log_nfa_map[y : y + 12, x : x + 14] = rng.normal(1 - 6 * (number % 2), 4)
        lowest, is_bad = float(log_nfa_map.min()), bool(number % 2)
        image = an_image(f"{number}{NASTY}", flagged=lowest < 0, truth=is_bad, kind="hole" if is_bad else "good")
        made.append(replace(image, log_nfa=lowest, log_nfa_map=log_nfa_map, path=f"/{NASTY}/{number}.png"))
    return made


def opened(page: Path, fragment: str, tmp_path: Path, *, n_masks: int = 0) -> str:
    """The page as it stands once it is loaded; again where a busy machine had no time to draw `n_masks` masks."""
    pages = (_opened(page, fragment, tmp_path) for _ in range(5))
    return next((html for html in pages if html.count("data-pixels=") >= n_masks), "")


def _opened(page: Path, fragment: str, tmp_path: Path) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri() + fragment]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in result.stderr
    return result.stdout


@pytest.mark.parametrize("threshold", [0.0, -1.25, 3.0])
def test_the_slider_says_what_python_computes(tmp_path: Path, threshold: float) -> None:
    shown = images()
    summary = ReportSummary(threshold=0.0, promise="-", log_lot=2.0)
    page = write_report(tmp_path / "report", title=NASTY, summary=summary, images=shown)
    html = opened(page, f"#threshold={threshold}", tmp_path, n_masks=12)
    flagged = {
        truth: sum(i.log_nfa < threshold for i in shown if i.truly_defective is truth) for truth in (True, False)
    }
    words = re.search(r'<output id="decided">(.*?)</output>', html)
    assert words is not None
    assert words[1] == (
        f"{flagged[True]} of 6 defective images flagged · {flagged[False]} of 6 good images flagged · "
        f"{float(f'{10**threshold:.3g}'):g} false detections expected in 100 good images"
    )
    outcomes = re.findall(r'data-outcome="([a-z-]+)"', html)
    names = {
        (True, True): "found",
        (True, False): "missed",
        (False, True): "false-alarm",
        (False, False): "correct-pass",
    }
    assert outcomes == [names[bool(i.truly_defective), i.log_nfa < threshold] for i in shown]
    if threshold:
        pixels = re.findall(r'data-pixels="(\d+)"', html)
        assert [int(n) for n in pixels] == [
            int((i.log_nfa_map < threshold).sum()) for i in shown if i.log_nfa_map is not None
        ]


def test_one_file_holds_all_and_shows_the_same(tmp_path: Path) -> None:
    shown = images()
    summary = ReportSummary(threshold=0.0, promise="-", log_lot=2.0, held_out=(1.0, 2.0, 3.0))
    page = write_report(tmp_path / "page.html", title=NASTY, summary=summary, images=shown)
    folder = write_report(tmp_path / "report", title=NASTY, summary=summary, images=shown)
    html, other = (opened(place, "#threshold=-1.25", tmp_path, n_masks=12) for place in (page, folder))
    assert [path.name for path in tmp_path.glob("*.html")] == ["page.html"]
    for pattern in (r'<output id="decided">(.*?)</output>', r'data-outcome="([a-z-]+)"', r'data-pixels="(\d+)"'):
        assert re.findall(pattern, html) == re.findall(pattern, other) != []
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    moved = re.findall(r'class="threshold" d="M([0-9.]+),[^"]*" transform="translate\((-[0-9.]+) 0\)"', html)
    assert (
        len(moved) == len(set(moved[:1])) + 1 == 2
    )  # the lines of dots and histogram stand at one place and move alike
    assert moved[0] == moved[1]


def test_an_enlarged_image_comes_apart_into_its_layers_and_zooms(tmp_path: Path) -> None:
    """Also keys, filters by area, and marks; the script stands beside the page's own, as a person's hands would."""
    page = write_report(tmp_path / "page.html", title="-", summary=ReportSummary(0.0, "-"), images=images())
    hands = """<script>
      const key = (name) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
      const frames = () => [...document.querySelectorAll(".inside .frame")].map((f) => f.style.transform);
      const said = [];
      document.querySelectorAll(".view")[1].click();
      said.push(frames().length); key("s"); said.push(frames().length); key("+"); said.push(new Set(frames()).size, frames()[0]);
      key("0"); said.push(frames()[0] === ""); key("m"); said.push(document.querySelector("#save b").textContent);
      key("ArrowRight"); said.push(document.querySelector(".bar span").textContent[0]);
      document.querySelector("dialog").close();
      const from = document.querySelector("#area-from"); from.value = "1000"; from.dispatchEvent(new Event("input"));
      said.push(document.querySelectorAll(".card:not([hidden])").length);
      document.body.dataset.said = said.join("|");
    </script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", hands), encoding="utf-8")
    said = re.search(r'data-said="(.*?)"', opened(page, "", tmp_path))
    assert said is not None
    n_flagged = sum(image.is_defect for image in images())
    assert said[1] == f"1|3|1|translate(-25%, -25%) scale(1.5)|true|1|2|{n_flagged}"


def test_a_thousand_images_are_there_soon(tmp_path: Path) -> None:
    """Only what is in sight is decoded and drawn; a threshold is applied to all of them."""
    base = images()
    many = [replace(base[i % 12], name=f"part {i}", log_nfa=float(i % 7) - 3) for i in range(1000)]
    page = write_report(tmp_path / "page.html", title="-", summary=ReportSummary(0.0, "-", log_lot=2.0), images=many)
    hands = """<script>
      const start = performance.now(), exact = document.querySelector("#exact");
      exact.value = "-1.5"; exact.dispatchEvent(new Event("change"));
      document.body.dataset.took = performance.now() - start;
    </script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", hands), encoding="utf-8")
    html = opened(page, "", tmp_path)
    took, drawn = re.search(r'data-took="([0-9.]+)"', html), re.findall(r'data-pixels="', html)
    assert took is not None
    assert float(took[1]) < 2000  # milliseconds: some 50 on a free machine
    assert 0 < len(drawn) < 200
    assert f'<span id="called">{sum(i.log_nfa < -1.5 for i in many)}</span>' in html
