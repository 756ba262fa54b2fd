"""Measure what each saving in feature extraction gains, how fast a device is then, and what bfloat16 changes.

    python benchmarks/extractors.py steps [--extractor NAME] [--strides 32] [--device cuda] [--batch N] [--rounds N]
    python benchmarks/extractors.py speed [--extractor NAME ...] [--device cuda] [--batch 1 8 32]
    python benchmarks/extractors.py change --run RUN --images DIR [--device cuda]

`steps` goes from timm's whole network in single precision to what uflow runs, one saving at a time. `speed` gives
images per second of extraction and of whole detection, and the share of the device's own matrix throughput that
extraction reaches. Both use random weights, which cost what trained ones do. `change` runs a trained model in both
precisions. Contenders take turns in one process on rotating inputs; a ratio is the median over rounds. Every answer is
checked.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from extractor_steps import SIDE, laid_out, steps
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from uflow_cli.bench import Comparison, machine_facts, time_comparison
from uflow_cli.config import ModelConfig
from uflow_cli.detection.detector import Detector
from uflow_cli.detection.nfa import Background
from uflow_cli.detection.prediction import predict
from uflow_cli.features import find_backbone
from uflow_cli.features.extractor import choose_precision
from uflow_cli.images import list_images, read_image
from uflow_cli.model import Model, build_model
from uflow_cli.run.record import load_model, load_run

N_INPUTS = 3


def main() -> None:
    """One part, to standard output."""
    options = parse()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    device = torch.device(options.device)
    print(", ".join(f"{name} {value}" for name, value in machine_facts(device).items()))
    if options.part == "steps":
        for name in options.extractor or ["ms-cait"]:
            print_steps(name, options.strides, device=device, batch=options.batch[0], rounds=options.rounds)
    elif options.part == "speed":
        for name in options.extractor or ["ms-cait", "resnet18", "efficientnet-lite0"]:
            for batch in options.batch if device.type == "cuda" else options.batch[:1]:
                print_speed(name, device=device, batch=batch, rounds=options.rounds)
    else:
        print_change(options.run, options.images, device=device)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["steps", "speed", "change"])
    parser.add_argument("--extractor", nargs="+")
    parser.add_argument("--strides", type=int, nargs="+")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=Path)
    return parser.parse_args()


def print_steps(name: str, strides: Sequence[int] | None, *, device: torch.device, batch: int, rounds: int) -> None:
    """A line per saving: milliseconds per image and the ratio of times to the step before and to the first."""
    contenders = steps(name, strides, device=device)
    inputs = [torch.randn(batch, 3, SIDE, SIDE, device=device) for _ in range(N_INPUTS)]
    check_answers({step: maps(inputs[0]) for step, maps in contenders.items()})
    timed = {step: synchronised(maps, inputs, device) for step, maps in contenders.items()}
    timings = time_comparison(Comparison(name, "image", batch, timed), rounds=rounds)
    print(f"\n{name}{f' at strides {strides}' if strides else ''}, batch {batch}, {rounds} rounds")
    print("| step | ms per image | quartiles | times as fast as the first |\n|---|---|---|---|")
    for timing in timings:
        quartiles = f"{timing.lower:.1f}-{timing.upper:.1f}"
        print(f"| {timing.contender} | {timing.milliseconds:.1f} | {quartiles} | {1 / timing.ratio:.2f} |")


def check_answers(answers: dict[str, list[Tensor]]) -> None:
    """Every road but the whole network's, which ends elsewhere, must lead to the same maps."""
    expected = answers["no more than needed"]
    for step, maps in list(answers.items())[1:]:
        for a, b in zip(maps, expected, strict=True):
            error = float((a.float() - b).std() / b.std())
            if error > (0.1 if "bf16" in step else 1e-3):
                raise SystemExit(f"{step}: differs by {error:.3g} of the maps' standard deviation")


def synchronised(
    maps: Callable[[Tensor], object], inputs: Sequence[Tensor], device: torch.device
) -> Callable[[int], object]:
    """A contender: one batch, and the wait until the device has done it."""

    def run(turn: int) -> None:
        maps(inputs[turn % len(inputs)])
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def print_speed(name: str, *, device: torch.device, batch: int, rounds: int) -> None:
    """Images per second of extraction and of whole detection in each precision, and the share of matrix throughput."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(batch + N_INPUTS)]
    default = choose_precision("auto", device=device, embedded=find_backbone(name).spec(None).embedded)
    for precision in ("fp32", "bf16"):
        config = ModelConfig(extractor=name, precision=precision)
        model = build_model(config, device=device, pretrained=False)
        features = model.features(images[:batch])
        model.normalisation.fit([features])
        x = torch.from_numpy(np.stack(images[:batch])).permute(0, 3, 1, 2).to(device)
        with FlopCounterMode(display=False) as counter:
            model.extractor(x)
        flops = counter.get_total_flops() / batch
        inputs = [laid_out(x.roll(shift, 0)) for shift in range(N_INPUTS)]
        extraction = per_second(synchronised(model.extractor, inputs, device), batch, rounds)
        detection = per_second(detecting(model, images, batch), batch, rounds)
        peak = matmul_throughput(precision, device)
        auto = " (auto)" if precision == default else ""
        print(
            f"{name}, {precision}{auto}, batch {batch}: "
            f"extraction {extraction:.2f} images/s, detection {detection:.2f} images/s; "
            f"{flops / 1e9:.1f} GFLOP per image, {extraction * flops / 1e12:.3f} of the {peak / 1e12:.3f} TFLOP/s "
            f"of a large matrix product, {extraction * flops / peak:.0%}"
        )


def detecting(model: Model, images: Sequence[np.ndarray], batch: int) -> Callable[[int], object]:
    """Whole detection of one batch, from images in memory to regions and masks."""
    laws = tuple(Background(c) for c in model.flow.embedding_channels)
    detector = Detector(laws, model.config.tests, model.flow.reach)
    return lambda turn: [(p.detections, p.mask) for p in predict(model, detector, images[turn % N_INPUTS :][:batch])]


def per_second(job: Callable[[int], object], n_items: int, rounds: int) -> float:
    """Items per second, the median of `rounds` after two that are not counted."""
    times = []
    for turn in range(rounds + 2):
        start = time.perf_counter()
        job(turn)
        times.append(time.perf_counter() - start)
    return n_items / statistics.median(times[2:])


def matmul_throughput(precision: str, device: torch.device) -> float:
    """Operations per second of one large matrix product, the best of thirty: others may be at work on the machine."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    multiply = synchronised(lambda x: x @ b, [a], device)
    multiply(0)
    best = min(timed(multiply) for _ in range(30))
    return 2 * side**3 / best


def timed(job: Callable[[int], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    job(0)
    return time.perf_counter() - start


def print_change(run_folder: Path, images: Path, *, device: torch.device) -> None:
    """Largest changes of anomaly score and log NFA between the run's model in single precision and in bfloat16."""
    run = load_run(run_folder)
    models = [load_model(replace(run, model=replace(run.model, precision=p)), device=device) for p in ("fp32", "bf16")]
    scores, maps, log_nfas, near, verdicts = [], [], [], [], 0
    paths = list_images(images, recursive=True)
    for path in paths:
        image = read_image(path)
        exact, fast = (predict(model, run.calibration.detector(model), [image])[0] for model in models)
        scores.append(abs(exact.anomaly_score - fast.anomaly_score))
        maps.append(float(np.abs(exact.score_map - fast.score_map).max()))
        log_nfas.append(abs(exact.log_nfa - fast.log_nfa) / max(1.0, abs(exact.log_nfa)))
        if abs(exact.log_nfa) < 10:
            near.append(abs(exact.log_nfa - fast.log_nfa))
        verdicts += exact.is_defect != fast.is_defect
    print(
        f"\n{run.model.extractor}, trained in {run.model.precision}, {len(paths)} images, fp32 beside bf16:\n"
        f"largest change of an image's anomaly score {max(scores):.4f}, of a pixel's {max(maps):.4f}\n"
        f"change of an image's log NFA relative to max(1, |log NFA|): median {statistics.median(log_nfas):.4f}, "
        f"largest {max(log_nfas):.4f}\n"
        f"largest change of log NFA where |log NFA| < 10: {max(near, default=0):.3f} ({len(near)} images)\n"
        f"verdicts at log NFA < 0 that changed: {verdicts}"
    )


if __name__ == "__main__":
    main()
