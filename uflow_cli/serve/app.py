"""The web application: addresses, tokens, errors, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException

import uflow_cli
from uflow_cli.engine import available_cores
from uflow_cli.errors import ImageError, UflowError
from uflow_cli.images import decode_image
from uflow_cli.run.detector import TrainedDetector
from uflow_cli.schema import json_text, to_dict
from uflow_cli.serve.answers import Answer, Health, MaskForm, ModelEntry, Models, Problem, answer_of
from uflow_cli.serve.batches import Batches
from uflow_cli.serve.bodies import FORM, Buffers, Taken
from uflow_cli.serve.limits import Limits, RefusalError, too_busy

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/octet-stream": BINARY,
        "image/*": BINARY,
        FORM: {"schema": {"type": "object", "properties": {"file": BINARY["schema"]}, "required": ["file"]}},
    },
}
REFUSALS = {
    HTTPStatus.BAD_REQUEST: "no form with one file",
    HTTPStatus.UNAUTHORIZED: "another token is needed",
    HTTPStatus.NOT_FOUND: "no such model",
    HTTPStatus.REQUEST_TIMEOUT: "the request came too slowly",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too many bytes",
    HTTPStatus.UNPROCESSABLE_ENTITY: "no image that can be read, too many pixels, or a threshold that is none",
    HTTPStatus.TOO_MANY_REQUESTS: "the queue is full; Retry-After says when to come again",
    HTTPStatus.INTERNAL_SERVER_ERROR: "the model failed",
}
BEARER = HTTPBearer(auto_error=False)
Number = Annotated[float | None, Query(allow_inf_nan=False)]


class Service:
    """The models of a server at work, and what is counted of them."""

    def __init__(self, detectors: Mapping[str, TrainedDetector], limits: Limits) -> None:
        self.detectors, self.limits = dict(detectors), limits
        self.buffers = Buffers(limits)
        self.in_hand = 0
        self.registry = CollectorRegistry()
        self.images = Counter("uflow_images", "Images inspected", ["model", "verdict"], registry=self.registry)
        self.refusals = Counter("uflow_refusals", "Requests refused", ["status"], registry=self.registry)
        self.seconds = Histogram(
            "uflow_seconds", "From a whole request to its answer", ["model"], buckets=SECONDS, registry=self.registry
        )
        self.batch = Histogram(
            "uflow_batch_images", "Images computed together", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        Gauge("uflow_images_in_hand", "Images waiting or computed", registry=self.registry).set_function(
            lambda: self.in_hand
        )
        Gauge("uflow_buffered_bytes", "Bytes of requests", registry=self.registry).set_function(
            lambda: self.buffers.held
        )
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._pictures = ThreadPoolExecutor(available_cores(), thread_name_prefix="pictures")
        self._decoded = asyncio.Semaphore(2 * max(d.model.batch_size for d in self.detectors.values()))
        self._batches = {
            name: Batches(detector, self._compute, on_batch=self.batch.observe)
            for name, detector in self.detectors.items()
        }

    def chosen(self, name: str | None) -> str:
        """The name of the model that a request means; RefusalError where there is none, or one of several."""
        if name is None and len(self.detectors) == 1:
            return next(iter(self.detectors))
        if name not in self.detectors:
            status = HTTPStatus.UNPROCESSABLE_ENTITY if name is None else HTTPStatus.NOT_FOUND
            raise RefusalError(status, f"name one of these models with model=: {', '.join(self.detectors)}")
        return name

    def require_room(self) -> None:
        """RefusalError where no more images can wait."""
        if self.in_hand >= self.limits.queue:
            raise too_busy(f"{self.in_hand} images are waiting")

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue; RefusalError where it is full."""
        self.require_room()
        self.in_hand += 1
        try:
            yield
        finally:
            self.in_hand -= 1

    async def detect(self, name: str, detector: TrainedDetector, data: bytes, *, mask: MaskForm) -> Answer:
        """The answer to the image file `data`, by the threshold of `detector`. ImageError for what is no image."""
        loop = asyncio.get_running_loop()
        with self.place(), self.seconds.labels(name).time():
            async with self._decoded:
                image = await loop.run_in_executor(self._pictures, self._decode, detector, data)
                prediction = await self._batches[name].predict(image)
                prediction = replace(prediction, threshold=detector.threshold)
                answer = await loop.run_in_executor(
                    self._pictures, lambda: answer_of(name, detector, prediction, mask=mask)
                )
        self.images.labels(name, answer.verdict).inc()
        return answer

    def _decode(self, detector: TrainedDetector, data: bytes) -> NDArray[np.uint8]:
        image = decode_image(data, path=Path("image"), largest=self.limits.pixels)
        detector.rois.of(None, (image.shape[0], image.shape[1]))  # now, for a batch would fail as a whole
        return image

    def close(self) -> None:
        """Wait for what is computed."""
        self._compute.shutdown()
        self._pictures.shutdown()


def create_app(detectors: Mapping[str, TrainedDetector], *, limits: Limits, token: str | None = None) -> FastAPI:
    """The application for `detectors` by name. With a `token`, all but /health and /openapi.json ask for it."""
    service = Service(detectors, limits)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="uflow", version=uflow_cli.__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Finds defects in images after seeing only good ones, and says how sure it is.",
    )  # fmt: skip
    app.state.service = service
    _add_handlers(app, service)

    async def check_token(given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), (token or "").encode()):
            raise RefusalError(HTTPStatus.UNAUTHORIZED, "give the token of this server as Authorization: Bearer TOKEN")

    guards = [Depends(check_token)] if token is not None else []
    locked = _documented(HTTPStatus.UNAUTHORIZED) if token is not None else {}
    refusals = _documented(*(status for status in REFUSALS if guards or status != HTTPStatus.UNAUTHORIZED))

    @app.get("/health", response_model=Health)
    async def health() -> Response:
        """Say that the server answers; no token is needed."""
        return _json(Health("ok", tuple(service.detectors), service.in_hand))

    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}  # though the rest is text
    locked_text = {status: {"description": one["description"], "content": problem} for status, one in locked.items()}

    @app.get("/metrics", response_class=PlainTextResponse, dependencies=guards, responses=locked_text)
    async def metrics() -> Response:
        """Give what is counted, in the text of Prometheus."""
        return Response(generate_latest(service.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/models", response_model=Models, dependencies=guards, responses=locked)
    async def models() -> Response:
        """Name the models, and what they promise."""
        entries = (ModelEntry(n, d.threshold, d.promise, d.run.caveat) for n, d in service.detectors.items())
        return _json(Models(tuple(entries)))

    @app.post(
        "/detect", response_model=Answer, dependencies=guards, openapi_extra={"requestBody": BODY}, responses=refusals,
    )  # fmt: skip
    async def detect(
        request: Request, model: str | None = None, mask: MaskForm = "none", nfa_threshold: Number = None,
        false_alarm_rate: Number = None,
    ) -> Response:  # fmt: skip
        """Say whether the image in the body is good, where its defects are, and how sure that is."""
        name = service.chosen(model)
        detector = service.detectors[name]
        if nfa_threshold is not None and false_alarm_rate is not None:
            raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, "give nfa_threshold or false_alarm_rate, not both")
        if nfa_threshold is not None or false_alarm_rate is not None:
            try:
                detector = detector.with_threshold(nfa_threshold=nfa_threshold, false_alarm_rate=false_alarm_rate)
            except UflowError as error:
                raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        service.require_room()  # before the image comes
        taken = Taken()
        try:
            data = await service.buffers.read(request, taken)
            return _json(await service.detect(name, detector, data, mask=mask))
        finally:
            service.buffers.free(taken)

    return app


def _add_handlers(app: FastAPI, service: Service) -> None:
    """Every error is a `Problem`, and is counted."""

    def refused(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
        service.refusals.labels(str(status)).inc()
        return _json(Problem(message), status=status, headers=headers)

    async def on_refusal(_request: Request, error: RefusalError) -> Response:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if error.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return refused(error.status, str(error), headers)

    async def on_image(_request: Request, error: ImageError) -> Response:
        return refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    async def on_invalid(_request: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        return refused(HTTPStatus.UNPROCESSABLE_ENTITY, told)

    async def on_http(_request: Request, error: HTTPException) -> Response:
        return refused(error.status_code, str(error.detail), error.headers)

    async def on_bug(_request: Request, _error: Exception) -> Response:  # the server's log has its traceback
        return refused(HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed; the server's log says why")

    handlers: dict[type[Exception], Callable[..., Any]] = {
        RefusalError: on_refusal,
        ImageError: on_image,
        RequestValidationError: on_invalid,
        HTTPException: on_http,
        Exception: on_bug,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    return {int(status): {"model": Problem, "description": REFUSALS[status]} for status in statuses}


def _json(value: Any, *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    text = json_text(to_dict(value))
    return Response(text, status, dict(headers) if headers else None, media_type="application/json")
