"""uflow beside its peers: one table, on the same images, split, extractor weights and measures.

    pip install --group peers
    python benchmarks/peers.py --dataset mtd --data-root mtd --out peers-mtd --train-images 120 \
        --good-images 60 --defective-images 120 --epochs fastflow=40

PatchCore, PaDiM, FastFlow, CFlow and CS-Flow are trained by anomalib's engine and scored by anomalib's models;
reading, resizing and all measures are uflow's own, and so are SPADE and DifferNet. Every row runs in a process of its
own and leaves OUT/<row>.json, so that one that fails loses nothing, and a second call runs only what is missing. CPU
only.

No hub is asked for weights. All rows use uflow's EfficientNet-Lite0; rows on the extractors of the papers run where
their weights are given as files, and else are listed as not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peers_table import as_text, write_table

from uflow_cli.files import write_text


@dataclass(frozen=True)
class RowName:
    """A row before it runs; `needs` names the option that brings its extractor weights."""

    title: str
    method: str
    needs: str | None = None
    extractor: str = "EfficientNet-Lite0"


ROWS = {
    "uflow": RowName("uflow", "uflow"),
    "patchcore": RowName("PatchCore", "patchcore"),
    "padim": RowName("PaDiM", "padim"),
    "fastflow": RowName("FastFlow", "fastflow"),
    "cflow": RowName("CFlow", "cflow"),
    "csflow": RowName("CS-Flow", "csflow"),
    "spade": RowName("SPADE", "spade"),
    "differnet": RowName("DifferNet", "differnet"),
    "uflow-resnet": RowName("uflow, ResNet", "uflow", "resnet_weights", "ResNet-18 or Wide-ResNet-50-2"),
    "patchcore-resnet": RowName("PatchCore, ResNet", "patchcore", "resnet_weights", "ResNet-18 or Wide-ResNet-50-2"),
    "padim-resnet": RowName("PaDiM, ResNet", "padim", "resnet_weights", "ResNet-18 or Wide-ResNet-50-2"),
    "fastflow-resnet": RowName("FastFlow, ResNet", "fastflow", "resnet_weights", "ResNet-18 or Wide-ResNet-50-2"),
    "cflow-resnet": RowName("CFlow, ResNet", "cflow", "resnet_weights", "ResNet-18 or Wide-ResNet-50-2"),
    "spade-resnet": RowName("SPADE, ResNet", "spade", "resnet_weights", "ResNet-18 or Wide-ResNet-50-2"),
    "differnet-resnet": RowName("DifferNet, ResNet", "differnet", "resnet_weights", "ResNet-18 or Wide-ResNet-50-2"),
    "csflow-b5": RowName("CS-Flow, EfficientNet-B5", "csflow", "b5_weights", "EfficientNet-B5"),
}
OWN_METHODS = ("uflow", "spade", "differnet")  # the others are anomalib's


def main() -> None:
    """Run what the command line asks for."""
    options = parse_options()
    if options.row:
        run_row_here(options.row, options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.rows:
        rows.append({"row": name, "title": ROWS[name].title, **result_of(name, options)})
        write_table(rows, conditions(rows, options), folder=options.out)
    print(as_text(rows, conditions(rows, options)))


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--dataset", default="mvtec", help="layout of the data set, as for uflow train")
    parser.add_argument("--category", help="category, where there are several")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the table and for each row's JSON and log")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--input-size", type=int, default=256, help="of all rows; CS-Flow needs a multiple of 128")
    parser.add_argument("--train-images", type=int, help="draw so many good images (default: all)")
    parser.add_argument("--good-images", type=int, help="draw so many good test images (default: all)")
    parser.add_argument("--defective-images", type=int, help="draw so many defective test images (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, the split and all training")
    parser.add_argument("--epochs", nargs="+", default=[], metavar="METHOD=N", help="instead of the published number")
    parser.add_argument(
        "--coreset", type=float, default=0.1, help="PatchCore's share of kept patches (paper: also 0.01)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resnet-weights", type=Path, help="ResNet-18 or Wide-ResNet-50-2 (.pth, .safetensors)")
    parser.add_argument("--b5-weights", type=Path, help="torchvision's EfficientNet-B5 (.pth, .safetensors)")
    parser.add_argument("--again", action="store_true", help="run rows anew that are there already")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        options.epochs = {method: int(n) for method, n in (item.split("=") for item in options.epochs)}
    except ValueError:
        parser.error("--epochs: expected METHOD=N, such as fastflow=40")
    unknown = set(options.epochs) - {row.method for row in ROWS.values()}
    if unknown or min(options.epochs.values(), default=1) < 1:
        parser.error(f"--epochs: expected N of 1 or more and METHOD of {', '.join(r for r in ROWS if '-' not in r)}")
    return options


def reason_not_to_run(name: str, options: argparse.Namespace) -> str | None:
    """Why the row cannot run here, or None."""
    row = ROWS[name]
    if row.needs and getattr(options, row.needs) is None:
        option = "--" + row.needs.replace("_", "-")
        return f"{option} FILE brings the weights of {row.extractor}; random ones would mislead"
    if row.method == "csflow" and options.input_size % 128:
        return f"anomalib's CS-Flow takes input sizes that are multiples of 128, not {options.input_size}"
    if row.method not in OWN_METHODS and find_spec("anomalib") is None:
        return "anomalib is not installed: pip install --group peers"
    return None


def result_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row's result, kept or new, or {"not_run": why}."""
    path, reason = options.out / f"{name}.json", reason_not_to_run(name, options)
    if reason:
        return {"not_run": reason}
    if path.exists() and not options.again:
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["settings"] == settings_of(name, options):
            return kept
    print(f"{name} ... (log: {options.out / name}.log)", file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    with (options.out / f"{name}.log").open("w") as log:
        command = [sys.executable, __file__, *sys.argv[1:], "--row", name]
        status = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        said = (options.out / f"{name}.log").read_text().strip().splitlines()
        return {"not_run": f"failed with status {status}: {said[-1] if said else 'no message'}"}
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def settings_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The inputs that a kept result must have been made with to be shown again."""
    row = ROWS[name]
    weights = getattr(options, row.needs) if row.needs else None
    own = {"coreset": options.coreset} if row.method == "patchcore" else {}
    return {
        **own,
        "dataset": options.dataset,
        "category": options.category,
        "data_root": str(options.data_root.resolve()),
        "train_images": options.train_images,
        "good_images": options.good_images,
        "defective_images": options.defective_images,
        "seed": options.seed,
        "input_size": options.input_size,
        "epochs": options.epochs.get(row.method),
        "threads": options.threads,
        "weights": None if weights is None else str(weights.resolve()),
    }


def run_row_here(name: str, options: argparse.Namespace) -> None:
    """Run one row in this process and write its JSON."""
    import torch
    from peers_images import choose_images
    from peers_rows import Job, run_row

    from uflow_cli.datasets import load_dataset

    torch.set_num_threads(options.threads)
    row = ROWS[name]
    data = load_dataset(options.dataset, root=options.data_root, category=options.category)
    selection = choose_images(
        data, n_train=options.train_images, n_good=options.good_images, n_defective=options.defective_images,
        seed=options.seed,
    )  # fmt: skip
    weights = getattr(options, row.needs) if row.needs else None
    job = Job(
        row.method, weights, input_size=options.input_size, epochs=options.epochs.get(row.method), seed=options.seed,
        folder=options.out, coreset=options.coreset,
    )  # fmt: skip
    result = run_row(job, selection)
    counts = {
        "n_training": len(selection.training),
        "n_held_out": len(selection.held_out),
        "n_good": sum(item.is_good for item in selection.test),
        "n_defective": sum(not item.is_good for item in selection.test),
    }
    content = {"settings": settings_of(name, options), "category": data.category, **counts, **asdict(result)}
    write_text(options.out / f"{name}.json", json.dumps(content, indent=2) + "\n")


def conditions(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """The conditions that all rows have in common."""
    done = next((row for row in rows if "measures" in row), None)
    if done is None:
        return ["no row ran"]
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "anomalib", "timm"))
    n_training, n_held_out = done["n_training"], done["n_held_out"]
    return [
        f"{options.dataset}/{done['category']}: {n_training} good images to learn from and {n_held_out} "
        "held out (uflow: epoch, calibration and the threshold 'fair, held out'; the others: that threshold alone)",
        f"test: {done['n_good']} good and {done['n_defective']} defective images; drawn, split and trained with seed "
        f"{options.seed}",
        f"input {options.input_size} x {options.input_size}, without augmentation; maps compared at 256 x 256",
        f"{platform.machine()}, {options.threads} thread(s) of {os.cpu_count()} cores, no GPU; "
        f"Python {platform.python_version()}, {versions}",
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
