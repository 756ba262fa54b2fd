"""Stdout and stderr of the program: other encodings and full disks end in a line at most, never in a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

from uflow_cli.errors import UflowError

OF_THE_MACHINE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO,
    errno.ESTALE,
}  # fmt: skip


class _Guarded:
    """A stream whose failing writes are a UflowError, or nothing at all where it is `optional`."""

    def __init__(self, stream: Any, *, optional: bool) -> None:
        self._stream, self._optional = stream, optional
        self._failure: UflowError | None = None  # said again at every use: who asked first may have let it pass

    def write(self, text: str) -> int:
        """Write `text`."""
        with self._guard():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        with self._guard():
            self._stream.flush()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        if self._failure:
            raise self._failure
        try:
            yield
        except OSError as error:
            if error.errno == errno.EPIPE and not self._optional:  # whoever reads has enough
                raise
            _discard(self._stream)
            if not self._optional:
                self._failure = UflowError(f"the result cannot be written to stdout ({error.strerror})")
                raise self._failure from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Within, no text fails for its letters: what the terminal's encoding lacks is a question mark."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if sys.stdout is not None:
        sys.stdout = _Guarded(sys.stdout, optional=False)
    if sys.stderr is not None:
        sys.stderr = _Guarded(sys.stderr, optional=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def of_the_machine(error: OSError) -> str | None:
    """A line on an error that a user can fix, such as a missing permission; None for one that is a bug of ours."""
    if error.errno not in OF_THE_MACHINE or error.filename is None:
        return None
    what = "check its permissions" if error.errno in (errno.EACCES, errno.EPERM) else "choose another place"
    return f"{os.fsdecode(error.filename)}: {error.strerror}; {what}"


def _discard(stream: Any) -> None:
    """Let what a stream still holds go nowhere, or the end of the process would complain of it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
