"""The program itself: help without torch, version, module, completion, wrong usage."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from uflow_cli import __version__


def test_importing_the_commands_does_not_load_torch():
    code = (
        "import sys, uflow_cli.cli; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'cv2', 'numpy', 'FrEIA')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["detect", "--help"], ["--version"]])
def test_help_does_not_load_torch(arguments):
    code = (
        "import sys\nfrom uflow_cli.cli import main\n"
        f"sys.argv = ['uflow', *{arguments!r}]\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout or __version__ in result.stdout


def test_python_m_is_the_program():
    result = subprocess.run(
        [sys.executable, "-m", "uflow_cli", "--version"], check=True, capture_output=True, text=True
    )
    assert result.stdout == f"uflow {__version__}\n"


def test_every_command_is_listed(uflow):
    outcome = uflow("--help")
    assert outcome.code == 0
    for command in ("sample", "train", "detect", "evaluate", "runs", "backbones", "bench"):
        assert re.search(rf"\b{command}\b", outcome.out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"], ["train"], ["train", "--images", "a", "--dataset", "mvtec"], ["detect"], ["train", "--epochs", "0"],
        ["detect", "a.png", "--nfa-threshold", "low"], ["detect", "a.png", "--nfa-threshold", "0", "--false-alarm-rate", "0.1"],
        ["train", "--images", "a", "--device", "tpu"],
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_two(uflow, arguments):
    outcome = uflow(*arguments)
    assert outcome.code == 2
    assert "Error" in outcome.err or "Usage" in outcome.err
    assert not outcome.out


def test_shell_completion_is_offered():
    environment = {**os.environ, "_UFLOW_COMPLETE": "complete_bash", "COMP_WORDS": "uflow tr", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['uflow']; from uflow_cli.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert "train" in result.stdout
