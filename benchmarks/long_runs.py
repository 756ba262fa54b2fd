"""Many images through detection, a watched folder and a server: do memory, open files or times grow?

    python benchmarks/long_runs.py [--images 100000] [--side 64] [--only detect,watch,serve] [--model RUN]

Without `--model` a small run with a graph is trained first. The images are names of one file of `--side` pixels, a
defect on it. Memory is RssAnon, what the system cannot take back; open files are those in /proc; speed is images per
second of the process's own time, so a busy machine does not count. Each is given for the tenth of images after the
first tenth, which warms up, and for the last tenth.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from uflow_cli.images import encode_png
from uflow_cli.results import LINES_NAME

GLANCE = 0.5  # seconds
MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """A process at one moment."""

    n_images: int  # done
    memory: int  # bytes
    n_files: int
    seconds: float  # of processor time


def sample(pid: int, n_images: int) -> Sample | None:
    """The process `pid` now; None once it is gone."""
    place = Path("/proc") / str(pid)
    try:
        status = (place / "status").read_text()
        ticks = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
        memory = re.search(r"RssAnon:\s+(\d+) kB", status)
        n_files = len(os.listdir(place / "fd"))  # noqa: PTH208 - counted only
    except (FileNotFoundError, ProcessLookupError):
        return None
    if memory is None:  # it has just ended
        return None
    return Sample(n_images, 1024 * int(memory[1]), n_files, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"))


def table_row(name: str, samples: list[Sample], n_images: int) -> str:
    """What became of memory, files and speed between the second tenth of the images and the last one."""
    early, late = (
        [one for one in samples if begin * n_images <= 10 * one.n_images <= (begin + 1) * n_images] for begin in (1, 9)
    )
    memory = [median(one.memory for one in part) / MIB for part in (early, late)]
    rates = [(part[-1].n_images - part[0].n_images) / (part[-1].seconds - part[0].seconds) for part in (early, late)]
    files = [f"{min(one.n_files for one in part)} to {max(one.n_files for one in part)}" for part in (early, late)]
    grown = (memory[1] - memory[0]) * MIB / (0.8 * n_images)
    return (
        f"| {name} | {n_images} | {memory[0]:.1f} | {memory[1]:.1f} | {memory[1] / memory[0] - 1:+.2%} | {grown:.0f} | "
        f"{files[0]} | {files[1]} | {rates[0]:.1f} | {rates[1]:.1f} |"
    )


def followed(process: subprocess.Popen[str], n_done: Callable[[], int], n_images: int) -> list[Sample]:
    """Samples of the process until it ends or all images are done."""
    samples: list[Sample] = []
    while process.poll() is None and (n := n_done()) < n_images:
        if one := sample(process.pid, n):
            samples.append(one)
        time.sleep(GLANCE)
    if one := sample(process.pid, n_images):
        samples.append(one)
    return samples


def started(*words: object) -> subprocess.Popen[str]:
    """The program with these arguments."""
    command = [sys.executable, "-m", "uflow_cli", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def number_of_lines(out: Path) -> Callable[[], int]:
    """A function that counts the images done in `out`, looking only at what is new."""
    seen = [0, 0]

    def count() -> int:
        try:
            with (out / LINES_NAME).open("rb") as file:
                file.seek(seen[0])
                new = file.read()
        except FileNotFoundError:
            return 0
        seen[0] += len(new)
        seen[1] += new.count(b"\n")
        return seen[1]

    return count


def write_copies(folder: Path, image: Path, n_images: int) -> None:
    """So many copies of the file `image`, a thousand in a folder."""
    for number in range(n_images):
        place = folder / f"{number // 1000:03d}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        shutil.copyfile(image, place / f"{number:06d}.png")


def detect(run: Path, root: Path, image: Path, n_images: int, words: Sequence[str]) -> list[Sample]:
    """`uflow detect` on a folder."""
    write_copies(root / "images", image, n_images)
    out = root / "out"
    process = started("detect", root / "images", "--model", run, "--out", out, "--device", "cpu", "--quiet", *words)
    samples = followed(process, number_of_lines(out), n_images)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    return samples


def watch(run: Path, root: Path, image: Path, n_images: int, words: Sequence[str]) -> list[Sample]:
    """`uflow watch` on a folder that images come into, each moved when it is done; never more than 1000 wait."""
    (root / "coming").mkdir()
    out = root / "out"
    options = ["--settle", 0, "--move-defect", root / "defect", "--move-good", root / "good", *words]
    process = started("watch", root / "coming", "--model", run, "--out", out, "--device", "cpu", "--quiet", *options)
    count, sent = number_of_lines(out), [0]

    def n_done() -> int:
        n = count()
        while sent[0] < min(n_images, n + 1000):
            hidden = root / "coming" / f".{sent[0]:06d}"
            shutil.copyfile(image, hidden)
            hidden.rename(root / "coming" / f"{sent[0]:06d}.png")
            sent[0] += 1
        return n

    samples = followed(process, n_done, n_images)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    return samples


def serve(run: Path, root: Path, image: Path, n_images: int, words: Sequence[str]) -> list[Sample]:
    """`uflow serve` with one client, every hundredth request on a new connection."""
    del root, words
    process = started("serve", "--model", run, "--port", 0, "--device", "cpu")
    assert process.stderr
    found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stderr.readline())
    assert found
    body, done, samples, next_glance = image.read_bytes(), 0, list[Sample](), 0.0
    while done < n_images:
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        for _ in range(min(100, n_images - done)):
            connection.request("POST", "/detect", body)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            done += 1
            if time.monotonic() >= next_glance and (one := sample(process.pid, done)):
                samples.append(one)
                next_glance = time.monotonic() + GLANCE
        connection.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    return samples


COMMANDS = {"detect": detect, "watch": watch, "serve": serve}


def trained(folder: Path, side: int) -> Path:
    """A run of one epoch on noise, with its graph."""
    rng = np.random.default_rng(0)
    (folder / "good").mkdir(parents=True)
    for number in range(20):
        noise = rng.integers(100, 140, (side, side, 3), dtype=np.uint8)
        (folder / "good" / f"{number}.png").write_bytes(encode_png(noise))
    options = ["--epochs", 1, "--input-size", side, "--no-cache", "--device", "cpu"]
    process = started("train", "--images", folder / "good", "--out", folder / "run", *options)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    return folder / "run"


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--only", default=",".join(COMMANDS))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--no-pictures", action="store_true", help="Let detect and watch write no masks and overlays.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run = options.model or trained(root / "training", options.side)
        image = np.random.default_rng(1).integers(100, 140, (options.side, options.side, 3), dtype=np.uint8)
        image[20:30, 20:30] = 255
        (root / "image.png").write_bytes(encode_png(image))
        print("| command | images | MiB early | late | growth | bytes per image | open files early | late | "
              "images per second of processor time early | late |\n|" + 10 * "---|")  # fmt: skip
        words = ["--no-masks", "--no-overlays"] if options.no_pictures else []
        for name in options.only.split(","):
            place = root / name
            place.mkdir()
            samples = COMMANDS[name](run, place, root / "image.png", options.images, words)
            print(table_row(name, samples, options.images), flush=True)


if __name__ == "__main__":
    main()
