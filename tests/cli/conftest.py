"""Running commands as a user does, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from uflow_cli.cli import main


@dataclass(frozen=True)
class Outcome:
    """The output and exit code of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def uflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`uflow(*arguments)` runs the program and gives exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["uflow", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run
