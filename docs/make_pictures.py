"""Make the two pictures of the README: detections on the built-in sample, and the report on them.

    python docs/make_pictures.py [--demo DIR]

DIR is what `make demo` leaves; what is missing there is made by the same four commands, some minutes on a CPU. The page
of the report is drawn by Chromium, if there is one; without it that picture stays as it is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
KINDS = ("hole", "stain", "cut")
SIDE = 210  # pixels of an image in the picture of detections
GAP, CAPTION = 8, 24
MOST_BYTES = {"detection.png": 190_000, "report.png": 105_000}
WINDOW = (1240, 1150)  # of the browser
WIDTH = 900  # of the picture of the report
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def main() -> None:
    """Make the demo where it is missing, then both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    demo = parser.parse_args().demo
    make_demo(demo)
    save(detections_picture(demo), HERE / "detection.png")
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        print("no Chromium here: report.png stays as it is", file=sys.stderr)
    else:
        save(page_picture(demo / "report" / "index.html", browser), HERE / "report.png")


def make_demo(demo: Path) -> None:
    """Do the steps of `make demo` whose results are not there yet."""
    data, run = demo / "data", demo / "run"
    steps = {
        data: ["sample", "--out", data],
        run: ["train", "--dataset", "mvtec", "--category", "fabric", "--data-root", data, "--out", run, "--epochs", 15],
        demo / "detections": ["detect", data / "fabric" / "test", "--model", run, "--out", demo / "detections"],
        demo / "report": ["evaluate", "--model", run, "--data-root", data, "--report", demo / "report"],
    }
    for result, arguments in steps.items():
        if not result.exists():
            subprocess.run([sys.executable, "-m", "uflow_cli", *map(str, arguments)], check=True)


def detections_picture(demo: Path) -> Image.Image:
    """One defect of each kind: the image above, what was found below, its log NFA under both."""
    found = json.loads((demo / "detections" / "detections.json").read_text(encoding="utf-8"))["images"]
    chosen = [clearest(found, kind) for kind in KINDS]
    size = (len(KINDS) * (SIDE + GAP) - GAP, 2 * (SIDE + GAP) + CAPTION)
    picture = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for column, (kind, image) in enumerate(zip(KINDS, chosen, strict=True)):
        left = column * (SIDE + GAP)
        for row, path in enumerate((image["path"], image["overlay"])):
            part = Image.open(located(demo, path)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            picture.paste(part, (left, row * (SIDE + GAP)))
        text = f"{kind}: log NFA {image['log_nfa']:.1f}"
        draw.text((left + SIDE / 2, 2 * (SIDE + GAP) + CAPTION / 2 - 4), text, "black", font, anchor="mm")
    return picture


def clearest(images: list[dict], kind: str) -> dict:  # type: ignore[type-arg]
    """The image of that kind of defect with the lowest log NFA."""
    return min((image for image in images if Path(image["path"]).parent.name == kind), key=lambda i: i["log_nfa"])


def located(demo: Path, path: str) -> Path:
    """The file that a result names by a path from where its command ran."""
    return next(p for p in (Path(path), demo / path, demo.parent / path) if p.is_file())


def page_picture(page: Path, browser: str) -> Image.Image:
    """The top of the HTML page, as the browser draws it."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        where = [f"--user-data-dir={folder}/profile", f"--window-size={WINDOW[0]},{WINDOW[1]}", f"--screenshot={shot}"]
        subprocess.run([browser, *CHROMIUM_OPTIONS, *where, page.resolve().as_uri()], check=True, capture_output=True)
        picture = Image.open(shot).convert("RGB")
    return picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)


def save(picture: Image.Image, path: Path) -> None:
    """Write as many colours as the size allows."""
    for n_colours in (256, 192, 128, 96, 64, 48, 32, 16):
        picture.quantize(n_colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MOST_BYTES[path.name]:
            break
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {n_colours} colours")


if __name__ == "__main__":
    main()
