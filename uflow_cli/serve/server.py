"""The process that listens: connections that must be quick, and a stop that ends what it began."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from uflow_cli.errors import UflowError
from uflow_cli.serve.limits import Limits

MOST_CONNECTIONS = 512
GRACE = 5.0  # seconds over the limit, in which a slow client is told before it is cut off
STOPPING = 30  # seconds for what is being computed when the server is to stop


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at `host` and `port`, 0 being any free one; UflowError where that cannot be."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        raise UflowError(f"cannot listen at {host}, port {port} ({error.strerror or error}); choose another") from error


def serve(app: FastAPI, listener: socket.socket, *, limits: Limits) -> None:
    """Answer until SIGINT or SIGTERM comes, then finish what is in hand."""

    class Protocol(_PromptProtocol):
        seconds = limits.seconds + GRACE

    config = uvicorn.Config(
        app, http=Protocol, ws="none", loop="asyncio", lifespan="on", log_level="warning", access_log=False,
        server_header=False, limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=STOPPING,
    )  # fmt: skip
    _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal; uvicorn's own way would send it again, so that a stop looks like a crash."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _PromptProtocol(H11Protocol):
    """Cuts off who does not send a whole request in `seconds`; uvicorn would wait for ever."""

    seconds: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:  # a request begins
            self._start()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _start(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.seconds, self._expire)

    def _expire(self) -> None:
        state = self.conn.their_state
        begun = state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0])
        if (begun or self.cycle is None) and not self.transport.is_closing():
            self.transport.abort()
