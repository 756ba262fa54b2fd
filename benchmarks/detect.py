"""What detection of a folder and of one image costs, command by command, beside an earlier checkout of uflow.

    python benchmarks/detect.py RUN IMAGES [--before CHECKOUT] [--rounds 3] [--start | --rate]

RUN has a graph. Each command is a process of its own; the commands take turns. Printed are the processor time of all
its threads and the wall time, median and quartiles, in seconds, and the ratio of processor times to the first
command's, of the same round. `--start` is about starts alone: one image with the graph, and the help. `--rate` is about
images alone: processor time of all of them less that of one, of decoder and engine, and of detection without and with
pictures. Beside anomalib's inferencers: inferencers.py.
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


Job = tuple[Path, list[str]]  # checkout and arguments


def starts(run: Path, image: Path, before: Path | None) -> dict[str, dict[str, Job]]:
    """Tables of what is as good as nothing but a start."""
    checkouts = {**({"before": before} if before else {}), "now": HERE}
    detect = ["detect", str(image), "--model", str(run)]  # with the graph; the first uflow had none, nor the option
    each = {"one image, cold": detect, "uflow --help": ["--help"], "uflow detect --help": ["detect", "--help"]}
    return {what: {name: (place, job) for name, place in checkouts.items()} for what, job in each.items()}


def commands(run: Path, images: Path, before: Path | None) -> dict[str, Job]:
    """The commands by what they show; the first is what the others are compared to."""
    detect = ["detect", str(images), "--model", str(run)]
    bare = ["--no-masks", "--no-overlays"]
    found: dict[str, Job] = {}
    if before:
        found["before"] = (before, detect)
    found["PyTorch"] = (HERE, [*detect, "--runtime", "torch"])
    found["graph"] = (HERE, [*detect, "--runtime", "onnx"])
    found["graph, no pictures"] = (HERE, [*detect, "--runtime", "onnx", *bare])
    return found


ENGINE = """
import sys
from pathlib import Path
from uflow_cli.detection.stream import squared_norm_maps
from uflow_cli.run.graph import load_engine
from uflow_cli.run.record import load_run
run = load_run(Path(sys.argv[1]))
for _ in squared_norm_maps(load_engine(run), [Path(name) for name in sys.argv[2:]], rois=run.rois()):
    pass
"""


def print_rates(run: Path, files: list[Path], *, rounds: int) -> None:
    """Milliseconds of processor time per image, and how much of them decoding and the engine take."""
    detect = ["-m", "uflow_cli", "detect", "--model", str(run), "--runtime", "onnx"]
    jobs = {
        "decoding and the engine": ["-c", ENGINE, str(run)],
        "detection without pictures": [*detect, "--no-masks", "--no-overlays"],
        "detection with masks and overlays": detect,
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            one, many = (processor_time([*job, *map(str, chosen)]) for chosen in (files[:1], files))
            times[name].append(1e3 * (many - one) / (len(files) - 1))
    engine = next(iter(times.values()))
    print("| per image | processor ms | share of the first |\n|---|---|---|")
    for name, values in times.items():
        shares = [own / value for own, value in zip(engine, values, strict=True)]
        print(f"| {name} | {quartiles(values)} | {quartiles(shares)} |")


def environment_of(checkout: Path) -> dict[str, str]:
    """That of a process which runs the code of `checkout`, and keeps it compiled as an installed package is."""
    return {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": ""}


def processor_time(arguments: list[str]) -> float:
    """Of a Python process, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        environment = environment_of(HERE)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(checkout: Path, arguments: list[str]) -> tuple[float, float]:
    """Processor and wall time in seconds."""
    out = Path(tempfile.mkdtemp())
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = environment_of(checkout)
    where = [] if "--help" in arguments else ["--out", str(out)]
    command = [sys.executable, "-m", "uflow_cli", *arguments, *where]
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
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--start", action="store_true")
    alone.add_argument("--rate", action="store_true")
    options = parser.parse_args()
    run, images, before = options.run.absolute(), options.images.absolute(), options.before
    files = sorted(path for path in images.rglob("*") if path.is_file())
    if options.rate:
        print_rates(run, files, rounds=options.rounds)
        return
    folder = {f"{len(files)} images": images, "one image, cold": files[0]}
    tables = (
        starts(run, files[0], before) if options.start else {w: commands(run, p, before) for w, p in folder.items()}
    )
    for what, jobs in tables.items():
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for counted in [False] * options.start + [True] * options.rounds:  # the first start compiles
            for name, job in jobs.items():
                found = measure(*job)
                if counted:
                    times[name].append(found)
        print(f"\n| {what} | processor s | wall s | ratio of processor times |\n|---|---|---|---|")
        first = next(iter(times.values()))
        for name, values in times.items():
            cpu, wall = ([value[i] for value in values] for i in (0, 1))
            ratios = [a[0] / b[0] for a, b in zip(values, first, strict=True)]
            print(f"| {name} | {quartiles(cpu)} | {quartiles(wall)} | {quartiles(ratios)} |")


def quartiles(values: list[float]) -> str:
    """The median and, of several, the quartiles."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
