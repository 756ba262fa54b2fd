"""The server: what the command says, over HTTP; limits, tokens, batches, and clients that mean no good."""

from __future__ import annotations

import base64
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from products import defective_image, good_image
from starlette.testclient import TestClient

import uflow_cli as uflow
from uflow_cli.detection.masks import coco_counts
from uflow_cli.images import encode_png
from uflow_cli.serve import Limits, create_app

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def detector(graph_run):
    return uflow.load(graph_run, device="cpu")


@pytest.fixture(scope="module")
def client(detector):
    with TestClient(create_app({"stripes": detector}, limits=Limits())) as client:
        yield client


@contextmanager
def serving(detector, *, token=None, names=("stripes",), **limits):
    app = create_app(dict.fromkeys(names, detector), limits=Limits(**limits), token=token)
    with TestClient(app) as client:
        yield client


class Gated:
    """A model that computes only once it may, and remembers the sizes of batches."""

    def __init__(self, model):
        self.model, self.may, self.begun, self.sizes = model, threading.Event(), threading.Event(), []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def evidence_maps(self, images):
        self.sizes.append(len(images))
        self.begun.set()
        assert self.may.wait(30)
        return self.model.evidence_maps(images)


def png(image):
    return encode_png(image)


BAD, GOOD = png(defective_image(2)[0]), png(good_image(1))


def test_the_answer_is_what_the_detector_says(client, detector):
    result = detector.detect(defective_image(2)[0])
    answer = client.post("/detect", content=BAD)
    assert answer.status_code == 200, answer.text
    values = answer.json()
    assert (values["verdict"], values["log_nfa"]) == ("defect", result.log_nfa)
    assert (values["model"], values["nfa_threshold"], values["promise"]) == ("stripes", 0.0, detector.promise)
    assert [region["log_nfa"] for region in values["regions"]] == [one.log_nfa for one in result.detections]
    assert (values["height"], values["width"], values["rle"], values["mask_png"]) == (96, 96, None, None)
    assert client.post("/detect", content=GOOD).json()["verdict"] == "good"


def test_a_form_says_the_same_as_the_raw_image(client):
    form = client.post("/detect", files={"file": ("../../etc/passwd", BAD, "text/html")})
    assert form.json() == client.post("/detect", content=BAD).json()


@pytest.mark.parametrize("form", ["rle", "png"])
def test_masks_come_on_request(client, detector, form):
    mask = detector.detect(defective_image(2)[0]).mask
    values = client.post(f"/detect?mask={form}", content=BAD).json()
    if form == "png":
        assert base64.b64decode(values["mask_png"]) == encode_png(mask)
        return
    assert values["rle"] == {"size": [96, 96], "counts": coco_counts(mask)}


def test_a_request_may_have_its_own_threshold(client):
    values = client.post("/detect?nfa_threshold=-400", content=BAD).json()
    assert (values["verdict"], values["regions"], values["nfa_threshold"]) == ("good", [], -400.0)
    assert client.post("/detect?false_alarm_rate=0.2", content=BAD).json()["verdict"] == "defect"
    for query, words in [
        ("false_alarm_rate=0.000001", "smallest is"), ("nfa_threshold=nan", "finite"), ("nfa_threshold=x", "number"),
        ("nfa_threshold=0&false_alarm_rate=0.1", "not both"), ("mask=all", "rle"),
    ]:  # fmt: skip
        refused = client.post(f"/detect?{query}", content=BAD)
        assert refused.status_code == 422
        assert words in refused.json()["error"]


def test_models_are_asked_for_by_name_and_never_by_path(detector, graph_run):
    with serving(detector, names=("a", "b")) as client:
        assert [entry["name"] for entry in client.get("/models").json()["models"]] == ["a", "b"]
        assert client.post("/detect?model=b", content=BAD).json()["model"] == "b"
        assert client.post("/detect", content=BAD).status_code == 422
        for name in ("c", str(graph_run), "../a"):
            refused = client.post("/detect", params={"model": name}, content=BAD)
            assert (refused.status_code, refused.json()["error"][:4]) == (404, "name")


def huge_png():
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)

    def chunk(kind, payload):
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"", "empty"), (b"no image", "not an image"), (BAD[:300], "cut short"), (huge_png(), "30000 x 30000 pixels; at most")],
)  # fmt: skip
def test_what_is_no_image_is_told_and_the_next_one_is_inspected(client, body, words):
    refused = client.post("/detect", content=body)
    assert refused.status_code == 422
    assert words in refused.json()["error"]
    assert client.post("/detect", content=GOOD).status_code == 200


def test_no_image_over_the_limit_is_decoded(detector, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with serving(detector, pixels=96 * 96 - 1) as client:
        assert "96 x 96 pixels; at most 9215" in client.post("/detect", content=BAD).json()["error"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused_before_all_of_it_came(detector, declared):
    came = []

    def body():
        for _ in range(100):
            came.append(1)
            yield bytes(1000)

    with serving(detector, body_bytes=5000) as client:
        refused = client.post("/detect", content=bytes(100_000) if declared else body())
        assert (refused.status_code, refused.json()["error"]) == (413, "the image is larger than 5000 bytes")
        files = client.post("/detect", files={"file": bytes(100_000)})
        assert files.status_code == 413
        assert client.app.state.service.buffers.held == 0


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("multipart/form-data", b"x"), ("multipart/form-data; boundary=a", b"no boundary at all"),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Disposition: form-data; name=file\r\n\r\nx\r\n--a--\r\n"),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Disposition: nonsense\r\n\r\nx\r\n--a--\r\n"),
        ("multipart/form-data; boundary=a", b"--a--\r\n"), ("multipart/form-data; boundary=\xff", b"--\xff\r\n"),
        ("multipart/form-data; boundary=" + 300 * "a", b"--a\r\n" * 1000),
    ],
)  # fmt: skip
def test_a_malformed_form_is_one_line(client, headers, body):
    refused = client.post("/detect", content=body, headers={"content-type": headers.encode("latin-1")})
    assert refused.status_code == 400, refused.text
    assert "form" in refused.json()["error"]


def test_two_files_in_a_form_are_one_too_many(client):
    refused = client.post("/detect", files=[("file", BAD), ("file", GOOD)])
    assert (refused.status_code, "send one file" in refused.json()["error"]) == (400, True)


def test_a_token_is_asked_for(detector):
    with serving(detector, token=TOKEN) as client:
        assert client.get("/health").status_code == 200
        for given in (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer é"},
        ):
            encoded = {key: value.encode() for key, value in given.items()}
            for refused in (
                client.post("/detect", content=BAD, headers=encoded), client.get("/metrics", headers=encoded),
                client.get("/models", headers=encoded),
            ):  # fmt: skip
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/detect", content=BAD, headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200


def test_what_waits_is_computed_together_to_the_bits_of_each_alone(detector):
    gated = Gated(replace(detector.model, n_threads=4))
    images = [BAD, GOOD] * 3
    alone = [uflow.TrainedDetector.detect(detector, image).log_nfa for image in (defective_image(2)[0], good_image(1))]
    with serving(replace(detector, model=gated)) as client, ThreadPoolExecutor(6) as pool:
        first = pool.submit(client.post, "/detect", content=BAD)
        assert gated.begun.wait(30)
        others = [pool.submit(client.post, "/detect", content=image) for image in images[1:]]
        deadline = time.monotonic() + 30
        while client.app.state.service.in_hand < 6:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)  # until they are decoded
        gated.may.set()
        found = [future.result().json()["log_nfa"] for future in (first, *others)]
        assert found == alone * 3
        assert gated.sizes == [1, 4, 1]
        assert "uflow_batch_images_sum 6.0" in client.get("/metrics").text


def test_a_full_queue_sends_clients_away_until_there_is_room(detector):
    gated = Gated(detector.model)
    with serving(replace(detector, model=gated), queue=2) as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.post, "/detect", content=GOOD) for _ in range(2)]
        deadline = time.monotonic() + 30
        while client.get("/health").json()["in_hand"] < 2:
            assert time.monotonic() < deadline
        refused = client.post("/detect", content=GOOD)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        gated.may.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        assert client.post("/detect", content=GOOD).status_code == 200
        text = client.get("/metrics").text
        assert 'uflow_images_total{model="stripes",verdict="good"} 3.0' in text
        assert 'uflow_refusals_total{status="429"} 1.0' in text


def test_a_model_that_fails_is_an_error_of_the_server_and_the_next_image_is_inspected(detector):
    class Failing(Gated):
        def evidence_maps(self, images):
            if not self.may.is_set():
                self.may.set()
                raise RuntimeError("no memory at /home/secret")
            return self.model.evidence_maps(images)

    app = create_app({"stripes": replace(detector, model=Failing(detector.model))}, limits=Limits())
    with TestClient(app, raise_server_exceptions=False) as client:
        failed = client.post("/detect", content=GOOD)
        assert (failed.status_code, "secret" in failed.text) == (500, False)
        assert client.post("/detect", content=GOOD).status_code == 200


def test_other_addresses_and_methods_are_problems_too(client):
    for answer, status in ((client.get("/detect"), 405), (client.get("/docs"), 404), (client.delete("/health"), 405)):
        assert answer.status_code == status
        assert set(answer.json()) == {"error", "version"}
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/detect", "/health", "/metrics", "/models"}
    assert set(paths["/detect"]["post"]["requestBody"]["content"]) == {
        "application/octet-stream", "image/*", "multipart/form-data",
    }  # fmt: skip
