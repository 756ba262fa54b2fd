"""`uflow detect` beside anomalib's inferencers of PaDiM and PatchCore on the same extractor weights and images.

    pip install --group peers openvino onnxscript
    python benchmarks/inferencers.py RUN IMAGES --good GOOD_IMAGES [--models FOLDER] [--rounds 3]

PaDiM and PatchCore are fitted to good images at the run's input size and exported by anomalib's engine for its
TorchInferencer and its OpenVINOInferencer, without post-processing: they return maps and raw scores and write nothing,
while `uflow detect` also finds regions and writes its results. RUN has a graph. All compute in float32, and OpenVINO
also as it does by itself, which is bfloat16 on processors that multiply matrices of it.

Each measurement is a process of its own, and all take turns. A first start of each is not counted: it compiles Python's
files and fills OpenVINO's cache, which later ones load. An image costs the processor time of N images less that of one,
over N - 1; a cold start is one image; memory is the peak of the process with N images. Printed are medians and
quartiles; ratios are of the same round. PyTorch and OpenVINO compute on one thread, an image at a time; `uflow detect`
as it does by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from detect import HERE, environment_of, quartiles

from uflow_cli.files import write_text
from uflow_cli.run.record import load_run

PACKAGES = ("anomalib", "torch", "openvino", "onnxruntime")
TORCH = """
import sys
from anomalib.deploy import TorchInferencer
inferencer = TorchInferencer(sys.argv[1], device="cpu")
for name in sys.argv[2:]:
    inferencer.predict(name)
"""
OPENVINO = """
import sys
from anomalib.deploy import OpenVINOInferencer
config = {"INFERENCE_NUM_THREADS": "1", **dict(pair.split("=") for pair in sys.argv[2].split())}
inferencer = OpenVINOInferencer(sys.argv[1], device="CPU", config=config)
for name in sys.argv[3:]:
    inferencer.predict(name)
"""


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    processor: float  # seconds, of all threads
    wall: float  # seconds
    memory: float  # bytes, at its peak


def main() -> None:
    """Fit what is not there, take turns, print the table."""
    options = parse_options()
    if options.fit:
        export_models(options.models, settings_of(options))
        return
    settings = settings_of(options)
    files = sorted(path.absolute() for path in options.images.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as scratch:
        models = (options.models or Path(scratch)).absolute()
        provide_models(models, settings)
        jobs = commands(options.run.absolute(), models)
        pairs: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in jobs}
        for job in jobs.values():
            measure([*job, str(files[0])], models)  # not counted
        for _ in range(options.rounds):
            for name, job in jobs.items():
                one, many = (measure([*job, *map(str, chosen)], models) for chosen in (files[:1], files))
                pairs[name].append((one, many))
    print_table(pairs, n_images=len(files))
    size = settings["input_size"]
    print(
        f"\nInput {size} x {size}; {len(settings['images'])} good images; PatchCore "
        f"keeps {options.coreset:g} of the patches. {platform.machine()}, {os.cpu_count()} cores; Python "
        f"{platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in PACKAGES)}"
    )


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--good", type=Path, required=True, help="folder of good images to fit to")
    parser.add_argument("--train-images", type=int, default=60, help="fit to the first so many of them")
    parser.add_argument("--coreset", type=float, default=0.01, help="PatchCore's share of kept patches")
    parser.add_argument("--models", type=Path, help="keep the exported models here, and take them from here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fit", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What kept models must have been made with to be taken again."""
    good = sorted(str(path.absolute()) for path in options.good.rglob("*") if path.is_file())
    height, width = load_run(options.run).model.input_size
    if height != width:
        raise SystemExit(
            f"{options.run}: input {height} x {width}; the models of peers_models.py are for square inputs"
        )
    return {
        "input_size": height,
        "images": good[: options.train_images],
        "coreset": options.coreset,
        "anomalib": version("anomalib"),
    }


def provide_models(folder: Path, settings: dict[str, Any]) -> None:
    """Fit and export unless `folder` has models of these settings."""
    kept = folder / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) == settings:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # in a process of its own: the peak memory of a process counts that of the one that starts it
    command = [sys.executable, __file__, *sys.argv[1:], "--models", str(folder), "--fit"]
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment())
    write_text(kept, json.dumps(settings, indent=2) + "\n")


def export_models(folder: Path, settings: dict[str, Any]) -> None:
    """Fit both methods and write FOLDER/weights/{torch,openvino}/METHOD.*."""
    from functools import partial

    import lightning
    from anomalib.deploy import ExportType
    from peers_anomalib import fit
    from peers_models import build_padim, build_patchcore
    from peers_weights import lite0_backbone

    size = settings["input_size"]
    images = [Path(name) for name in settings["images"]]
    for name, build in {
        "padim": build_padim,
        "patchcore": partial(build_patchcore, coreset=settings["coreset"]),
    }.items():
        lightning.seed_everything(0, verbose=False)
        model = build(lite0_backbone(), size)
        with tempfile.TemporaryDirectory() as scratch:
            engine = fit(model, images, input_size=size, epochs=1, folder=Path(scratch))
            for kind in (ExportType.TORCH, ExportType.OPENVINO):
                engine.export(
                    model, kind, export_root=folder, model_file_name=name, input_size=(size, size),
                    onnx_kwargs={"dynamic_axes": None},  # batches of one; PatchCore would be fixed to two
                )  # fmt: skip


def commands(run: Path, models: Path) -> dict[str, list[str]]:
    """What is measured, but for the images; ratios are to the first."""
    detect = ["-m", "uflow_cli", "detect", "--model", str(run), "--runtime", "onnx"]
    found = {
        "`uflow detect` without pictures": [*detect, "--no-masks", "--no-overlays"],
        "`uflow detect` with masks and overlays": detect,
    }
    for name, title in {"padim": "PaDiM", "patchcore": "PatchCore"}.items():
        openvino = ["-c", OPENVINO, str(models / f"weights/openvino/{name}.xml")]
        found[f"{title}, TorchInferencer"] = ["-c", TORCH, str(models / f"weights/torch/{name}.pt")]
        found[f"{title}, OpenVINOInferencer, float32"] = [*openvino, "INFERENCE_PRECISION_HINT=f32"]
        found[f"{title}, OpenVINOInferencer, its own precision"] = [*openvino, ""]
    return found


def environment() -> dict[str, str]:
    """That of every process: PyTorch on one thread, and trust in the pickles that were written here."""
    return {**environment_of(HERE), "OMP_NUM_THREADS": "1", "TRUST_REMOTE_CODE": "1"}


def measure(arguments: list[str], folder: Path) -> Cost:
    """A Python process in `folder`, where OpenVINO's cache stays; SystemExit with its last words where it failed."""
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log, env=environment(), cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(log.read()[-2000:])
    shutil.rmtree(folder / "detections", ignore_errors=True)  # what uflow wrote
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def print_table(pairs: dict[str, list[tuple[Cost, Cost]]], *, n_images: int) -> None:
    """Of (one image, all images) per round."""
    per_image = {
        name: [1e3 * (many.processor - one.processor) / (n_images - 1) for one, many in costs]
        for name, costs in pairs.items()
    }
    cold = {name: [one.processor for one, _ in costs] for name, costs in pairs.items()}
    print(
        f"| {n_images} images | processor ms per image | ratio | cold start, processor s | ratio | wall s | peak, GB |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, costs in pairs.items():
        cells = [
            *with_ratio(per_image, name),
            *with_ratio(cold, name),
            quartiles([one.wall for one, _ in costs]),
            quartiles([many.memory / 1e9 for _, many in costs]),
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def with_ratio(values: dict[str, list[float]], name: str) -> tuple[str, str]:
    """Quartiles of the values of `name`, and of their ratios to the first contender's."""
    first = next(iter(values.values()))
    return quartiles(values[name]), quartiles([own / other for own, other in zip(values[name], first, strict=True)])


if __name__ == "__main__":
    main()
