"""Names of files that would mean something to a page, a terminal, a spreadsheet or a shell mean nothing anywhere."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser

import pytest
from products import good_image

from uflow_cli.images import encode_png, read_mask

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file names of bytes")
NAMES = [
    "<script>alert(1)<!--.png", "\"><img src=x onerror=alert(1)>.png", "it's {{ 7*7 }} ${HOME} `id`.png", "new\nline\r.png",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe.png", "\x1b[31mred\x1b]0;title\x07.png", "x" * 251 + ".png", "no unicode \udcff.png",
    "=HYPERLINK(1).png", "next\x85line\u2028.png", "-rf.png", "[bold]a[red].png", "&amp;%2e%2e.png",
]  # fmt: skip


class Elements(HTMLParser):
    """The names of all elements and attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.names, self.events = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.events += [name for name, _ in attrs if name.startswith("on")]


def test_names_are_shown_and_never_run(uflow, graph_run, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(encode_png(good_image(number)))
    options = ["--model", graph_run, "--device", "cpu", "--nfa-threshold", 9, "--out", tmp_path / "out"]
    outcome = uflow("detect", folder, *options, "--report", tmp_path / "report")
    assert outcome.code == 0, outcome.err
    for text in (outcome.out, outcome.err):
        assert not re.search(r"[^\x20-\x7e\n]*[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
        assert text.encode()  # no lone surrogates
    values = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    assert values["n_images"] == len(NAMES)
    for kind in ("masks", "overlays"):
        assert len(list((tmp_path / "out" / kind).rglob("*.png"))) == len(NAMES)
    assert all(read_mask(path).shape == (96, 96) for path in (tmp_path / "out" / "masks").rglob("*.png"))
    page = (tmp_path / "report" / "index.html").read_bytes().decode()  # is UTF-8
    found = Elements(page)
    assert found.names.count("script") == 1
    assert not found.events
    assert "7*7" in page
    assert uflow("report", tmp_path / "out", "--to", tmp_path / "again").code == 0
    assert Elements((tmp_path / "again" / "index.html").read_text(encoding="utf-8")).names.count("script") == 1
