"""`uflow serve` as a process: it says where it listens, bears slow clients, and stops when it is told."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from products import defective_image

from uflow_cli.images import encode_png

BAD = encode_png(defective_image(2)[0])


def post(port, body=BAD, path="/detect", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_a_server_answers_beside_slow_clients_without_torch_and_stops_when_told(graph_run, tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    code = (
        "import sys\nfrom uflow_cli.cli import main\ntry:\n    main()\nfinally:\n"
        "    print('torch' in sys.modules, file=sys.stderr)"
    )
    arguments = ["--model", f"stripes={graph_run}", "--port", "0", "--device", "cpu", "--max-seconds", "0.5"]
    command = [sys.executable, "-c", code, "serve", *arguments, "--token-file", str(tmp_path / "token")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "120"})
    try:
        line = process.stderr.readline()
        found = re.search(r"serving stripes on http://127\.0\.0\.1:(\d+) ", line)
        assert found, line
        port = int(found[1])
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]  # the first one says nothing
        slow[1].sendall(b"POST /detect HTTP/1.1\r\nHos")
        slow[2].sendall(
            b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\nx"
        )
        status, answer = post(port, Authorization="Bearer 0123456789abcdef")
        assert (status, answer["verdict"]) == (200, "defect")
        assert post(port)[0] == 401
        assert b" 408 " in slow[2].recv(100)
        for client in slow:
            client.settimeout(30)
            try:
                while client.recv(1000):
                    pass
            except ConnectionResetError:
                pass
            client.close()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 0
        assert rest == "False\n"
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


MALFORMED = {
    "no HTTP": b"GARBAGE\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "a length that is negative": b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a length of many digits": b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "two lengths": b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "no chunk": b"POST /detect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "an endless header": b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000,
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
}


def test_a_server_outlasts_malformed_requests_and_more_connections_than_it_takes(graph_run):
    code = (
        "from uflow_cli.serve import server\nserver.MOST_CONNECTIONS, server.GRACE = 20, 0.5\n"
        "from uflow_cli.cli import main\nmain()"
    )
    words = ["serve", "--model", f"stripes={graph_run}", "--port", "0", "--device", "cpu", "--max-seconds", "0.5"]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])
        for name, data in MALFORMED.items():
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(data)
                assert client.recv(100).startswith(b"HTTP/1.1 4"), name
        with socket.create_connection(("127.0.0.1", port)) as client:  # which goes before its image has come
            client.sendall(b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nx")
        assert post(port)[0] == 200
        silent = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(25)]
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b" 503 " in client.recv(100)
        assert [client.recv(10) for client in silent] == [b""] * 25  # cut off
        assert post(port)[0] == 200
        for client in silent:
            client.close()
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert (process.wait(30), "Traceback" in said) == (0, False), said
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_port_that_is_taken_is_one_line(uflow, graph_run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = uflow("serve", "--model", graph_run, "--port", port, "--device", "cpu")
    assert outcome.code == 1
    assert outcome.err.startswith(f"uflow: cannot listen at 127.0.0.1, port {port} (")


@pytest.mark.parametrize("token", [None, "", "short", "two words that are long", "ünïcödé" * 5])
def test_a_token_that_is_none_is_one_line(uflow, graph_run, tmp_path, token):
    if token is not None:
        (tmp_path / "token").write_text(token, encoding="utf-8")
    outcome = uflow("serve", "--model", graph_run, "--token-file", tmp_path / "token")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "--token-file" in outcome.err


def test_two_models_of_one_name_are_wrong_usage(uflow, graph_run):
    outcome = uflow("serve", "--model", graph_run, "--model", f"stripes={graph_run}", "--device", "cpu")
    assert outcome.code == 2
    assert "give NAME=RUN" in outcome.err


def test_what_serving_needs_is_named_where_it_is_missing(uflow, graph_run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else name)
    outcome = uflow("serve", "--model", graph_run)
    assert outcome.code == 1
    assert (
        outcome.err == 'uflow: uvicorn is not installed; install what serving needs: pip install "uflow-cli[serve]"\n'
    )


def test_an_open_address_without_a_token_is_warned_of(uflow, graph_run, monkeypatch):
    started = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: started.append(self.config))
    assert uflow("serve", "--model", graph_run, "--port", 0, "--host", "0.0.0.0", "--device", "cpu").err.count("warning") == 1  # fmt: skip
    [config] = started
    assert (config.access_log, config.ws) == (False, "none")
