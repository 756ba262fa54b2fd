"""What detection of a folder and of one image costs, command by command, beside an earlier checkout of uflow.

    python benchmarks/detect.py RUN IMAGES [--before CHECKOUT] [--rounds 3]

RUN has a graph. Each command is a process of its own; the commands take turns. Printed are the processor time of all
its threads and the wall time, median and range, in seconds, and the ratio of processor times to the first command's, of
the same round.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent.parent


def commands(run: Path, images: Path, before: Path | None) -> dict[str, tuple[Path, list[str]]]:
    """Checkout and arguments by what they show; the first is what the others are compared to."""
    detect = ["detect", str(images), "--model", str(run)]
    bare = ["--no-masks", "--no-overlays"]
    found: dict[str, tuple[Path, list[str]]] = {}
    if before:
        found["before"] = (before, detect)
    found["PyTorch"] = (HERE, [*detect, "--runtime", "torch"])
    found["graph"] = (HERE, [*detect, "--runtime", "onnx"])
    found["graph, no pictures"] = (HERE, [*detect, "--runtime", "onnx", *bare])
    return found


def measure(checkout: Path, arguments: list[str]) -> tuple[float, float]:
    """Processor and wall time in seconds."""
    out = Path(tempfile.mkdtemp())
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "uflow_cli", *arguments, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=checkout)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(out)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    """A table for the folder, and one for its first image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.run, options.images = options.run.absolute(), options.images.absolute()
    files = sorted(path for path in options.images.rglob("*") if path.is_file())
    for what, path in ((f"{len(files)} images", options.images), ("one image, cold", files[0])):
        jobs = commands(options.run, path, options.before)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for _ in range(options.rounds):
            for name, job in jobs.items():
                times[name].append(measure(*job))
        print(f"\n| {what} | processor s | wall s | ratio of processor times |\n|---|---|---|---|")
        first = next(iter(times.values()))
        for name, values in times.items():
            cpu, wall = ([value[i] for value in values] for i in (0, 1))
            ratio = statistics.median(a[0] / b[0] for a, b in zip(values, first, strict=True))
            print(
                f"| {name} | {statistics.median(cpu):.2f} ({min(cpu):.2f}-{max(cpu):.2f}) | "
                f"{statistics.median(wall):.2f} ({min(wall):.2f}-{max(wall):.2f}) | {ratio:.2f} |"
            )


if __name__ == "__main__":
    main()
