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


def opened(page: Path, fragment: str, tmp_path: Path) -> str:
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
    html = opened(page, f"#threshold={threshold}", tmp_path)
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
