"""What is to be done outside after an image: a command for a defect, a message to a server. Never waited for.

An errand is a file in a folder until it is done, so that none is lost by a kill; one that was under way at that moment
is done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import queue
import shlex
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

import uflow_cli
from uflow_cli.errors import UflowError
from uflow_cli.files import read_plain, write_text
from uflow_cli.schema import refuse_newer
from uflow_cli.text import in_one_line

COMMAND_SECONDS = 60.0  # that a command may take
ANSWER_SECONDS = 10.0  # that a server may take
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0  # seconds before a message is tried again; doubled each time
REFUSED = {400, 405, 406, 410, 411, 413, 414, 415, 422}  # answers that no other try would change


class FailedError(Exception):
    """An errand could not be done; `again` says whether another try may help."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class Errand(Protocol):
    """One kind of errand."""

    @property
    def name(self) -> str:
        """The ending of its files."""

    def concerns(self, _record: Mapping[str, Any], /) -> bool:
        """Whether it is to be done for the image with this record."""

    def do(self, number: str, record: Mapping[str, Any]) -> None:
        """Do it for the image with this `record`; `number` is the same when it is done again. Raises FailedError."""


@dataclass(frozen=True)
class Command:
    """Run a program for each defect: its last argument is the image, its stdin the record. No shell sees either."""

    words: tuple[str, ...]
    name: str = "command"

    def concerns(self, record: Mapping[str, Any], /) -> bool:
        """Only for defects."""
        return bool(record.get("verdict") == "defect")

    def do(self, number: str, record: Mapping[str, Any]) -> None:
        """Run the program and wait for its end."""
        image = os.path.abspath(record["path"])  # noqa: PTH100 - an option may not be made of a name
        environment = {**os.environ, "UFLOW_ID": number, "UFLOW_IMAGE": image, "UFLOW_LOG_NFA": str(record["log_nfa"])}
        try:
            done = subprocess.run(
                [*self.words, image], input=json.dumps(record).encode(), env=environment, timeout=COMMAND_SECONDS,
                stdout=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise FailedError(in_one_line(error), again=False) from error
        if done.returncode:
            raise FailedError(f"exit code {done.returncode}", again=False)


@dataclass(frozen=True)
class Webhook:
    """Send the record of each image to a server as JSON, signed with a `key` where there is one."""

    url: str
    key: bytes | None
    name: str = "webhook"

    def concerns(self, _record: Mapping[str, Any], /) -> bool:
        """For every image."""
        return True

    def do(self, number: str, record: Mapping[str, Any]) -> None:
        """Send it; what is not answered by 2xx has failed, redirections too: the key's owner named no other server."""
        body = json.dumps({"id": number, **record}).encode()
        headers = {"Content-Type": "application/json", "User-Agent": f"uflow/{uflow_cli.__version__}"}
        headers["X-Uflow-Id"] = number
        if self.key:
            headers["X-Uflow-Signature"] = f"sha256={hmac.new(self.key, body, hashlib.sha256).hexdigest()}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=ANSWER_SECONDS):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise FailedError(f"HTTP status {error.code}", again=error.code not in REFUSED) from error
        except (OSError, ValueError, HTTPException) as error:  # the last one: what answers speaks no HTTP
            raise FailedError(in_one_line(error), again=True) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def command_of(text: str) -> Command:
    """The command in `text`, its words as a shell would part them; UflowError for none or one that is not here."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UflowError(f"command {text!r}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise UflowError(f"command {text!r}: no such program; name one that can be run, and its arguments")
    return Command(tuple(words))


def webhook_of(url: str, key_file: Path | None) -> Webhook:
    """The messages to `url`, signed by what `key_file` holds; UflowError for another kind of address or no key."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) and url.isascii()
    except ValueError:  # of a port that is no number
        is_one = False
    if not is_one or any(letter <= " " for letter in url):
        raise UflowError(f"webhook {url!r}: an address such as https://host:8443/path is needed, all of it ASCII")
    if key_file is None:
        return Webhook(url, None)
    try:
        key = read_plain(key_file).strip()
    except OSError as error:
        raise UflowError(f"{key_file}: cannot be read ({error.strerror or error})") from error
    if not key:
        raise UflowError(f"{key_file}: holds no key; write one into it, such as `openssl rand -hex 32` gives")
    return Webhook(url, key)


class Errands:
    """The errands that wait in a folder, and a thread for each kind that does them one by one."""

    def __init__(self, folder: Path, kinds: list[Errand], on_trouble: Callable[[str], None]) -> None:
        self._folder, self._kinds, self._on_trouble = folder, kinds, on_trouble
        self._queues: dict[str, queue.SimpleQueue[str | None]] = {kind.name: queue.SimpleQueue() for kind in kinds}
        self._over = threading.Event()

    def write(self, number: str, record: Mapping[str, Any]) -> None:
        """Note what is to be done for an image; nothing is done before `release`."""
        for kind in self._kinds:
            if kind.concerns(record):
                write_text(self._file(number, kind), json.dumps(record))

    def release(self, number: str) -> None:
        """The image is done, and what was noted for it may be."""
        for kind in self._kinds:
            if self._file(number, kind).exists():
                self._queues[kind.name].put(number)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Within, errands are done; at the end the one under way is finished, and the rest stays for the next time."""
        threads = [threading.Thread(target=self._work, args=(kind,), daemon=True) for kind in self._kinds]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for kind in self._kinds:
                self._queues[kind.name].put(None)
            for thread in threads:
                thread.join(max(COMMAND_SECONDS, ANSWER_SECONDS))

    def waiting(self) -> list[str]:
        """The numbers of images for which something waits from before."""
        return sorted(
            {path.name.partition(".")[0] for kind in self._kinds for path in self._folder.glob(f"*.{kind.name}.json")}
        )

    def forget(self, number: str) -> None:
        """Drop what was noted for an image that was not done."""
        for kind in self._kinds:
            self._file(number, kind).unlink(missing_ok=True)

    def _file(self, number: str, kind: Errand) -> Path:
        return self._folder / f"{number}.{kind.name}.json"

    def _work(self, kind: Errand) -> None:
        waiting = self._queues[kind.name]
        while (number := waiting.get()) is not None and not self._over.is_set():
            file = self._file(number, kind)
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
                refuse_newer(record.get("version"), file)
                self._do(kind, number, record)
                file.unlink(missing_ok=True)
            except FailedError as error:
                self._on_trouble(f"{kind.name} for {number} is given up: {error}")
                with contextlib.suppress(OSError):  # it stays for the next time
                    file.replace(file.with_suffix(".failed"))
            except InterruptedError:
                return
            except UflowError as error:
                self._on_trouble(str(error))
            except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
                self._on_trouble(f"{file}: {in_one_line(error)}")

    def _do(self, kind: Errand, number: str, record: Mapping[str, Any]) -> None:
        """Try until it is done; FailedError where that is in vain, InterruptedError where all is over."""
        wait = FIRST_WAIT
        while True:
            try:
                return kind.do(number, record)
            except FailedError as error:
                if not error.again:
                    raise
                if wait == FIRST_WAIT:
                    self._on_trouble(f"{kind.name} for {number} failed and is tried again: {error}")
            if self._over.wait(wait):
                raise InterruptedError
            wait = min(2 * wait, LONGEST_WAIT)
