"""Fixtures that several test files share: a small product and a run trained on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from products import SMALL_MODEL, SMALL_TRAINING, Recorder, defective_image, files_in, good_image, shared_cache

from uflow_cli.export import export_run
from uflow_cli.images import write_png
from uflow_cli.run.record import load_run
from uflow_cli.training import train

torch.set_num_threads(1)  # small tensors gain nothing from more, and tests beside each other lose


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test touches the user's cache, and no training of the command line ends with a graph unless a test wants it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UFLOW_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("UFLOW_GRAPH", "0")
        yield


@pytest.fixture
def recorder() -> Recorder:
    return Recorder([])


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`stripes`, a category in MVTec layout: 20 good images to train on, 4 good and 4 defective ones to test on."""
    root = tmp_path_factory.mktemp("product")
    folder = root / "stripes"
    for i in range(20):
        write_png(folder / "train" / "good" / f"{i:03d}.png", good_image(i))
    for i in range(4):
        write_png(folder / "test" / "good" / f"{i:03d}.png", good_image(100 + i))
        image, mask = defective_image(200 + i)
        write_png(folder / "test" / "spot" / f"{i:03d}.png", image)
        write_png(folder / "ground_truth" / "spot" / f"{i:03d}_mask.png", mask)
    return root


@pytest.fixture(scope="session")
def small_run(product: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run trained for four epochs on `product`. Read only, which is checked at the end."""
    out = tmp_path_factory.mktemp("runs") / "stripes"
    paths = sorted((product / "stripes" / "train" / "good").iterdir())
    train(
        paths, out=out, dataset="mvtec", category="stripes", model_config=SMALL_MODEL, config=SMALL_TRAINING,
        device=torch.device("cpu"), observer=Recorder([]),
        cache=shared_cache(),
    )  # fmt: skip
    made = files_in(out)
    yield out
    assert files_in(out) == made, "a test wrote into small_run"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Image files of the product that no run knows: two good ones and a defective one. Read only."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, image in (("a", good_image(800)), ("b", good_image(801)), ("c", defective_image(802)[0])):
        write_png(folder / f"{name}.png", image)
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def graph_run(small_run: Path, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`small_run` with its graph. Read only, which is checked at the end."""
    folder = Path(shutil.copytree(small_run, tmp_path_factory.mktemp("graphs") / "stripes"))
    export_run(load_run(folder), photographs, which="test images")
    made = files_in(folder)
    yield folder
    assert files_in(folder) == made, "a test wrote into graph_run"
