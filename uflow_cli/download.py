"""Public data sets: fetched, checked, unpacked into a folder of their own, or left as they were before.

An archive grows under the name FILE.part, from where an interrupted transfer goes on. It is unpacked beside its place
and renamed into it. What an archive holds is suspect: only plain files and folders inside the place are taken.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import stat
import tarfile
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from importlib import resources
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

import uflow_cli
from uflow_cli.errors import DatasetError, UflowError
from uflow_cli.files import workshop

CHUNK = 2**20  # bytes
TIMEOUT = 30.0  # seconds without a byte
TRIES = 3  # of a transfer that breaks off
LARGEST_GROWTH = 20  # times: an archive that holds more than that is made to fill disks
OnProgress = Callable[[str, int, int], None]  # what is done, bytes done, bytes in all (0: unknown)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and what its archive must be."""

    name: str
    title: str
    addresses: tuple[str, ...]
    licence: str
    commercial: bool  # whether the licence allows commercial use
    page: str  # of its authors
    source: str  # of these facts
    file: str  # name of the archive
    size: int | None = None  # bytes
    sha256: str | None = None
    md5: str | None = None

    @property
    def proof(self) -> str:
        """The check of a transfer, for people."""
        if self.sha256:
            return f"SHA-256 {self.sha256}"
        return f"MD5 {self.md5} (no SHA-256 is known)" if self.md5 else "no checksum is known"

    def facts(self) -> list[str]:
        """Lines for people."""
        size = f"{self.size / 1e9:.1f} GB" if self.size else "size unknown"
        return [
            f"{self.title}: {size}, {self.proof}", f"from {self.addresses[0]}",
            f"licence: {self.licence}{'' if self.commercial else ', for non-commercial use only'}; {self.page}",
            f"source of these facts: {self.source}",
        ]  # fmt: skip


def sources() -> dict[str, Source]:
    """All data sets that can be fetched, by name."""
    text = (resources.files("uflow_cli.datasets") / "sources.toml").read_text(encoding="utf-8")
    return {name: _source(name, values) for name, values in tomllib.loads(text).items()}


def find_source(name: str) -> Source:
    """Where data set `name` comes from; DatasetError where no public address is known."""
    known = sources()
    if name not in known:
        raise DatasetError(f"no public address of data set {name!r} is known; known are {', '.join(known)}")
    return known[name]


def _source(name: str, values: dict[str, Any]) -> Source:
    addresses = tuple(values.pop("addresses"))
    file = values.pop("file", PurePosixPath(urlsplit(addresses[0]).path).name)
    return Source(name=name, addresses=addresses, file=file, **values)


def download(
    source: Source, folder: Path, *, category: str | None = None,
    on_progress: OnProgress = lambda _what, _done, _total: None,
) -> Path:  # fmt: skip
    """Fetch `source` into `folder`/<its name>, or of it only what lies in folders called `category`; gives that place.

    An archive that somebody brought to `folder` is taken as it is, if it passes the check. UflowError for a place that
    is taken, a network that fails (the same call goes on where it ended), a wrong checksum, a hostile archive, no such
    category, and a full disk.
    """
    place, archive = folder / source.name, folder / source.file
    unpacked = archive.with_name(f"{source.file}.unpacked")  # what it holds is being put in place
    try:
        if unpacked.is_file():  # and a kill came in between: it keeps this name, by which the next one knows too
            archive = unpacked
        else:
            _require_free(place, category)
        folder.mkdir(parents=True, exist_ok=True)
        if not archive.is_file():
            _fetch(source, archive, on_progress)
        _check(source, archive, on_progress)
        with workshop(place) as bench:
            made = bench / source.name
            made.mkdir()
            _unpack(archive, made, category, on_progress)
            if category and not any(path.name == category for path in made.rglob(category)):
                raise DatasetError(f"{archive} holds no category {category!r} of {source.name}")
            archive.replace(unpacked)
            _take_place(made, place)
        unpacked.unlink()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "free some of it, and the same command goes on" if full else "choose another folder with --data-root"
        raise UflowError(f"{folder}: {error.strerror or error}; {way_out}") from error
    return place


def _require_free(place: Path, category: str | None) -> None:
    """UflowError where `place`, or the folder of `category` in it, already holds something."""
    folders = [place / category, *place.glob(f"*/{category}")] if category else [place]
    taken = next((path for path in folders if path.is_dir() and any(path.iterdir())), None)
    if taken is not None:
        raise UflowError(f"{taken} is there already; remove it to fetch it anew, or choose another --data-root")


def _take_place(made: Path, place: Path) -> None:
    """Rename `made` into place; where that is there already, what it lacks."""
    if not place.exists():
        made.rename(place)
    elif made.is_dir():
        for path in made.iterdir():
            _take_place(path, place / path.name)


def _fetch(source: Source, archive: Path, on_progress: OnProgress) -> None:
    """Bring the archive, from the first address that answers, going on with what a broken transfer left."""
    part = archive.with_name(f"{archive.name}.part")
    failures = []
    for address in source.addresses:
        for _ in range(TRIES):
            try:
                _transfer(address, part, source.size, on_progress)
            except (HTTPException, TimeoutError, ConnectionError, urllib.error.URLError) as error:
                failures.append(f"{urlsplit(address).hostname}: {getattr(error, 'reason', error) or error}")
                if isinstance(error, urllib.error.URLError):  # nobody answers, or says no
                    break
            else:
                part.replace(archive)
                return
    kept = f"; {part.stat().st_size} bytes are kept in {part}, and the same command goes on" if part.exists() else ""
    raise UflowError(
        f"{source.title} cannot be fetched ({'; '.join(dict.fromkeys(failures))}){kept}; without a network: fetch "
        f"{source.addresses[0]} on another machine ({source.proof}), bring it as {archive}, and give the same command"
    )


def _transfer(address: str, part: Path, size: int | None, on_progress: OnProgress) -> None:
    """Add what is missing to `part`; ConnectionError if it breaks off."""
    start = part.stat().st_size if part.exists() else 0
    if size is not None and start > size:  # of something else
        part.unlink()
        start = 0
    headers = {"User-Agent": f"uflow/{uflow_cli.__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start and size in (None, start):  # nothing is missing
            return
        if error.code == 416:
            part.unlink()
        raise
    with answer:
        if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise ConnectionError("another part than asked for was sent")
        start = start if answer.status == 206 else 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = size or (start + length if length else 0)
        _require_room(part.parent, total - start)
        with part.open("ab" if start else "wb") as file:
            done = start
            for block in _blocks(answer):
                file.write(block)
                done += len(block)
                on_progress("fetching", done, total)
    if total and done < total:
        raise ConnectionError(f"the transfer broke off after {done} of {total} bytes")


def _blocks(stream: BufferedIOBase) -> Iterator[bytes]:
    while block := stream.read(CHUNK):
        yield block


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UflowError(
            f"{folder}: {free / 1e9:.1f} GB are free there and {needed / 1e9:.1f} GB are needed; free its disk"
        )


def _check(source: Source, archive: Path, on_progress: OnProgress) -> None:
    """UflowError unless the archive is what it should be; it is removed then, for going on with it would not help."""
    size = archive.stat().st_size
    expected = source.sha256 or source.md5
    digest = hashlib.sha256() if source.sha256 else hashlib.md5(usedforsecurity=False)
    with archive.open("rb") as file:
        done = 0
        for block in _blocks(file):
            digest.update(block)
            done += len(block)
            on_progress("checking", done, size)
    found = digest.hexdigest()
    if expected and found != expected:
        archive.unlink()
        raise UflowError(
            f"{archive.name} is not the {source.title} that is known: its {digest.name} is {found} and should be "
            f"{expected}; it was removed. Fetch it again; if that does not help, look at {source.page}"
        )


def _unpack(archive: Path, folder: Path, category: str | None, on_progress: OnProgress) -> None:
    """Unpack the archive into `folder`, or of it what lies in folders called `category`; DatasetError if hostile."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _unpack_zip(zipped, archive, folder, category, on_progress)
        else:
            with archive.open("rb") as file:
                _unpack_tar(file, archive, folder, category, on_progress)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError) as error:
        raise DatasetError(f"{archive} cannot be unpacked ({error}); remove it and fetch it again") from error


def _unpack_zip(
    zipped: zipfile.ZipFile, archive: Path, folder: Path, category: str | None, on_progress: OnProgress
) -> None:
    members = zipped.infolist()
    for member in members:
        mode = member.external_attr >> 16
        kind = stat.S_IFMT(mode)
        _require_harmless(archive, member.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
    wanted = [member for member in members if _is_wanted(member.filename, category)]
    total = sum(member.file_size for member in wanted)
    _require_sane(archive, folder, total)
    done = 0
    for member in wanted:
        zipped.extract(member, folder)
        done += member.file_size
        on_progress("unpacking", done, total)


def _unpack_tar(file: IO[bytes], archive: Path, folder: Path, category: str | None, on_progress: OnProgress) -> None:
    size, unpacked = archive.stat().st_size, 0
    with tarfile.open(fileobj=file, mode="r:*") as packed:
        for member in packed:
            _require_harmless(archive, member.name, plain=member.isfile() or member.isdir())
            if not _is_wanted(member.name, category):
                continue
            unpacked += member.size
            _require_sane(archive, folder, unpacked, still=member.size)
            _write_member(packed, member, folder / member.name)
            on_progress("unpacking", min(file.tell(), size - 1), size)
    on_progress("unpacking", size, size)


def _write_member(packed: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write the content of a plain file, and nothing else that the archive says of it, or make a folder."""
    (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
    content = packed.extractfile(member)  # None for a folder
    if content is not None:
        with content, path.open("wb") as file:
            shutil.copyfileobj(content, file)


def _require_harmless(archive: Path, name: str, *, plain: bool) -> None:
    """DatasetError unless a member is a plain file or a folder, and stays inside the folder that it is unpacked to."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not plain:
        raise DatasetError(f"{archive} is hostile: {name!r} is a link or a device; nothing was unpacked")
    if name.startswith(("/", "\\")) or ".." in parts or any(":" in part or "\0" in part for part in parts):
        raise DatasetError(f"{archive} is hostile: {name!r} would leave the folder; nothing was unpacked")


def _require_sane(archive: Path, folder: Path, unpacked: int, *, still: int | None = None) -> None:
    """UflowError where an archive holds far more than archives do, or more than the disk has room for."""
    if unpacked > max(LARGEST_GROWTH * archive.stat().st_size, 10 * CHUNK):
        raise DatasetError(f"{archive} is hostile: it unpacks to over {LARGEST_GROWTH} times its size")
    _require_room(folder, unpacked if still is None else still)


def _is_wanted(name: str, category: str | None) -> bool:
    """Whether a member belongs to `category`; splits and texts beside the categories belong to all."""
    folders = PurePosixPath(name).parts[:-1]
    return category is None or category in PurePosixPath(name).parts or not folders or "split_csv" in folders
