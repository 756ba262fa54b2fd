"""What commands are broken at: what there is before each, how it is given, and what it must leave."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from fault_injection import Scenario, Stage, contents, without_clock

from uflow_cli.images import encode_png
from uflow_cli.results import LINES_NAME
from uflow_cli.run.record import is_run
from uflow_cli.run.state import has_state

SIDE = 64


def texture(seed: int, *, defect: bool = False) -> bytes:
    """A PNG of stripes and noise, with a flat square in it where there is to be a defect."""
    rng = np.random.default_rng(seed)
    stripes = 110 + 40 * np.sin(2 * np.pi * (np.arange(SIDE) / 12 + rng.random()))
    image = np.clip(stripes + rng.normal(0, 6, (SIDE, SIDE)), 0, 255).astype(np.uint8)
    if defect:
        image[20:40, 20:40] = 255
    return encode_png(np.repeat(image[..., None], 3, axis=2))


def write_images(folder: Path, seeds: range, *, defects: bool = False) -> None:
    """Files of `texture`."""
    folder.mkdir(parents=True)
    for seed in seeds:
        (folder / f"{seed:03d}.png").write_bytes(texture(seed, defect=defects))


@contextmanager
def at_an_address(data: bytes) -> Iterator[str]:
    """Serve `data` at an address of this machine, also from any byte on."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            for begin in range(start, len(data), 65536):
                self.wfile.write(data[begin : begin + 65536])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # of clients that are killed
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/parts.tar"
        server.shutdown()


def archive(root: Path) -> bytes:
    """The product below `root` as a tar, with some noise to make it large."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        packed.add(root, arcname=".")
        noise = np.random.default_rng(0).bytes(2_000_000)
        told = tarfile.TarInfo("noise.bin")
        told.size = len(noise)
        packed.addfile(told, io.BytesIO(noise))
    return stream.getvalue()


def write_product(folder: Path, *, n_good: int = 20) -> None:
    """A product in the layout of MVTec."""
    write_images(folder / "train" / "good", range(n_good))
    write_images(folder / "test" / "good", range(100, 102))
    write_images(folder / "test" / "spot", range(200, 202), defects=True)
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    mask[20:40, 20:40] = True
    (folder / "ground_truth" / "spot").mkdir(parents=True)
    for seed in range(200, 202):
        (folder / "ground_truth" / "spot" / f"{seed:03d}_mask.png").write_bytes(encode_png(mask))


TRAINING = ("--epochs", 2, "--batch-size", 8, "--input-size", SIDE, "--learning-rate", 3e-4, "--flow-precision", "fp32",
            "--device", "cpu")  # fmt: skip


def write_base(stage: Stage, base: Path) -> None:
    """What the scenarios begin with: two products and a run of each, one of them exported too, images and results."""
    for category in ("bolt", "nut"):
        write_product(base / "data" / category)
        words = ["train", "--dataset", "mvtec", "--category", category, "--data-root", base / "data", *TRAINING]
        stage.all(Scenario("train", Path.mkdir, lambda _f, c=category, w=words: [*w, "--out", base / "runs" / c]), base)
    write_images(base / "images" / "lot", range(300, 304))
    write_images(base / "images" / "lot_with_defects", range(400, 403), defects=True)
    write_images(base / "fresh", range(500, 516))
    run = base / "runs" / "bolt"
    for name, words in {
        "exported": ["export", "--model", run, "--out", base / "exported"],
        "detected": ["detect", base / "images", "--model", run, "--out", base / "detected"],
    }.items():
        stage.all(Scenario(name, Path.mkdir, lambda _folder, w=words: w), base)


def scenarios(base: Path, address: str, checkpoint: Path | None) -> list[Scenario]:
    """All commands that write, from what `write_base` wrote; `import` where there is a checkpoint to read."""
    run, data, images = base / "runs" / "bolt", base / "data", base / "images"

    def nothing(_folder: Path) -> None:
        """Begin with an empty folder."""

    def with_copies(*names: str) -> Callable[[Path], None]:
        def begin(folder: Path) -> None:
            for name in names:
                shutil.copytree(base / name, folder / name)

        return begin

    def train(folder: Path) -> list[object]:
        if has_state(folder / "run") or is_run(folder / "run"):
            return ["train", "--resume", folder / "run", "--device", "cpu"]
        return ["train", "--images", data / "bolt" / "train" / "good", "--out", folder / "run", *TRAINING]

    def train_anew(folder: Path) -> list[object]:
        if has_state(folder / "runs" / "bolt"):
            return ["train", "--resume", folder / "runs" / "bolt", "--device", "cpu"]
        return ["train", "--images", data / "bolt" / "train" / "good", "--out", folder / "runs" / "bolt", *TRAINING,
                "--seed", 1, "--overwrite"]  # fmt: skip

    def watch(folder: Path) -> list[object]:
        return ["watch", folder / "images", "--model", run, "--out", folder / "out", "--move-good", folder / "good",
                "--move-defect", folder / "defect", "--poll", 0.02, "--settle", 0, "--quiet"]  # fmt: skip

    def is_all_moved(folder: Path) -> bool:
        return not list((folder / "images").rglob("*.png"))

    def each_once(folder: Path) -> object:
        lines = [json.loads(line) for line in (folder / "out" / LINES_NAME).read_text().splitlines()]
        names = sorted(Path(line["source"]).relative_to(folder).as_posix() for line in lines)
        return names, sorted(name for name in contents(folder) if not name.endswith(LINES_NAME))

    def detect(*more: object) -> Callable[[Path], list[object]]:
        return lambda folder: ["detect", images, "--model", run, "--out", folder / "out", *more, "--quiet"]

    def check(name: str) -> Callable[[Path], list[object]]:
        return lambda folder: ["check", "--model", folder / name, "--images", base / "fresh", "--recalibrate"]

    def without_backup(folder: Path) -> object:
        files = without_clock(contents(folder))  # where it was killed late, the backup is of what it had made
        return {name: data for name, data in files.items() if "before-recalibration" not in name}

    evaluate = ["evaluate", "--data-root", data, "--device", "cpu"]
    every = [
        Scenario("train", nothing, train),
        Scenario("train --overwrite", with_copies("runs/bolt"), train_anew),
        Scenario("detect --resume", nothing, detect("--resume")),
        Scenario("detect --report", with_copies("detected"),
                 lambda f: ["detect", images, "--model", run, "--out", f / "detected", "--report", f / "page"]),
        Scenario("watch", with_copies("images"), watch, is_all_moved, each_once),
        Scenario("download", nothing,
                 lambda f: ["download", "mvtec", "--accept-licence", "--data-root", f / "data"], address=address),
        Scenario("check --recalibrate", with_copies("runs/bolt"), check("runs/bolt"), outcome=without_backup),
        Scenario("check --recalibrate, exported", with_copies("exported"), check("exported"), outcome=without_backup),
        Scenario("evaluate --report", with_copies("runs/bolt"),
                 lambda folder: [*evaluate, "--model", folder / "runs" / "bolt", "--report", folder / "page"],
                 leaves_litter=True),
        Scenario("evaluate --category all", with_copies("runs"),
                 lambda folder: [*evaluate, "--dataset", "mvtec", "--category", "all", "--model", folder / "runs"],
                 leaves_litter=True, n_products=2),
        Scenario("export --out", nothing, lambda folder: ["export", "--model", run, "--out", folder / "exported"],
                 leaves_litter=True),
        Scenario("report", with_copies("detected"), lambda f: ["report", f / "detected", "--to", f / "page"]),
    ]  # fmt: skip
    if checkpoint is not None:
        words = ["import", checkpoint, "--dataset", "mvtec", "--category", "bolt", "--device", "cpu", "--overwrite"]
        every += [
            Scenario("import", nothing, lambda folder: [*words, "--out", folder / "run"]),
            Scenario("import --overwrite", with_copies("runs/bolt"), lambda f: [*words, "--out", f / "runs" / "bolt"]),
        ]
    return every
