"""One row of the comparison: train a method, score the images, measure. Meant for a process of its own."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from peers_differnet import EPOCHS, DifferNet, turned_vectors
from peers_images import BATCH, InputImages, Selection, true_masks
from peers_measures import Scored, measure
from peers_spade import Spade
from peers_weights import resnet_backbone

from uflow_cli.cache import GIB, CacheFolder
from uflow_cli.config import ModelConfig
from uflow_cli.detection.prediction import SCORE_SIZE, predict
from uflow_cli.features import ExtractorSpec, build_extractor
from uflow_cli.images import read_image
from uflow_cli.presets import resolve
from uflow_cli.run.log import Epoch
from uflow_cli.run.record import load_model, load_run
from uflow_cli.training import Silent, train

CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One row to run."""

    method: str
    weights: Path | None  # of the extractor; None: uflow's EfficientNet-Lite0
    input_size: int
    epochs: int | None  # None: the method's own number
    seed: int
    folder: Path  # for what training leaves
    coreset: float = 0.1  # of PatchCore: the share of all patches that it keeps; anomalib's default


@dataclass(frozen=True)
class Trained:
    """A trained method: how it scores images, and what is to be said about it."""

    score: Callable[[Sequence[Path]], Scored]
    facts: dict[str, str]


@dataclass(frozen=True)
class Result:
    """The figures of one row."""

    facts: dict[str, str]
    measures: dict[str, float]
    training_seconds: float  # from images on disk to a model that can score, wall
    training_cpu_seconds: float
    seconds_per_image: float  # from test images on disk to maps and scores, wall
    cpu_seconds_per_image: float
    peak_memory_mib: float  # of the process, through training and scoring


def run_row(job: Job, selection: Selection) -> Result:
    """Train, score and measure."""
    train_method: Callable[[Job, Selection], Trained] = train_uflow
    if job.method == "spade":
        train_method = train_spade
    elif job.method == "differnet":
        train_method = train_differnet
    elif job.method != "uflow":
        from peers_anomalib import train_peer  # anomalib is an optional dependency, and takes seconds to import

        train_method = train_peer
    torch.manual_seed(job.seed)
    trained, training_times = timed(lambda: train_method(job, selection))
    test, test_times = timed(lambda: trained.score([item.path for item in selection.test]))
    memory = peak_memory()
    measures = measure(
        test, true_masks(selection.test), [not item.is_good for item in selection.test],
        training=trained.score(selection.training), held_out=trained.score(selection.held_out), seed=job.seed,
    )  # fmt: skip
    n_test = len(selection.test)
    return Result(trained.facts, measures, *training_times, test_times[0] / n_test, test_times[1] / n_test, memory)


def timed(work: Callable[[], T]) -> tuple[T, tuple[float, float]]:
    """The result of `work`, and its wall and processor time in seconds."""
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    return result, (time.monotonic() - wall, time.process_time() - cpu)


def peak_memory() -> float:
    """Highest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had before exec
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


class LogObserver(Silent):
    """Prints epochs, so that the row's log shows how training goes."""

    def on_epoch(self, record: Epoch) -> None:
        """Print the epoch."""
        print(
            f"epoch {record.epoch}/{record.n_epochs}: {record.loss:.4f}, held out {record.held_out_loss:.4f}",
            flush=True,
        )


def plain_config(job: Job) -> ModelConfig:
    """The extractor of the method alone, at one input size."""
    if job.weights is None:
        return ModelConfig(input_size=job.input_size, precision="fp32")
    return ModelConfig(
        extractor=resnet_backbone(job.weights).name, weights=(str(job.weights),), input_size=job.input_size,
        precision="fp32",
    )  # fmt: skip


def uflow_settings(job: Job, n_images: int) -> dict[str, Any]:
    """What `uflow train` takes by itself for so many good images, with the extractor and the conditions of `job`."""
    plain = plain_config(job)
    settings = {key: getattr(plain, key) for key in ("extractor", "weights", "input_size", "precision")}
    settings |= {"fit": "squash", "seed": job.seed, "batch_size": BATCH}
    model_config, config = resolve(settings | ({"epochs": job.epochs} if job.epochs else {}), n_images=n_images)
    return {"model_config": model_config, "config": config}


def extractor_facts(job: Job, spec: ExtractorSpec) -> dict[str, str]:
    """A remark about uflow's own extractor."""
    return {
        "extractor": spec.name,
        "weights": ", ".join(source.home for source in spec.sources) if job.weights is None else job.weights.name,
        "features": f"strides {', '.join(map(str, spec.strides))}",
    }


def train_uflow(job: Job, selection: Selection) -> Trained:
    """uflow as `uflow train` trains it, on all good images: it holds out its part itself, by the same seed."""
    settings = uflow_settings(job, len(selection.good))
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:  # no features of earlier runs
        result = train(
            selection.good, out=job.folder / f"uflow-{settings['model_config'].extractor}", dataset="comparison",
            category="comparison", device=CPU, observer=LogObserver(), overwrite=True,
            cache=CacheFolder(Path(folder), limit=50 * GIB), **settings,
        )  # fmt: skip
    run = load_run(result.folder)
    model = load_model(run, device=CPU)
    detector = run.calibration.detector(model)

    def score(paths: Sequence[Path]) -> Scored:
        maps, scores, log_nfa_maps, log_nfas = [], [], [], []
        for start in range(0, len(paths), BATCH):
            images = [read_image(path) for path in paths[start : start + BATCH]]
            for prediction in predict(model, detector, images):
                maps.append(prediction.score_map)
                scores.append(prediction.anomaly_score)
                log_nfa_maps.append(prediction.log_nfa_map)
                log_nfas.append(prediction.log_nfa)
        return Scored(tuple(maps), tuple(scores), tuple(log_nfa_maps), tuple(log_nfas))

    progress = result.progress
    return Trained(score, {
        **extractor_facts(job, model.extractor.spec),
        **({"features": settings["model_config"].scales} if settings["model_config"].scales else {}),
        "training": f"{progress.epochs_done} epochs, batch {BATCH}; held-out images chose {progress.best_epoch}",
        "image score": "third power mean of the evidence",
    })  # fmt: skip


def train_spade(job: Job, selection: Selection) -> Trained:
    """SPADE on uflow's own extractor: the features of the good images are all of it."""
    extractor = build_extractor(plain_config(job), device=CPU)

    def features(paths: Sequence[Path]) -> list[torch.Tensor]:
        batches = InputImages(paths, input_size=job.input_size).batches()
        maps = [extractor((images * 255).round().to(torch.uint8)) for images in batches]
        return [torch.cat(scale) for scale in zip(*maps, strict=True)]

    spade = Spade(features(selection.training))

    def score(paths: Sequence[Path]) -> Scored:
        maps: list[np.ndarray] = []
        scores: list[float] = []
        for path in paths:  # one at a time: a cell is compared with those of 50 images
            image_scores, cells = spade.score(features([path]))
            maps += list(F.interpolate(cells[:, None], SCORE_SIZE, mode="bilinear", align_corners=False)[:, 0].numpy())
            scores += image_scores.tolist()
        return Scored(tuple(maps), tuple(scores))

    return Trained(score, {
        **extractor_facts(job, extractor.spec),
        "training": "none: the features of all training images",
        "image score": "mean distance to the 50 nearest images",
    })  # fmt: skip


def train_differnet(job: Job, selection: Selection) -> Trained:
    """DifferNet on uflow's own extractor; it scores images and gives no maps."""
    extractor, epochs = build_extractor(plain_config(job), device=CPU), job.epochs or EPOCHS

    def vectors(paths: Sequence[Path]) -> torch.Tensor:
        batches = InputImages(paths, input_size=job.input_size).batches()
        return torch.cat([turned_vectors(images, extractor) for images in batches])

    differnet = DifferNet(vectors(selection.training), epochs=epochs, seed=job.seed)
    published = f" (published: {EPOCHS})" if epochs != EPOCHS else ""
    spec = extractor.spec
    return Trained(lambda paths: Scored((), tuple(differnet.score(vectors(paths)).tolist())), {
        **extractor_facts(job, spec),
        "features": f"stride {spec.strides[-1]} of the image at sizes 1, 1/2, 1/4, averaged",
        "training": f"{epochs} epoch(s){published}, batch 96 of the four quarter turns, Adam 2e-4",
        "image score": "mean of |z|^2 / 2 over the four quarter turns; no maps",
    })  # fmt: skip


def score_by(forward: Callable[[torch.Tensor], Any], input_size: int) -> Callable[[Sequence[Path]], Scored]:
    """A scorer from a model that maps (B, 3, S, S) in 0..1 to something with `anomaly_map` and `pred_score`."""

    @torch.inference_mode()
    def score(paths: Sequence[Path]) -> Scored:
        maps: list[np.ndarray] = []
        scores: list[float] = []
        for images in InputImages(paths, input_size=input_size).batches():
            output = forward(images)
            anomaly_map = output.anomaly_map.reshape(len(images), 1, *output.anomaly_map.shape[-2:]).float()
            resized = F.interpolate(anomaly_map, SCORE_SIZE, mode="bilinear", align_corners=False)
            maps += list(resized[:, 0].numpy())
            scores += output.pred_score.flatten().tolist()
        return Scored(tuple(maps), tuple(scores))

    return score
