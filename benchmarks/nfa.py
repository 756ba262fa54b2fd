"""Speed of the a contrario engine beside the max-trees of other libraries, on one core.

    python benchmarks/nfa.py [--quick] [--json FILE]

Ours is timed as a whole, from U to maps and regions, at the Python border (inputs validated, outputs allocated); higra
and scikit-image are timed for their max-tree alone, higra with its graph made beforehand. Inputs rotate, so that the
processor cannot learn one map; contenders take turns, so that all see the same machine; a ratio is the median over
rounds with its quartiles. Times are processor time of one thread. Every contender's answer is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import higra
import numpy as np
from scipy import ndimage
from skimage.morphology import max_tree as skimage_max_tree

from uflow_cli.detection import nfa

DEGREES = 64
BACKGROUND = [nfa.Background(DEGREES)]
ROUNDS = {28: 15, 56: 15, 256: 9, 1024: 5, 4096: 2}
MAPS = {28: 200, 56: 60, 256: 8, 1024: 2, 4096: 1}
BATCH = 16  # maps of one call, beside one at a time
TARGETS = {28: 14, 256: 40, 1024: 82, 4096: 150}  # ns/pixel of the best tree alone that we know of

Contender = Callable[[np.ndarray], object]


def make_map(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """U with mean DEGREES and the spread of its law: independent cells, blurred noise, or a 1/f spectrum."""
    if kind == "noise":
        return rng.chisquare(DEGREES, (side, side)).astype(np.float32)
    if kind == "smooth":
        field = ndimage.gaussian_filter(rng.standard_normal((side, side)), 2)
    else:
        frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
        frequency[0, 0] = 1
        phases = rng.standard_normal((2, side, side // 2 + 1))
        field = np.fft.irfft2((phases[0] + 1j * phases[1]) / frequency, (side, side))
    spread = np.sqrt(2 * DEGREES)
    return ((field - field.mean()) / field.std() * spread + DEGREES).clip(0).astype(np.float32)


def whole_step(u: np.ndarray, tail: nfa.Tail = "chernoff") -> nfa.AContrario:
    """From U to maps and regions."""
    return nfa.a_contrario([u[None]], background=BACKGROUND, tail=tail, n_threads=1)


def make_contenders(side: int) -> dict[str, Contender]:
    """Ours first: the ratios are to it. "published" floods all pixels, not only those above the mean."""
    graph = higra.get_4_adjacency_graph((side, side))
    contenders: dict[str, Contender] = {
        "uflow": whole_step,
        "uflow published": partial(whole_step, tail="published"),
        "uflow tree": nfa.max_tree,
        "higra tree": partial(higra.component_tree_max_tree, graph),
    }
    if side <= 1024:  # minutes above
        contenders["skimage tree"] = partial(skimage_max_tree, connectivity=1)
    return contenders


def check_answers(u: np.ndarray, contenders: dict[str, Contender]) -> None:
    """All trees have the same nodes; our regions are as large as their labels say."""
    for name in ("uflow", "uflow published"):
        found = contenders[name](u)
        assert isinstance(found, nfa.AContrario)
        labels = found.labels[0]
        assert (np.bincount(labels[labels >= 0], minlength=len(found.regions)) == found.regions.area).all()
    tree = nfa.max_tree(u)
    n_nodes = int(tree.canonical.sum())
    other, _ = higra.component_tree_max_tree(higra.get_4_adjacency_graph(u.shape), u)
    assert other.num_vertices() - other.num_leaves() == n_nodes
    if "skimage tree" in contenders:
        parent, order = skimage_max_tree(u, connectivity=1)
        flat = u.ravel()
        assert int((flat[parent.ravel()] != flat).sum()) + 1 == n_nodes
        assert flat[order[0]] == flat[tree.order[0]]


def time_of(contender: Contender, maps: Sequence[np.ndarray]) -> float:
    """Nanoseconds per pixel."""
    start = time.thread_time_ns()
    for u in maps:
        contender(u)
    return (time.thread_time_ns() - start) / sum(u.size for u in maps)


def quartiles(values: Sequence[float]) -> list[float]:
    """Median, lower and upper quartile."""
    return [float(q) for q in np.quantile(values, [0.5, 0.25, 0.75])]


def compare(kind: str, side: int, *, rounds: int) -> dict[str, object]:
    """Interleaved rounds of all contenders; ns/pixel and the others' time over ours."""
    rng = np.random.default_rng(side)
    maps = [make_map(kind, side, rng) for _ in range(MAPS[side])]
    contenders = make_contenders(side)
    check_answers(maps[0], contenders)
    batches = [np.stack(maps[start : start + BATCH]) for start in range(0, len(maps), BATCH)]
    together = partial(nfa.a_contrario, background=BACKGROUND, n_threads=1)
    name_together = f"uflow, {BATCH} maps a call"
    times: dict[str, list[float]] = {name: [] for name in ("uflow", name_together, *contenders)}
    for _ in range(rounds):
        for name, contender in contenders.items():
            times[name].append(time_of(contender, maps))
        times[name_together].append(time_of(lambda u: together([u]), batches))
    ours = np.array(times["uflow"])
    return {
        "kind": kind,
        "side": side,
        "ns_per_pixel": {name: min(values) for name, values in times.items()},
        "ratio": {name: quartiles(np.array(values) / ours) for name, values in times.items() if name != "uflow"},
    }


def paper_shapes(*, rounds: int) -> dict[str, float]:
    """Microseconds per image at the paper's grids, 816 x 28^2 and 192 x 14^2, one thread, batches of 16."""
    rng = np.random.default_rng(0)
    laws = [nfa.Background(816), nfa.Background(192)]
    u = [rng.chisquare(816, (16, 28, 28)).astype(np.float32), rng.chisquare(192, (16, 14, 14)).astype(np.float32)]
    detect = partial(nfa.a_contrario, background=laws, n_threads=1)
    single = [norm[:1] for norm in u]
    jobs: dict[str, tuple[int, Callable[[], object]]] = {
        "from U": (16, lambda: detect(u)),
        "from U, one image at a time": (1, lambda: detect(single)),
    }
    best = dict.fromkeys(jobs, np.inf)
    for _ in range(3 * rounds):
        for name, (images, job) in jobs.items():
            start = time.thread_time_ns()
            for _ in range(16 // images):
                job()
            best[name] = min(best[name], (time.thread_time_ns() - start) / 16e3)
    return {name: float(value) for name, value in best.items()}


def peak_memory(kind: str, side: int = 4096) -> float:
    """Bytes per pixel at the peak of one call beyond input and output, seen from a process of its own (Linux)."""
    u = make_map(kind, side, np.random.default_rng(0))
    whole_step(u[:64, :64].copy())
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    held = kib_of("VmRSS")
    found = whole_step(u)
    columns = sum(getattr(found.regions, name).nbytes for name in nfa.Regions.__dataclass_fields__)
    output = found.labels[0].nbytes + columns
    return float(1024 * (kib_of("VmHWM") - held) - output) / u.size


def kib_of(field: str) -> int:
    """A field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def print_comparison(row: dict[str, object]) -> None:
    """One block per kind and side."""
    ns, ratio = row["ns_per_pixel"], row["ratio"]
    assert isinstance(ns, dict)
    assert isinstance(ratio, dict)
    target = TARGETS.get(int(str(row["side"])))
    mark = f"  ({ns['uflow'] / target:.2f} x {target})" if target else ""
    print(f"{row['kind']} {row['side']}^2: whole step {ns['uflow']:.1f} ns/pixel{mark}")
    for name, (median, low, high) in ratio.items():
        print(f"    {name:24} {ns[name]:8.1f} ns/pixel   {median:6.2f} x ours ({low:.2f} to {high:.2f})")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", choices=sorted(ROUNDS), default=sorted(ROUNDS))
    parser.add_argument("--quick", action="store_true", help="a third of the rounds, nothing above 1024^2")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(peak_memory(options.memory_of))
        return

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    result: dict[str, object] = {"version": 1, "machine": platform.processor() or platform.machine()}
    rows = []
    for side in options.sides:
        if options.quick and side > 1024:
            continue
        for kind in ("noise", "smooth", "natural"):
            rows.append(compare(kind, side, rounds=max(2, ROUNDS[side] // (3 if options.quick else 1))))
            print_comparison(rows[-1])
    result["comparison"] = rows
    shapes = paper_shapes(rounds=3 if options.quick else 10)
    result["paper_shapes_us_per_image"] = shapes
    print("816 x 28^2 + 192 x 14^2, microseconds per image:")
    for name, microseconds in shapes.items():
        print(f"    {name:28} {microseconds:8.1f}")
    if not options.quick:
        memory = {
            kind: float(subprocess.check_output([sys.executable, __file__, "--memory-of", kind]))
            for kind in ("noise", "smooth", "natural")
        }
        result["bytes_per_pixel_beyond_input_and_output"] = memory
        print("memory at 4096^2:", ", ".join(f"{kind} {b:.1f} bytes/pixel" for kind, b in memory.items()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
