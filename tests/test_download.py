"""Public data sets are fetched whole or not at all: broken transfers, wrong contents, hostile archives, full disks."""

from __future__ import annotations

import errno
import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from products import files_in

from uflow_cli import download as module
from uflow_cli.datasets import DATASETS
from uflow_cli.download import Source, download, find_source, sources
from uflow_cli.errors import DatasetError, UflowError

FILES = {
    f"{category}/train/good/{i:03d}.png": f"{category}{i}".encode() * 999
    for category in ("bolt", "screw")
    for i in range(9)
}


class Server(ThreadingHTTPServer):
    """Serves `content` at any path; `breaks` are how many bytes the next answers send before they end."""

    content = b""
    breaks: list[int]
    knows_ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/parts.tar.xz"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.asked.append(self.headers.get("Range"))
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if server.knows_ranges else 0
        if start >= len(server.content) and start:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        end = server.breaks.pop(0) if server.breaks else len(server.content)
        self.wfile.write(server.content[start : start + end])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        made.breaks, made.asked = [], []
        made.content = tarred(FILES)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def tarred(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
        for member in others:
            packed.addfile(member)
    return data.getvalue()


def zipped(files: dict[str, bytes], *, mode: int = stat.S_IFREG | 0o644) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            packed.writestr(member, content, compress_type=zipfile.ZIP_DEFLATED)
    return data.getvalue()


def source_of(server: Server, **changes) -> Source:
    known = {"sha256": hashlib.sha256(server.content).hexdigest(), "size": len(server.content)}
    return Source(
        name="parts", title="Parts", addresses=(server.address,), licence="none", commercial=True, page="nowhere",
        source="this test", file="parts.tar.xz", **{**known, **changes},
    )  # fmt: skip


@pytest.mark.parametrize("packed", [tarred, zipped])
def test_a_data_set_is_fetched_checked_unpacked_and_alone_in_its_folder(server, tmp_path, packed):
    server.content = packed(FILES)
    said = []
    place = download(source_of(server), tmp_path / "data", on_progress=lambda *what: said.append(what))
    assert place == tmp_path / "data" / "parts"
    assert files_in(tmp_path / "data") == {f"parts/{name}": content for name, content in FILES.items()}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["parts"]
    assert {what for what, _, _ in said} == {"fetching", "checking", "unpacking"}
    assert ("fetching", len(server.content), len(server.content)) in said
    with pytest.raises(UflowError, match="is there already"):
        download(source_of(server), tmp_path / "data")


def test_one_category_and_then_another(server, tmp_path):
    server.content = tarred({f"inner/{name}": content for name, content in FILES.items()} | {"readme.txt": b"read"})
    download(source_of(server), tmp_path, category="screw")
    assert {Path(name).parts[2] for name in files_in(tmp_path / "parts") if "inner" in name and "train" in name} == {
        "train"
    }
    assert not (tmp_path / "parts" / "inner" / "bolt").exists()
    download(source_of(server), tmp_path, category="bolt")
    assert files_in(tmp_path / "parts" / "inner") == FILES
    with pytest.raises(DatasetError, match="no category 'nut' of parts"):
        download(source_of(server), tmp_path, category="nut")


def test_two_kills_after_all_is_in_place_leave_no_archive(server, tmp_path):
    def killed(what, _done, _total):
        if what == "checking":
            raise KeyboardInterrupt

    download(source_of(server), tmp_path)
    (tmp_path / "parts.tar.xz.unpacked").write_bytes(server.content)  # its removal is what the first kill prevented
    with pytest.raises(KeyboardInterrupt):
        download(source_of(server), tmp_path, on_progress=killed)
    download(source_of(server), tmp_path)
    assert files_in(tmp_path) == {f"parts/{name}": content for name, content in FILES.items()}


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_transfer_that_breaks_off_goes_on_where_it_ended(server, tmp_path, knows_ranges):
    server.knows_ranges, server.breaks = knows_ranges, [100, 200]
    download(source_of(server), tmp_path)
    assert files_in(tmp_path / "parts") == FILES
    assert server.asked == [None, "bytes=100-", "bytes=300-" if knows_ranges else "bytes=200-"]


def test_a_transfer_that_never_ends_keeps_what_came_and_goes_on_later(server, tmp_path):
    server.breaks = [100, 0, 0]
    with pytest.raises(
        UflowError, match=r"broke off after 100 of .*100 bytes are kept in .*parts\.tar\.xz\.part, and the same"
    ):
        download(source_of(server), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["parts.tar.xz.part"]
    download(source_of(server), tmp_path)
    assert files_in(tmp_path / "parts") == FILES


def test_a_whole_part_is_not_fetched_again(server, tmp_path):
    (tmp_path / "parts.tar.xz.part").write_bytes(server.content)
    download(source_of(server), tmp_path)
    assert files_in(tmp_path / "parts") == FILES


def test_a_part_of_something_else_is_found_out(server, tmp_path):
    (tmp_path / "parts.tar.xz.part").write_bytes(b"x" * 50)
    with pytest.raises(UflowError, match="is not the Parts that is known: its sha256 is"):
        download(source_of(server), tmp_path)
    assert not list(tmp_path.iterdir())
    download(source_of(server), tmp_path)


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"sha256": None, "md5": "0" * 32}])
def test_a_wrong_checksum_leaves_nothing(server, tmp_path, changes):
    with pytest.raises(UflowError, match=r"should be 0{32}"):
        download(source_of(server, **changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_any_checksum_it_says_so(server, tmp_path):
    source = source_of(server, sha256=None, size=None)
    assert "no checksum is known" in "".join(source.facts())
    download(source, tmp_path)
    assert files_in(tmp_path / "parts") == FILES


def test_the_next_address_is_asked_and_without_a_network_one_line_says_what_to_bring(server, tmp_path):
    dead = "http://127.0.0.1:9/parts.tar.xz"  # the discard port: refused
    source = source_of(server)
    with pytest.raises(UflowError) as raised:
        download(replace(source, addresses=(dead,)), tmp_path)
    text = str(raised.value)
    assert "\n" not in text
    for part in (dead, source.sha256, str(tmp_path / "parts.tar.xz"), "the same command"):
        assert part in text
    (tmp_path / "parts.tar.xz").write_bytes(server.content)  # brought by hand
    download(replace(source, addresses=(dead,)), tmp_path)
    assert files_in(tmp_path / "parts") == FILES
    download(replace(source, name="more", addresses=(dead, server.address)), tmp_path)


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


HOSTILE = {
    "tar, above": tarred({"../evil": b"x"}), "tar, absolute": tarred({"/tmp/evil": b"x"}),
    "tar, symbolic link": tarred(FILES, member("link", tarfile.SYMTYPE, "/etc")), "tar, hard link": tarred(FILES, member("link", tarfile.LNKTYPE, "/etc/passwd")),
    "tar, device": tarred(FILES, member("null", tarfile.CHRTYPE)), "tar, pipe": tarred(FILES, member("pipe", tarfile.FIFOTYPE)),
    "tar, above inside": tarred({"a/../../evil": b"x"}), "tar, drive": tarred({"C:/evil": b"x"}), "tar, bomb": tarred({"a": bytes(40 * 2**20)}),
    "zip, above": zipped({"../evil": b"x"}), "zip, absolute": zipped({"/tmp/evil": b"x"}), "zip, backslashes": zipped({"..\\evil": b"x"}),
    "zip, symbolic link": zipped({"link": b"/etc"}, mode=stat.S_IFLNK | 0o777), "zip, bomb": zipped({"a": bytes(40 * 2**20)}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_unpacked(server, tmp_path, name):
    server.content = HOSTILE[name]
    with pytest.raises(DatasetError, match="is hostile"):
        download(source_of(server), tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["parts.tar.xz"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_damage_inside_is_one_line(server, tmp_path):
    server.content = server.content[:-2000]
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        download(source_of(server), tmp_path)
    assert not (tmp_path / "parts").exists()


def test_a_disk_without_room_is_told_before_and_one_that_fills_up_keeps_what_came(server, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _folder: usage._replace(free=10))
    with pytest.raises(UflowError, match=r"GB are free there and .* are needed"):
        download(source_of(server), tmp_path)
    monkeypatch.undo()
    whole = module._blocks

    def full(answer):
        yield next(whole(answer))[:150]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_blocks", full)
    with pytest.raises(UflowError, match="No space left on device; free some of it, and the same command goes on"):
        download(source_of(server), tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "parts.tar.xz.part").stat().st_size == 150
    download(source_of(server), tmp_path)
    assert server.asked[-1] == "bytes=150-"
    assert files_in(tmp_path / "parts") == FILES


@pytest.mark.parametrize("late", [False, True])
def test_what_was_cut_off_while_it_took_its_place_goes_on_without_another_transfer(server, tmp_path, monkeypatch, late):
    take = module._take_place

    def cut_off(made, place):
        if late:
            take(made, place)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_take_place", cut_off)
    with pytest.raises(KeyboardInterrupt):
        download(source_of(server), tmp_path)
    monkeypatch.undo()
    download(source_of(server), tmp_path)
    assert files_in(tmp_path / "parts") == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
    assert len(server.asked) == 1


def test_the_table_names_known_data_sets_with_all_that_is_needed():
    for name, source in sources().items():
        assert name in DATASETS
        assert all(address.startswith("https://") for address in (*source.addresses, source.page))
        assert source.sha256 is None or (len(source.sha256) == 64 and int(source.sha256, 16))
        assert source.md5 is None or len(source.md5) == 32
        assert source.source
        assert source.file.endswith((".zip", ".tar", ".tar.gz", ".tar.xz"))
        assert len(source.facts()) == 4
    with pytest.raises(DatasetError, match="no public address of data set 'shanghaitech'"):
        find_source("shanghaitech")
