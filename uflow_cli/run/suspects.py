"""The good images of a run that look defective, as a file in its folder that `uflow train --exclude` takes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uflow_cli.errors import CheckpointError
from uflow_cli.files import remove, write_bytes

SUSPECTS_NAME = "suspicious.csv"
HEAD = ("image", "log_nfa")


@dataclass(frozen=True)
class Suspect:
    """A good image that looks defective, and its lowest log10 NFA by a flow that has not seen it."""

    path: Path
    log_nfa: float


def write_suspects(folder: Path, suspects: Sequence[Suspect]) -> None:
    """Write the suspects of the run in `folder`, the strangest first; without any there is no file."""
    if not suspects:
        remove(folder / SUSPECTS_NAME)
        return
    text = io.StringIO()
    lines = csv.writer(text)  # ends lines as the standard of CSV has it: only then are both kinds of ends quoted
    lines.writerows([HEAD, *((str(suspect.path), f"{suspect.log_nfa:.2f}") for suspect in suspects)])
    write_bytes(folder / SUSPECTS_NAME, os.fsencode(text.getvalue()))


def read_suspects(folder: Path) -> list[Suspect]:
    """The suspects of the run in `folder`; CheckpointError where their file is damaged."""
    path = folder / SUSPECTS_NAME
    if not path.is_file():
        return []
    try:
        rows = list(csv.reader(io.StringIO(os.fsdecode(path.read_bytes()), newline="")))
        return [Suspect(Path(row[0]), float(row[1])) for row in rows[1:]]
    except (ValueError, IndexError, csv.Error) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it, or train again") from error
