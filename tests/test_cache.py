"""Kept features: the same as computed ones, never stale, whole after a kill, shared safely, within their limit."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from products import good_image

from uflow_cli.cache import (
    EXTRACTION_BATCH,
    GIB,
    OLD_SUFFIX,
    CacheFolder,
    ComputedFeatures,
    FeatureCache,
    ResidentFeatures,
    load_features,
)
from uflow_cli.config import ModelConfig
from uflow_cli.errors import ImageError, UflowError
from uflow_cli.features import weights_digest
from uflow_cli.features.records import RecordLayout, pack, unpack
from uflow_cli.files import default_folder
from uflow_cli.images import Augmentation, done_ahead, survey_images, with_views, write_png
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
    kept = None if cache is None else FeatureCache(cache, model)
    sources = survey_images(paths, known=kept, on_progress=lambda done, total: None)
    store = load_features(model, lambda epoch: sources, cache=kept, on_progress=lambda *p: progress.append(p))
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


def file_of(model, path, cache):
    """The file that holds the features of the image at `path`."""
    (source,) = survey_images([path], known=None, on_progress=lambda *_: None)
    (found,) = cache.path.glob(f"*/{source.key.hex()}.f16")
    return found


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
    assert cache.summarise()[0].n_images == 2
    assert_same(read(store), truth(model, paths[:3]))


def test_other_weights_other_features(model, paths, cache):
    load(model, paths, cache)
    other = build_model(model.config, device=CPU)
    with torch.no_grad():
        next(iter(other.extractor.backbone.parameters())).mul_(1.0001)
    other.extractor.digest = weights_digest(other.extractor.backbone.state_dict())
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
    monkeypatch.setattr(f"uflow_cli.cache.{what}", -1)
    assert load(model, paths, cache)[1] == 0


KILLED = """
import os, pathlib, signal, sys, torch
from uflow_cli.cache import GIB, CacheFolder, FeatureCache, load_features
from uflow_cli.config import ModelConfig
from uflow_cli.images import survey_images
from uflow_cli.model import build_model
torch.set_num_threads(1)
folder, images, die_after = sys.argv[1:]
model = build_model(ModelConfig(input_size=64), device=torch.device("cpu"))
cache = FeatureCache(CacheFolder(pathlib.Path(folder), GIB), model)
sources = survey_images(sorted(pathlib.Path(images).iterdir()), known=cache, on_progress=lambda *_: None)
print("ready", flush=True)
sys.stdin.readline()
def on_progress(done, total):
    if done >= int(die_after):
        os.kill(os.getpid(), signal.SIGKILL)
load_features(model, lambda epoch: sources, cache=cache, on_progress=on_progress)
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
    litter = cache.files()[0].name.partition("/")[0] + "/.a1b2c3d4.tmp"  # what a kill while writing leaves
    (cache.path / litter).write_bytes(b"half")
    store, found = load(model, paths, cache)
    assert found == 8
    assert not (cache.path / litter).exists()
    assert len(list(cache.path.glob("in-use/*.json"))) == 1  # ours; that of the killed run is gone
    assert_same(read(store), truth(model, paths))
    assert load(model, paths, cache)[1] == 11


def test_what_a_kill_left_beside_the_folders_goes_when_nobody_may_write_there(tmp_path):
    cache, litter = CacheFolder(tmp_path, GIB), tmp_path / ".a1b2c3d4.tmp"
    lease = cache.reserve(["other/1.f16"], record_bytes=1)
    litter.touch()
    second = cache.reserve(["a/1.f16"], record_bytes=1)
    assert litter.exists()  # the other may be writing it
    del lease, second
    cache.reserve(["a/1.f16"], record_bytes=1)
    assert not litter.exists()


def test_a_forked_process_does_not_end_the_lease_that_it_inherits(tmp_path):
    lease = CacheFolder(tmp_path, GIB).reserve([], record_bytes=1)
    child = os.fork()
    if child == 0:
        lease._finalizer()  # as when garbage is collected there
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.glob("in-use/*.json"))) == 1
    lease._finalizer()
    assert not list(tmp_path.glob("in-use/*.json"))


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


@pytest.mark.parametrize("position", [0, 1234, -4, -1])
def test_damaged_record_is_noticed_and_computed_again(model, paths, cache, position):
    load(model, paths, cache)
    path = file_of(model, paths[4], cache)
    flip_byte(path, position % path.stat().st_size)
    store, found = load(model, paths, cache)
    assert found == 10
    assert_same(read(store), truth(model, paths))
    assert load(model, paths, cache)[1] == 11  # and is not asked for a third time


@pytest.mark.parametrize("damage", ["shorter", "longer", "no checksum", "empty", "alien", "another image's"])
def test_damaged_file_is_never_trusted(model, paths, cache, damage):
    load(model, paths, cache)
    path = file_of(model, paths[4], cache)
    size = path.stat().st_size
    if damage == "alien":
        path.write_bytes(np.random.default_rng(0).bytes(size))
    elif damage == "another image's":
        path.write_bytes(file_of(model, paths[5], cache).read_bytes())
    else:
        os.truncate(path, {"shorter": size - 1, "longer": size + 1, "no checksum": size - 4, "empty": 0}[damage])
    store, found = load(model, paths, cache)
    assert found == 10
    assert_same(read(store), truth(model, paths))


def test_a_file_that_vanishes_during_training_is_computed_and_kept_again(model, paths, cache, monkeypatch):
    store, _ = load(model, paths, cache)
    file_of(model, paths[4], cache).unlink()
    assert_same(read(store, [3, 4, 4]), read(load(model, paths, None)[0], [3, 4, 4]))
    assert file_of(model, paths[4], cache).is_file()
    file_of(model, paths[4], cache).unlink()

    def read_only(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", read_only)
    assert_same(read(store), truth(model, paths))


@pytest.mark.parametrize("also", ["filelock.FileLock.acquire", "os.utime"])
def test_a_folder_that_cannot_be_written_can_be_read(model, paths, cache, monkeypatch, also):
    load(model, paths[:9], cache)

    def read_only(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", read_only)
    monkeypatch.setattr(also, read_only)
    store, found = load(model, paths[:9], cache)
    assert found == 9
    assert_same(read(store), truth(model, paths[:9]))
    with pytest.raises(UflowError, match=r"cannot keep features in .*denied.*--no-cache"):
        load(model, paths, cache)


def test_files_of_an_older_format_are_not_read_and_go_first(model, paths, cache):
    old = cache.path / ("0" * 32) / f"00000000000000000001-0a1b2c3d{OLD_SUFFIX}"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"uflow features 1" + bytes(1000))
    os.utime(old, (1000, 1000))
    assert load(model, paths[:1], cache)[1] == 0
    assert [summary.n_images for summary in cache.summarise()] == [1]
    assert sum(file.n_bytes for file in cache.files()) == cache.summarise()[0].n_bytes + 1016
    load(model, paths[1:2], replace(cache, limit=2 * cache.summarise()[0].n_bytes))
    assert not old.exists()
    old.write_bytes(b"uflow features 1")
    cache.clear()
    assert not old.parent.exists()


def test_least_recently_used_goes_first_and_what_is_used_never(model, paths, cache):
    stores = [load(model, paths[i : i + 1], cache)[0] for i in range(3)]
    files = [file_of(model, path, cache) for path in paths[:3]]
    for file, seconds in zip(files, (1000, 1002, 1001), strict=True):
        os.utime(file, (seconds, seconds))
    del stores[1:]  # the first, oldest, stays in use
    load(model, paths[2:3], cache)  # used once more, so that the second is now the oldest
    size = cache.files()[0].n_bytes
    tight = replace(cache, limit=3 * size)
    load(model, paths[3:4], tight)
    assert files[0].exists()
    assert not files[1].exists()
    assert files[2].exists()
    assert sum(file.n_bytes for file in cache.files()) <= tight.limit
    assert_same(read(stores[0]), truth(model, paths[:1]))


def test_what_does_not_fit_is_an_error_before_anything_is_removed_or_computed(model, paths, cache):
    used = load(model, paths[:2], cache)[0]
    load(model, paths[2:3], cache)
    before = cache.files()
    with pytest.raises(UflowError, match=r"raise --cache-size.*--no-cache"):
        load(model, paths[3:], replace(cache, limit=sum(file.n_bytes for file in before)))
    assert counts[0] == 0
    assert cache.files() == before
    assert_same(read(used), truth(model, paths[:2]))


def test_clear_removes_all_but_what_is_used(model, paths, cache):
    used = load(model, paths[:2], cache)[0]
    load(model, paths[2:], cache)
    removed, kept = cache.clear()
    assert removed > kept > 0
    assert len(cache.files()) == 2
    assert_same(read(used), truth(model, paths[:2]))
    del used
    assert cache.clear() == (kept, 0)
    assert cache.files() == []
    assert list(cache.path.glob("*/")) == []
    assert CacheFolder(cache.path / "none", limit=GIB).clear() == (0, 0)


def test_clear_leaves_the_folder_that_somebody_is_about_to_write_to(tmp_path):
    cache = CacheFolder(tmp_path, limit=GIB)
    lease = cache.reserve(["features/a.f16"], 10)
    (tmp_path / "features").mkdir()  # as a write begins
    cache.clear()
    assert (tmp_path / "features").is_dir()
    del lease
    cache.clear()
    assert not (tmp_path / "features").exists()


def test_full_disk_is_an_error_before_the_work(model, paths, cache, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(UflowError, match="its disk has 0 GiB free"):
        load(model, paths, cache)
    assert counts[0] == 0
    assert cache.files() == []


def test_disk_that_fills_up_keeps_what_was_done(model, paths, cache, monkeypatch):
    """A quota, or a file system that cannot claim space."""
    write, n_files = Path.write_bytes, [0]

    def fills_up(path, data):
        n_files[0] += len(data) > 5000  # not the note beside the folder
        if n_files[0] > EXTRACTION_BATCH + 1:
            write(path, data[:1000])
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fills_up)
    with pytest.raises(UflowError, match=r"quota.*--no-cache"):
        load(model, paths, cache)
    monkeypatch.undo()
    store, found = load(model, paths, cache)
    assert found == EXTRACTION_BATCH + 1
    assert_same(read(store), truth(model, paths))


def test_folder_that_cannot_be_made_is_one_line(model, paths, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UflowError, match=r"cannot keep features in .*file.*--cache-dir"):
        load(model, paths, CacheFolder(tmp_path / "file" / "cache", limit=GIB))


def test_room_that_a_running_training_still_needs_is_not_given_away(model, paths, cache):
    load(model, paths[:1], cache)
    size = cache.files()[0].n_bytes
    sources = survey_images(paths, known=None, on_progress=lambda *_: None)
    tight = replace(cache, limit=5 * size)
    running = FeatureCache(tight, model).reserve(source.key for source in sources[1:4])  # nothing written yet
    load(model, paths[4:5], tight)
    with pytest.raises(UflowError, match="do not fit"):
        load(model, paths[5:8], tight)
    del running
    assert load(model, paths[5:8], tight)[1] == 0


def test_no_file_stays_open(model, paths, cache):
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("this system does not tell which files are open")
    before = len(list(open_files.iterdir()))
    store, _ = load(model, paths, cache)
    read(store)
    assert len(list(open_files.iterdir())) <= before + 1  # the lock that marks its files as in use


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
    """Values that were rounded once are not rounded again: powers of two lose nothing."""
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

    def decode(data, path):
        decoded.append(path)
        return np.arange(12, dtype=np.uint8).reshape(2, 2, 3)

    monkeypatch.setattr("uflow_cli.images.views.decode_image", decode)
    survey_images(paths, known=FeatureCache(cache, model), on_progress=lambda *_: None)
    assert sorted(decoded) == paths[9:]


def test_image_that_changes_while_training_starts_is_an_error(model, paths, cache):
    kept = FeatureCache(cache, model)
    sources = survey_images(paths, known=kept, on_progress=lambda *_: None)
    write_png(paths[5], good_image(50, SIDE))
    with pytest.raises(ImageError, match=r"05\.png: the file changed"):
        load_features(model, lambda epoch: sources, cache=kept, on_progress=lambda *_: None)


def test_views_are_kept_and_drawn_anew_only_without_cache(model, paths, cache):
    sources = survey_images(paths[:4], known=None, on_progress=lambda *_: None)
    augmentation = Augmentation(("tilts",), n_views=3, seed=1)

    def sources_of(epoch):
        return with_views(sources, [2, 0], augmentation, epoch=epoch)

    progress = []
    kept = load_features(model, sources_of, cache=FeatureCache(cache, model), on_progress=lambda *p: progress.append(p))
    computed = load_features(model, sources_of, cache=None, on_progress=lambda *_: None)
    assert len(kept) == len(computed) == 4 + 2 * 2
    assert_same(read(kept), read(computed))
    before = read(kept)
    kept.start_epoch(1)
    computed.start_epoch(1)
    assert_same(read(kept), before)
    assert_same(read(computed, range(4)), [maps[:4] for maps in before])  # held-out images never change
    assert not any(torch.equal(read(computed, [i])[0][0], before[0][i]) for i in range(4, 8))
    again = []
    load_features(model, sources_of, cache=FeatureCache(cache, model), on_progress=lambda *p: again.append(p))
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
