"""The program itself: help without torch, version, module, completion, wrong usage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from uflow_cli import __version__
from uflow_cli.cli import COMMANDS
from uflow_cli.schema import VERSION


def test_importing_the_commands_does_not_load_torch():
    code = (
        "import sys, uflow_cli.cli; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'cv2', 'numpy', 'FrEIA')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_list_of_commands_loads_nothing_that_commands_need():
    code = (
        "import sys\nfrom uflow_cli.cli import main\nsys.argv = ['uflow', '--help']\n"
        "try:\n    main()\nfinally:\n    assert not {'pydantic', 'rich', 'numpy', 'torch'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


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


def test_the_program_alone_says_in_three_lines_what_to_do_next(uflow):
    outcome = uflow()
    assert (outcome.code, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) == 3
    named = set(re.findall(r"uflow (\w+)", outcome.out))
    assert named == {"sample", "train", "detect", "doctor"} <= set(COMMANDS)


def test_every_command_is_listed(uflow):
    outcome = uflow("--help")
    assert outcome.code == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", outcome.out, re.MULTILINE)


def test_every_file_of_a_command_is_registered():
    folder = Path(__file__).parents[2] / "uflow_cli" / "cli"
    files = {path.stem for path in folder.glob("*.py")}
    assert set(COMMANDS) == {
        name.rstrip("_") for name in files if f"\ndef {name}(" in (folder / f"{name}.py").read_text()
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_explains_every_option_and_flags_take_no_value(uflow, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = uflow(command, "--help")
    assert outcome.code == 0
    assert "<bool>" not in outcome.out
    assert "..." not in COMMANDS[command]
    assert not [line for line in outcome.out.splitlines() if len(line) > 80]


def test_settings_of_training_stand_in_sections(uflow):
    lines = uflow("train", "--help").out.splitlines()
    assert [line for line in lines if line.endswith(":") and not line.startswith(" ")] == [
        "Options:",
        "Model:",
        "Training:",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["runs", "nowhere"], 1, "nowhere: no such folder"), (["backbones", "resnet81"], 1, "resnet18"),
        (["detect", "a.png", "--model", "nowhere"], 1, "nowhere does not exist"),
        (["check", "--images", "a.png", "--model", "nowhere"], 1, "nowhere does not exist"),
        (["evaluate", "--model", "nowhere"], 1, "nowhere does not exist"),
        (["detect", "a.png", "--nfa-threshold", "low"], 2, "number"), (["check"], 2, "--images"), (["cache", "--nothing"], 2, "--nothing"),
        (["detect", "a.png", "--nfa-threshold", "0", "--false-alarm-rate", "0.1"], 2, "not both"),
    ],
)  # fmt: skip
def test_an_error_where_json_was_asked_for_is_json_too(uflow, arguments, code, words):
    outcome = uflow(*arguments, "--json")
    assert outcome.code == code
    values = json.loads(outcome.out)
    assert set(values) == {"version", "error"}
    assert values["version"] == VERSION
    assert words in values["error"]
    assert words in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"], ["train"], ["train", "--images", "a", "--dataset", "mvtec"], ["detect"], ["train", "--epochs", "0"],
        ["detect", "a.png", "--nfa-threshold", "low"], ["detect", "a.png", "--nfa-threshold", "0", "--false-alarm-rate", "0.1"],
        ["train", "--images", "a", "--device", "tpu"], ["train", "--images", "a", "--category", "screw"], ["trian"],
        *[["cache", "--cache-size", value] for value in ("nan", "inf", "-1", "much")], ["detect", "a.png", "--false-alarm-rate", "nan"],
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
