"""What a server takes, and the errors by which it says that something is too much."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True)
class Limits:
    """What a server takes at most. Memory is bounded by `buffered_bytes` and two batches of decoded images."""

    queue: int = 32  # images that wait or are computed
    body_bytes: int = 50_000_000
    pixels: int = 50_000_000  # of an image, by its header
    seconds: float = 20.0  # in which a request must have come in whole

    @property
    def buffered_bytes(self) -> int:
        """Of all requests together: some of the largest, or many small ones."""
        return 4 * self.body_bytes


class RefusalError(Exception):
    """A request is not answered: the status says why to programs, the message to people."""

    def __init__(self, status: HTTPStatus, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def too_busy(what: str) -> RefusalError:
    """The refusal of a request that could be answered a little later."""
    return RefusalError(HTTPStatus.TOO_MANY_REQUESTS, f"{what}; try again in a second", retry_after=1)
