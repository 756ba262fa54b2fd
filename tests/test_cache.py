"""Kept features: the same as computed ones, never stale, whole after a kill, shared safely, within their limit."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from products import good_image

from uflow_cli.augmentation import Augmentation
from uflow_cli.cache import (
    GIB,
    CacheFolder,
    ComputedFeatures,
    ResidentFeatures,
    Shelf,
    default_folder,
    load_features,
    summarise,
    survey_images,
    with_views,
)
from uflow_cli.cache import shelf as shelf_module
from uflow_cli.cache.ahead import done_ahead
from uflow_cli.cache.record import RecordLayout, pack, unpack
from uflow_cli.cache.store import EXTRACTION_BATCH
from uflow_cli.config import ModelConfig
from uflow_cli.errors import ImageError, UflowError
from uflow_cli.features import weights_digest
from uflow_cli.images import write_png
from uflow_cli.model import Model, build_model

CPU = torch.device("cpu")
SIDE = 64


class CountingModel(Model):
    """A model that counts the images whose features it computes."""

    def features(self, images):
        counts[0] += len(images)
        return super().features(images)


counts = [0]


@pytest.fixture(scope="module")
def model():
    made = build_model(ModelConfig(input_size=SIDE), device=CPU)
    return CountingModel(made.config, made.extractor, made.normalisation, made.flow, made.device)


@pytest.fixture
def cache(tmp_path):
    return CacheFolder(tmp_path / "cache", limit=GIB)


@pytest.fixture
def paths(tmp_path):
    made = [tmp_path / "images" / f"{i:02d}.png" for i in range(11)]
    for i, path in enumerate(made):
        write_png(path, good_image(i, SIDE))
    return made


def load(model, paths, cache):
    """The store, and how many of the images it did not have to compute."""
    progress = []
    counts[0] = 0
    shelf = None if cache is None else Shelf(cache, model)
    sources = survey_images(paths, known=shelf, on_progress=lambda done, total: None)
    store = load_features(model, lambda epoch: sources, shelf=shelf, on_progress=lambda *p: progress.append(p))
    if cache is not None:
        assert progress[-1] == (len(paths), len(paths))
        assert progress == sorted(progress)
    return store, progress[0][0] if progress else 0


def read(store, indices=None):
    return store.read(range(len(store)) if indices is None else indices, device=CPU)


def assert_same(ours, theirs):
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def truth(model, paths):
    return read(load(model, paths, None)[0])


def only_shard(cache):
    (shard,) = cache.shards()
    return shard.path


def test_features_are_those_of_the_extractor_to_float16(model, paths, cache):
    images = [good_image(i, SIDE) for i in range(11)]
    for kept, exact in zip(read(load(model, paths, cache)[0]), model.features(images), strict=True):
        bound = torch.maximum(exact.abs() * 2**-11, exact.abs().amax(dim=(1, 2, 3), keepdim=True) * 2**-28)
        assert ((kept - exact).abs() <= bound).all()
        assert not torch.equal(kept, exact)


def test_second_run_computes_nothing_and_reads_the_same(model, paths, cache):
    first, found = load(model, paths, cache)
    assert found == 0
    assert counts[0] == 2 * EXTRACTION_BATCH  # 11 images, filled up
    second, found = load(model, paths, cache)
    assert found == len(paths)
    assert counts[0] == 0
    assert_same(read(first), read(second))


def test_cache_or_not_the_numbers_are_the_same(model, paths, cache):
    computed = load(model, paths, None)[0]
    assert isinstance(computed, ComputedFeatures)
    kept = load(model, paths, cache)[0]
    for indices in ([0], [10, 3, 3], range(11)):
        assert_same(read(computed, indices), read(kept, indices))
    assert kept.n_bytes == computed.n_bytes == 11 * kept.layout.n_bytes


def test_features_do_not_depend_on_what_else_was_missing(model, paths, cache):
    load(model, paths[4:7], cache)
    mixed, found = load(model, paths, cache)
    assert found == 3
    assert_same(read(mixed), truth(model, paths))


def test_features_on_a_device_are_the_same(model, paths, cache):
    kept = load(model, paths, cache)[0]
    resident = ResidentFeatures(kept, CPU)
    assert len(resident) == 11
    assert resident.n_bytes == kept.n_bytes
    assert_same(read(resident, [7, 0, 7]), read(kept, [7, 0, 7]))


def test_name_does_not_matter_content_does(model, paths, cache):
    load(model, paths, cache)
    moved = [path.rename(path.with_name(f"moved{path.name}")) for path in paths]
    assert load(model, moved, cache)[1] == 11
    before = moved[2].stat()
    write_png(moved[2], good_image(100, SIDE))
    os.utime(moved[2], ns=(before.st_atime_ns, before.st_mtime_ns))  # nobody may trust the clock
    store, found = load(model, moved, cache)
    assert found == 10
    assert_same(read(store), truth(model, moved))


def test_an_image_that_comes_twice_is_computed_once(model, paths, cache):
    (paths[1]).write_bytes(paths[0].read_bytes())
    store, _ = load(model, paths[:3], cache)
    assert counts[0] == EXTRACTION_BATCH
    assert summarise(cache)[0].n_images == 2
    assert_same(read(store), truth(model, paths[:3]))


def test_other_weights_other_features(model, paths, cache):
    load(model, paths, cache)
    other = build_model(model.config, device=CPU)
    with torch.no_grad():
        next(iter(other.extractor.backbone.parameters())).mul_(1.0001)
    other.extractor.digest = weights_digest(other.extractor.backbone)
    store, found = load(other, paths, cache)
    assert found == 0
    assert_same(read(store), truth(other, paths))
    assert load(model, paths, cache)[1] == 11


def test_other_input_size_other_features(model, paths, cache):
    load(model, paths, cache)
    store, found = load(build_model(ModelConfig(input_size=96), device=CPU), paths, cache)
    assert found == 0
    assert read(store)[0].shape[-1] == 96 // 8


@pytest.mark.parametrize("what", ["OPENCV_VERSION", "PREPROCESSING_VERSION", "FORMAT"])
def test_other_software_other_features(model, paths, cache, monkeypatch, what):
    load(model, paths, cache)
    monkeypatch.setattr(f"uflow_cli.cache.settings.{what}", -1)
    assert load(model, paths, cache)[1] == 0


KILLED = """
import os, pathlib, signal, sys, torch
from uflow_cli.cache import GIB, CacheFolder, Shelf, load_features, survey_images
from uflow_cli.config import ModelConfig
from uflow_cli.model import build_model
torch.set_num_threads(1)
folder, images, die_after = sys.argv[1:]
model = build_model(ModelConfig(input_size=64), device=torch.device("cpu"))
shelf = Shelf(CacheFolder(pathlib.Path(folder), GIB), model)
sources = survey_images(sorted(pathlib.Path(images).iterdir()), known=shelf, on_progress=lambda *_: None)
print("ready", flush=True)
sys.stdin.readline()
def on_progress(done, total):
    if done >= int(die_after):
        os.kill(os.getpid(), signal.SIGKILL)
load_features(model, lambda epoch: sources, shelf=shelf, on_progress=on_progress)
"""


def start(cache, paths, *, die_after):
    command = [sys.executable, "-c", KILLED, str(cache.path), str(paths[0].parent), str(die_after)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_kill_in_the_middle_loses_only_what_was_not_done(model, paths, cache):
    process = start(cache, paths, die_after=8)
    _, err = process.communicate("go\n", timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    size_then = only_shard(cache).stat().st_size
    store, found = load(model, paths, cache)
    assert found == 8
    assert cache.shards()[0].n_bytes < size_then  # what it had claimed and not filled is given back
    assert_same(read(store), truth(model, paths))
    assert load(model, paths, cache)[1] == 11


@pytest.mark.slow
def test_two_runs_at_once(model, paths, cache):
    runs = [start(cache, paths, die_after=1000) for _ in range(2)]
    for run in runs:
        assert run.stdout.readline() == "ready\n", run.stderr.read()
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    for run in runs:
        assert run.communicate(timeout=120)[1] == ""
        assert run.returncode == 0
    store, found = load(model, paths, cache)
    assert found == 11
    assert_same(read(store), truth(model, paths))


def flip_byte(path, position):
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("record", [0, 4, 10])
def test_damaged_record_is_noticed_and_computed_again(model, paths, cache, record):
    store, _ = load(model, paths, cache)
    n_bytes = store.layout.n_bytes
    del store
    path = only_shard(cache)
    flip_byte(path, path.stat().st_size - (11 - record) * n_bytes + 1234)
    store, found = load(model, paths, cache)
    assert found == 10
    assert_same(read(store), truth(model, paths))
    assert load(model, paths, cache)[1] == 11  # and is not asked for a third time


@pytest.mark.parametrize("damage", ["shorter", "no records", "no table", "empty", "no header", "torn table", "alien"])
def test_damaged_shard_is_never_trusted(model, paths, cache, damage):
    load(model, paths, cache)
    path = only_shard(cache)
    size = path.stat().st_size
    if damage == "no header":
        flip_byte(path, 3)
    elif damage == "torn table":
        for slot in range(11):
            flip_byte(path, 4096 + 40 * slot + slot)
    elif damage == "alien":
        path.write_bytes(np.random.default_rng(0).bytes(size))
    else:
        os.truncate(path, {"shorter": size - 1, "no records": 8192, "no table": 4100, "empty": 0}[damage])
    store, found = load(model, paths, cache)
    assert found == (10 if damage == "shorter" else 0)
    assert_same(read(store), truth(model, paths))


def test_least_recently_used_goes_first_and_what_is_used_never(model, paths, cache):
    stores = [load(model, paths[i : i + 1], cache)[0] for i in range(3)]
    shards = [shard.path for shard in cache.shards()]
    for path, seconds in zip(shards, (1000, 1002, 1001), strict=True):
        os.utime(path, (seconds, seconds))
    del stores[1:]  # the first, oldest, stays in use
    load(model, paths[2:3], cache)  # used once more, so that the second is now the oldest
    size = cache.shards()[0].n_bytes
    tight = replace(cache, limit=3 * size)
    load(model, paths[3:4], tight)
    left = [shard.path for shard in cache.shards()]
    assert shards[0] in left
    assert shards[1] not in left
    assert shards[2] in left
    assert sum(shard.n_bytes for shard in cache.shards()) <= tight.limit
    assert_same(read(stores[0]), truth(model, paths[:1]))


def test_what_does_not_fit_is_an_error_before_anything_is_removed_or_computed(model, paths, cache):
    used = load(model, paths[:2], cache)[0]
    load(model, paths[2:3], cache)
    before = cache.shards()
    with pytest.raises(UflowError, match=r"raise --cache-size.*--no-cache"):
        load(model, paths[3:], replace(cache, limit=sum(shard.n_bytes for shard in before)))
    assert counts[0] == 0
    assert cache.shards() == before
    assert_same(read(used), truth(model, paths[:2]))


def test_clear_removes_all_but_what_is_used(model, paths, cache):
    used = load(model, paths[:2], cache)[0]
    load(model, paths[2:], cache)
    removed, kept = cache.clear()
    assert removed > kept > 0
    assert len(cache.shards()) == 1
    assert_same(read(used), truth(model, paths[:2]))
    del used
    assert cache.clear() == (kept, 0)
    assert cache.shards() == []
    assert CacheFolder(cache.path / "none", limit=GIB).clear() == (0, 0)


def test_full_disk_is_an_error_before_the_work(model, paths, cache, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(UflowError, match=r"No space left.*--cache-dir"):
        load(model, paths, cache)
    assert cache.shards() == []
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(UflowError, match="its disk has 0 GiB free"):
        load(model, paths, cache)
    assert counts[0] == 0


def test_disk_that_fills_up_keeps_what_was_done(model, paths, cache, monkeypatch):
    """A quota, or a file system that cannot claim space."""
    write, n_writes = os.write, [0]

    def fills_up(descriptor, data):
        n_writes[0] += 1
        if n_writes[0] > 1 + 2 * EXTRACTION_BATCH + 1:  # header, records and their slots, and one record more
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(UflowError, match=r"quota.*--no-cache"):
        load(model, paths, cache)
    monkeypatch.undo()
    store, found = load(model, paths, cache)
    assert found == EXTRACTION_BATCH
    assert_same(read(store), truth(model, paths))


def test_folder_that_cannot_be_made_is_one_line(model, paths, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UflowError, match=r"cannot keep features in .*file.*--cache-dir"):
        load(model, paths, CacheFolder(tmp_path / "file" / "cache", limit=GIB))


def test_many_shards_hold_one_set(model, paths, cache, monkeypatch):
    monkeypatch.setattr(shelf_module, "SHARD_BYTES", 3 * Shelf(cache, model).layout.n_bytes)
    store, _ = load(model, paths, cache)
    assert len(cache.shards()) == 4
    assert_same(read(store), truth(model, paths))
    assert load(model, paths, cache)[1] == 11


@pytest.mark.parametrize("largest", [1e-30, 1e-3, 1.0, 65504.0, 1e6, 3e38])
def test_large_and_small_features_keep_their_precision(largest):
    layout = RecordLayout(((3, 4, 4), (5, 2, 2)))
    rng = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, *shape, generator=rng) for shape in layout.shapes]
    exact = [maps / maps.abs().amax(dim=(1, 2, 3), keepdim=True) * largest for maps in exact]
    kept = unpack(torch.from_numpy(pack(exact, layout)), layout)
    for a, b in zip(kept, exact, strict=True):
        assert ((a - b).abs() <= b.abs() * 2**-11 + largest * 2**-28).all()


def test_records_can_be_unpacked_exactly_once_packed():
    """What was rounded once is not rounded again: powers of two lose nothing."""
    layout = RecordLayout(((3, 4, 4),))
    once = unpack(torch.from_numpy(pack([1000 * torch.randn(5, 3, 4, 4)], layout)), layout)
    assert_same(unpack(torch.from_numpy(pack(once, layout)), layout), once)
    zero = [torch.zeros(1, 3, 4, 4)]
    assert_same(unpack(torch.from_numpy(pack(zero, layout)), layout), zero)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_features_that_are_no_numbers_are_refused(value):
    layout = RecordLayout(((1, 2, 2), (1, 1, 1)))
    maps = [torch.ones(2, 1, 2, 2), torch.ones(2, 1, 1, 1)]
    maps[1][1] = value
    with pytest.raises(UflowError, match="scale 2 are not finite"):
        pack(maps, layout)


def test_unreadable_images_are_all_counted_and_the_first_is_named(paths):
    paths[3].write_bytes(b"")
    paths[7].write_bytes(paths[7].read_bytes()[:100])
    paths[9].unlink()
    with pytest.raises(ImageError, match=r"03\.png.*and 2 more of 11 images"):
        survey_images(paths, known=None, on_progress=lambda *_: None)


def test_known_content_is_not_decoded_again(model, paths, cache, monkeypatch):
    load(model, paths[:9], cache)
    decoded = []
    monkeypatch.setattr("uflow_cli.cache.sources.decode_image", lambda data, path: decoded.append(path))
    survey_images(paths, known=Shelf(cache, model), on_progress=lambda *_: None)
    assert sorted(decoded) == paths[9:]


def test_image_that_changes_while_training_starts_is_an_error(model, paths, cache):
    shelf = Shelf(cache, model)
    sources = survey_images(paths, known=shelf, on_progress=lambda *_: None)
    write_png(paths[5], good_image(50, SIDE))
    with pytest.raises(ImageError, match=r"05\.png: the file changed"):
        load_features(model, lambda epoch: sources, shelf=shelf, on_progress=lambda *_: None)


def test_views_are_kept_and_drawn_anew_only_without_cache(model, paths, cache):
    sources = survey_images(paths[:4], known=None, on_progress=lambda *_: None)
    augmentation = Augmentation(("tilts",), n_views=3, seed=1)

    def sources_of(epoch):
        return with_views(sources, [2, 0], augmentation, epoch=epoch)

    progress = []
    kept = load_features(model, sources_of, shelf=Shelf(cache, model), on_progress=lambda *p: progress.append(p))
    computed = load_features(model, sources_of, shelf=None, on_progress=lambda *_: None)
    assert len(kept) == len(computed) == 4 + 2 * 2
    assert_same(read(kept), read(computed))
    before = read(kept)
    kept.start_epoch(1)
    computed.start_epoch(1)
    assert_same(read(kept), before)
    assert_same(read(computed, range(4)), [maps[:4] for maps in before])  # held-out images never change
    assert not any(torch.equal(read(computed, [i])[0][0], before[0][i]) for i in range(4, 8))
    again = []
    load_features(model, sources_of, shelf=Shelf(cache, model), on_progress=lambda *p: again.append(p))
    assert again == [(8, 8)]


def test_work_ahead_keeps_order_raises_and_does_not_run_away():
    started = []

    def work(i):
        started.append(i)
        if i == 30:
            raise KeyError(i)
        return i * i

    results = done_ahead(work, iter(range(10**9)), ahead=4)
    assert [next(results) for _ in range(10)] == [i * i for i in range(10)]
    assert max(started) <= 10 + 4
    with pytest.raises(KeyError):
        list(results)


def test_default_folder_is_the_systems(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "uflow"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder({}) == tmp_path / ".cache" / "uflow"
