"""The image in the body of a request: raw, or as the one file of a form; counted as it comes, never written to disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from uflow_cli.serve.limits import Limits, RefusalError, too_busy

FORM = "multipart/form-data"


@dataclass
class Taken:
    """The bytes of one request so far."""

    n_bytes: int = 0


class Buffers:
    """The bytes of all requests that are not answered yet."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0

    async def read(self, request: Request, taken: Taken) -> bytes:
        """The image in `request`. Its bytes are counted in `taken`, for whoever frees them.

        RefusalError for too many bytes, here or in all, for a form without one file, and for one who is too slow.
        """
        limits = self.limits
        if int(request.headers.get("content-length", 0)) > limits.body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(limits.seconds):
                if request.headers.get("content-type", "").lower().startswith(FORM):
                    return await _file_of_form(request.headers, self._counted(request, taken))
                return b"".join([chunk async for chunk in self._counted(request, taken)])
        except TimeoutError:
            raise RefusalError(
                HTTPStatus.REQUEST_TIMEOUT, f"the request did not come in whole within {limits.seconds:g} seconds"
            ) from None
        except ClientDisconnect:  # nobody hears this
            raise RefusalError(HTTPStatus.BAD_REQUEST, "the request broke off") from None

    def free(self, taken: Taken) -> None:
        """Forget a request's bytes."""
        self.held -= taken.n_bytes

    async def _counted(self, request: Request, taken: Taken) -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            if taken.n_bytes + len(chunk) > self.limits.body_bytes:
                raise self._too_large()
            if self.held + len(chunk) > self.limits.buffered_bytes:
                raise too_busy("too many images are on their way")
            self.held += len(chunk)
            taken.n_bytes += len(chunk)
            yield chunk

    def _too_large(self) -> RefusalError:
        return RefusalError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the image is larger than {self.limits.body_bytes} bytes"
        )


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 40  # bytes are counted before; no file is made


async def _file_of_form(headers: Headers, stream: AsyncGenerator[bytes, None]) -> bytes:
    try:
        form = await _InMemory(headers, stream, max_files=1, max_fields=0).parse()
    except (MultiPartException, UnicodeError) as error:
        message = getattr(error, "message", "no Unicode")
        raise RefusalError(HTTPStatus.BAD_REQUEST, f"the form cannot be read ({message}); send one file") from None
    try:
        for value in form.values():
            if isinstance(value, UploadFile):
                return await value.read()
    finally:
        await form.close()
    raise RefusalError(HTTPStatus.BAD_REQUEST, "the form holds no file; send one")
