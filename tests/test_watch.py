"""Watching a folder: complete files only, each once over restarts, and errands that nothing waits for."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image  # noqa: TID251
from products import defective_image, good_image

from uflow_cli.errors import UflowError
from uflow_cli.images import write_png
from uflow_cli.results import LINES_NAME, read_result
from uflow_cli.run.record import load_run
from uflow_cli.watch import (
    Command,
    Errands,
    Watched,
    arrivals,
    command_of,
    errands,
    inspector,
    watch_folder,
    webhook_of,
)
from uflow_cli.watch.inspector import Done

PATIENCE = 60.0  # seconds


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def listening(folder: Path, **options) -> Iterator[tuple[list[Path], list[str]]]:
    """What comes into `folder`, and troubles, while the block runs."""
    came: list[Path] = []
    troubles: list[str] = []
    over = threading.Event()
    options = {"settle": 0.1, "is_over": over.is_set, "on_trouble": troubles.append} | options
    thread = threading.Thread(target=_fill, args=(came, folder, options))
    thread.start()
    try:
        yield came, troubles
    finally:
        over.set()
        thread.join(PATIENCE)


def _fill(came: list[Path], folder: Path, options: dict) -> None:
    for path in arrivals(folder, **options):
        came.append(path)  # noqa: PERF402 - seen while it grows


@pytest.mark.parametrize("poll", [None, 0.02])
def test_a_file_comes_when_it_is_complete_and_again_when_it_changes(tmp_path, poll):
    (tmp_path / "there.png").write_bytes(b"1")
    with listening(tmp_path, poll=poll, settle=0.3) as (came, _):
        until(lambda: len(came) == 1)
        with (tmp_path / "new.png").open("wb") as file:  # a camera that takes its time
            for _ in range(8):
                file.write(b"some")
                file.flush()
                time.sleep(0.1)
                assert came == [tmp_path / "there.png"]
        until(lambda: len(came) == 2)
        (tmp_path / "there.png").write_bytes(b"another")
        until(lambda: len(came) == 3)
    assert came == [tmp_path / name for name in ("there.png", "new.png", "there.png")]


def test_a_file_that_is_renamed_into_its_place_comes_at_once(tmp_path):
    with listening(tmp_path, settle=PATIENCE) as (came, _):
        time.sleep(0.3)
        (tmp_path / "a.tmp").write_bytes(b"1")
        (tmp_path / "a.tmp").rename(tmp_path / "a.png")
        until(lambda: came)


@pytest.mark.parametrize("poll", [None, 0.02])
def test_results_and_what_is_no_image_do_not_come(tmp_path, poll):
    out, good = tmp_path / "out", tmp_path / "good"
    with listening(tmp_path, poll=poll, without=[out, good]) as (came, _):
        time.sleep(0.1)
        for name in ("out/masks/a.png", "good/a.png", ".hidden/a.png", ".a.png", "a.txt", "sub/roi/a.png", "empty.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"" if name == "empty.png" else b"1")
        (tmp_path / "earlier" / "masks").mkdir(parents=True)
        (tmp_path / "earlier" / LINES_NAME).touch()
        (tmp_path / "earlier" / "masks" / "a.png").write_bytes(b"1")
        (tmp_path / "sub" / "last.png").write_bytes(b"1")
        until(lambda: came)
        time.sleep(0.3)
    assert came == [tmp_path / "sub" / "last.png"]


def test_a_network_drive_may_go_and_come_back(tmp_path):
    folder = tmp_path / "share"
    folder.mkdir()
    with listening(folder, poll=0.02) as (came, troubles):
        folder.rename(tmp_path / "away")
        until(lambda: troubles)
        (tmp_path / "away" / "a.png").write_bytes(b"1")
        (tmp_path / "away").rename(folder)
        until(lambda: came)
    assert len(troubles) == 1
    assert "cannot be listed (No such file or directory); trying again" in troubles[0]


def watch(run: Path, watched: Watched, n: int, **options) -> tuple[list[dict], list[str]]:
    """The lines of the next `n` images, and troubles."""
    lines: list[dict] = []
    troubles: list[str] = []
    watch_folder(
        load_run(run), watched, device="cpu", poll=0.02, settle=0.0, is_over=lambda: len(lines) >= n,
        on_line=lambda line: lines.append(json.loads(line)), on_trouble=troubles.append, **options,
    )  # fmt: skip
    return lines, troubles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_png(tmp_path / "in" / "good.png", good_image(1))
    write_png(tmp_path / "in" / "sub" / "bad.png", defective_image(2)[0])
    return tmp_path / "in"


def test_images_are_moved_by_their_verdict_and_what_is_left_can_be_reported(small_run, folder, tmp_path):
    watched = Watched(folder, tmp_path / "out", tmp_path / "good", tmp_path / "defect")
    lines, _ = watch(small_run, watched, 2)
    assert {line["verdict"]: line["path"] for line in lines} == {
        "good": str(tmp_path / "good" / "good.png"), "defect": str(tmp_path / "defect" / "sub" / "bad.png"),
    }  # fmt: skip
    assert not [path for path in folder.rglob("*") if path.is_file()]
    assert all(Path(line[name]).is_file() for line in lines for name in ("path", "mask", "overlay"))
    write_png(folder / "good.png", good_image(3))  # another one of this name
    (folder / "cut.png").write_bytes(b"cut")
    more, _ = watch(small_run, watched, 2)
    [again] = [line for line in more if "verdict" in line]
    assert Path(again["path"]).name == f"good~{again['id']}.png"
    assert Path(again["mask"]).name == f"good~{again['id']}.png"
    assert (folder / "cut.png").is_file()  # where somebody will look at it
    result = read_result(tmp_path / "out")
    assert (len(result.images), result.n_defects, len(result.errors)) == (3, 1, 1)
    assert all(image.path.is_file() for image in result.images)


def test_what_is_done_is_not_done_again_and_what_a_kill_left_is_put_right(small_run, folder, tmp_path):
    watched = Watched(folder, tmp_path / "out")
    lines, _ = watch(small_run, watched, 2)
    write_png(folder / "new.png", good_image(3))
    [line], _ = watch(small_run, watched, 1)
    assert line["source"] == str(folder / "new.png")
    log = tmp_path / "out" / LINES_NAME
    *before, last = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(before) + last[:-7])  # killed within a line
    assert watch(small_run, watched, 1)[0] == [line]
    assert log.read_bytes() == b"".join([*before, last])
    moving = Watched(folder, tmp_path / "out", good=tmp_path / "good")
    moved = {**line, "path": str(tmp_path / "good" / "new.png")}
    log.write_bytes(b"".join(before) + json.dumps(moved).encode() + b"\n")  # killed before it was moved
    write_png(folder / "end.png", good_image(4))
    watch(small_run, moving, 1)
    assert (tmp_path / "good" / "new.png").is_file()
    assert not (folder / "new.png").exists()
    assert len(lines) == 2


def test_a_file_of_which_a_kill_left_pages_undone_is_moved_once_they_are(small_run, tmp_path):
    (tmp_path / "in").mkdir()
    first, *others = (Image.fromarray(good_image(i)) for i in range(3))
    first.save(tmp_path / "in" / "a.tif", save_all=True, append_images=others)
    watched = Watched(tmp_path / "in", tmp_path / "out", tmp_path / "good", tmp_path / "good")
    lines, _ = watch(small_run, watched, 3)
    assert [line["path"] for line in lines] == [str(tmp_path / f"good/a.tif/a_page{n}.tif") for n in (1, 2, 3)]
    assert [image.path.is_dir() for image in read_result(tmp_path / "out").images] == [False] * 3
    log = tmp_path / "out" / LINES_NAME
    written = log.read_bytes().splitlines(keepends=True)
    (tmp_path / "good" / "a.tif").rename(tmp_path / "in" / "a.tif")
    log.write_bytes(written[0])  # killed between the first page and the second
    more, _ = watch(small_run, watched, 2)
    assert log.read_bytes() == b"".join(written)
    assert more == lines[1:]
    assert (tmp_path / "good" / "a.tif").is_file()
    assert not list((tmp_path / "in").iterdir())


def test_how_many_images_are_done_takes_no_memory():
    n, own = 5000, tracemalloc.Filter(True, inspector.__file__)
    tracemalloc.start()
    try:
        done = Done()
        for number in range(n):
            done.add(Path(f"/camera/part_{number:08d}.png"), (number, number))
        held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([own]).traces)
    finally:
        tracemalloc.stop()
    assert held < 10 * n  # bytes; a path alone has more
    assert done.stamp(Path("/camera/part_00000007.png")) == (7, 7)
    done.add(Path("/camera/part_00000007.png"), (8, 9))
    assert done.stamp(Path("/camera/part_00000007.png")) == (8, 9)
    assert done.stamp(Path(os.fsdecode(b"/camera/\xff.png"))) is None


def test_a_folder_that_is_not_there_or_its_own_target_is_refused_before_anything_is_written(
    small_run, folder, tmp_path
):
    with pytest.raises(UflowError, match="no such folder; name one that images come into"):
        watch(small_run, Watched(tmp_path / "no", tmp_path / "out"), 1)
    for options in ({"good": folder}, {"defect": tmp_path / "in" / "sub" / ".."}):
        with pytest.raises(UflowError, match="images moved there would come again"):
            watch(small_run, Watched(folder, tmp_path / "out", **options), 1)
    with pytest.raises(UflowError, match="is no folder; name one that images can be moved to"):
        watch(small_run, Watched(folder, tmp_path / "out", good=folder / "good.png"), 1)
    assert not (tmp_path / "out").exists()


def test_two_watchers_of_one_output_are_refused(small_run, folder, tmp_path):
    watched = Watched(folder, tmp_path / "out")

    def again(_line: str) -> None:
        with pytest.raises(UflowError, match="another process writes"):
            watch(small_run, watched, 1)
        seen.append(1)

    seen: list[int] = []
    watch_folder(
        load_run(small_run), watched, device="cpu", poll=0.02, settle=0.0, is_over=lambda: bool(seen), on_line=again,
        on_trouble=print,
    )  # fmt: skip


@contextmanager
def server(answers: list[int]) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A server that gives `answers` one after the other, then 200, and what it was sent."""
    sent: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append((dict(self.headers), body))
            self.send_response(answers.pop(0) if answers else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/hook", sent
        finally:
            http.shutdown()
            thread.join()


def test_messages_are_signed_and_sent_until_they_are_taken(small_run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(errands, "FIRST_WAIT", 0.01)
    (tmp_path / "key").write_text("secret\n")
    with server([503, 302, 401]) as (url, sent):
        kinds = [webhook_of(url, tmp_path / "key")]
        lines: list[str] = []
        watch_folder(
            load_run(small_run), Watched(folder, tmp_path / "out"), device="cpu", poll=0.02, settle=0.0, kinds=kinds,
            is_over=lambda: len(sent) >= 5, on_line=lines.append, on_trouble=lambda _sentence: None,
        )  # fmt: skip
    for headers, body in sent:
        assert headers["X-Uflow-Signature"] == "sha256=" + hmac.new(b"secret", body, hashlib.sha256).hexdigest()
        assert json.loads(body)["id"] == headers["X-Uflow-Id"]
    assert len({headers["X-Uflow-Id"] for headers, _ in sent}) == 2
    assert {json.loads(body)["path"] for _, body in sent} == {json.loads(line)["path"] for line in lines}
    assert not list((tmp_path / "out" / "errands").iterdir())


def test_what_could_not_be_sent_is_sent_next_time_and_what_is_refused_is_put_aside(small_run, folder, tmp_path):
    watched = Watched(folder, tmp_path / "out")
    lines, troubles = watch(small_run, watched, 2, kinds=[webhook_of("http://127.0.0.1:9/", None)])  # nobody there
    assert len(list((tmp_path / "out" / "errands").glob("*.webhook.json"))) == 2
    with server([400]) as (url, sent):
        write_png(folder / "new.png", good_image(5))
        watch_folder(
            load_run(small_run), watched, device="cpu", poll=0.02, settle=0.0, kinds=[webhook_of(url, None)],
            is_over=lambda: len(sent) >= 3, on_line=print, on_trouble=troubles.append,
        )  # fmt: skip
    assert {line["id"] for line in lines} <= {headers["X-Uflow-Id"] for headers, _ in sent}
    assert [path.suffix for path in (tmp_path / "out" / "errands").iterdir()] == [".failed"]
    assert "is given up: HTTP status 400" in troubles[-1]
    assert "X-Uflow-Signature" not in sent[0][0]


def test_a_command_gets_the_defect_as_one_argument_whatever_it_is_called(small_run, tmp_path):
    name = "-a $(touch gone); 'b'.png"
    write_png(tmp_path / "in" / name, defective_image(2)[0])
    write_png(tmp_path / "in" / "good.png", good_image(1))
    script = "import json,os,sys; open(sys.argv[1],'w').write(json.dumps([sys.argv[2:], os.environ['UFLOW_IMAGE'], json.load(sys.stdin)]))"
    command = Command((sys.executable, "-c", script, str(tmp_path / "said")))
    lines, troubles = watch(small_run, Watched(tmp_path / "in", tmp_path / "out"), 2, kinds=[command])
    (arguments, image, record) = json.loads((tmp_path / "said").read_text())
    assert arguments == [image] == [str(tmp_path / "in" / name)]
    assert record in lines
    assert record["verdict"] == "defect"
    assert troubles == []


def test_an_errand_that_no_line_stands_for_is_forgotten_and_a_command_that_fails_is_told(tmp_path):
    troubles: list[str] = []
    waiting = Errands(tmp_path, [command_of(f"{sys.executable} -c exit(3)")], troubles.append)
    for number in ("a", "b"):
        waiting.write(number, {"verdict": "defect", "path": "x", "log_nfa": -1.0})
    assert waiting.waiting() == ["a", "b"]
    waiting.forget("a")
    waiting.release("a")
    waiting.release("b")
    with waiting.at_work():
        until(lambda: troubles)
    assert troubles == ["command for b is given up: exit code 3"]
    assert [path.name for path in tmp_path.iterdir()] == ["b.command.failed"]


@pytest.mark.parametrize("command", ["", "no-such-program-here x", "'"])
def test_a_command_that_is_none_is_told_at_once(command):
    with pytest.raises(UflowError, match="command"):
        command_of(command)


def test_a_server_that_speaks_no_http_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(errands, "FIRST_WAIT", 0.01)
    troubles: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        waiting = Errands(
            tmp_path, [webhook_of(f"http://127.0.0.1:{listener.getsockname()[1]}", None)], troubles.append
        )
        waiting.write("a", {"verdict": "good"})
        waiting.release("a")
        with waiting.at_work():
            for answer in (b"220 mail.plant ESMTP\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
                connection, _ = listener.accept()
                connection.recv(10_000)
                connection.sendall(answer)
                connection.close()
            until(lambda: not list(tmp_path.iterdir()))
    assert troubles == ["webhook for a failed and is tried again: 220 mail.plant ESMTP"]


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/x", "host/x", "http://", "http://host:port/", "http://höst/", "http://host/a b"],
)
def test_messages_go_to_servers_alone(url, tmp_path):
    with pytest.raises(UflowError, match="https://"):
        webhook_of(url, None)
    (tmp_path / "key").write_text("\n")
    with pytest.raises(UflowError, match="holds no key"):
        webhook_of("https://host/", tmp_path / "key")
    with pytest.raises(UflowError, match="cannot be read"):
        webhook_of("https://host/", tmp_path / "no")
