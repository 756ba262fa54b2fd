"""The documentation tells the truth where a program can tell: links, commands, options, paths and sizes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from uflow_cli import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [
    path
    for folder in ("uflow_cli", "cpp", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".pyi", ".hpp", ".cpp", ".toml")
]
COMMANDS = {name: cli.load_command(name) for name in cli.COMMANDS}
OPTIONS = {
    name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    | {"--help", "-h"}
    for name, command in COMMANDS.items()
}
PROGRAM_OPTIONS = {"--help", "-h", "--version", "--install-completion", "--show-completion"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(text: str) -> Iterator[str]:
    """The lines of all console blocks."""
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()


def prose(text: str) -> str:
    """The text without its blocks, fenced or indented."""
    return re.sub(r"^```.*?^```|^ {4}.*?$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of `page`, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_and_their_anchors_lead_somewhere(page):
    targets = re.findall(r"\[[^\]]*\]\(([^)]+)\)", prose(page.read_text(encoding="utf-8")))
    for target in targets:
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page if not path else page.parent / path
        assert there.is_file(), f"{target}: no such file"
        assert not anchor or anchor in anchors(there), f"{target}: no such heading"


@pages
def test_commands_and_their_options_exist(page):
    for line in blocks(page.read_text(encoding="utf-8")):
        words = shlex.split(line, comments=True)
        starts = [i for i, word in enumerate(words) if word in ("uflow", "uflow_cli")]
        if not starts:
            continue
        name, *arguments = words[starts[0] + 1 :]
        if name in PROGRAM_OPTIONS:
            continue
        assert name in COMMANDS, line
        given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert given <= OPTIONS[name], f"{line}: no {given - OPTIONS[name]}"


@pages
def test_commands_and_options_in_the_text_exist(page):
    for code in re.findall(r"`([^`]+)`", prose(page.read_text(encoding="utf-8"))):
        words = code.split()
        if words[0] == "uflow" and len(words) > 1:
            assert words[1] in COMMANDS or words[1] in PROGRAM_OPTIONS, code
            known = OPTIONS.get(words[1], PROGRAM_OPTIONS)
        elif words[0].startswith("--"):
            known = PROGRAM_OPTIONS.union(*OPTIONS.values())
        else:  # another program
            continue
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known, f"{code}: no {given - known}"


def test_every_command_is_in_the_reference():
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert not [name for name in COMMANDS if f"`uflow {name}`" not in text]


def section(page: str, heading: str) -> str:
    """The text below `heading` of `page`, up to the next heading of any level."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.split(r"^#+ ", text.split(f"# {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_example_of_detections_is_one():
    from uflow_cli.results import DetectionResult
    from uflow_cli.schema import from_json

    [example] = re.findall(r"^```json\n(.*?)^```", section("reference.md", "detections.json"), re.MULTILINE | re.DOTALL)
    assert from_json(DetectionResult, example).images[0].regions


def test_the_fields_of_a_check_are_named():
    from uflow_cli.check import CheckResult
    from uflow_cli.schema import json_schema

    schema = json_schema(CheckResult)
    names = {name for part in (schema, *schema["$defs"].values()) for name in part.get("properties", {})}
    text = section("reference.md", "uflow check --json")
    assert not {name for name in names if f"`{name}`" not in text} - {"version"}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_pictures_are_small():
    pictures = [*(ROOT / "docs").rglob("*.png"), *(ROOT / "docs").rglob("*.svg")]
    assert sum(picture.stat().st_size for picture in pictures) < 300_000


def test_the_rooms_of_the_architecture_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("| room |")[1].split("\n\n")[0]
    paths = [path for path in re.findall(r"`([^`]+)`", table) if "/" in path or path.endswith(".py")]
    missing = [path for path in paths if not ((ROOT / "uflow_cli" / path).exists() or (ROOT / path).exists())]
    assert len(paths) > 20
    assert not missing


def test_every_room_is_in_the_table_of_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("| room |")[1].split("\n\n")[0]
    rooms = [path.name for path in (ROOT / "uflow_cli").glob("[!_]*.py")]
    rooms += [f"{path.parent.name}/" for path in (ROOT / "uflow_cli").glob("*/__init__.py")]
    assert len(rooms) > 20
    assert not [room for room in rooms if room not in table]


@pages
def test_paths_of_the_repository_exist(page):
    text = prose(page.read_text(encoding="utf-8"))
    paths = re.findall(r"`((?:uflow_cli|cpp|tests|benchmarks|docs)/[\w./-]+)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_sections_of_the_method_that_the_code_cites_exist():
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", text, re.MULTILINE))
    cited = {
        (path.name, section)
        for path in SOURCES
        for section in re.findall(
            r"docs/method\.md,\s+(?:#\s+)?section (\d+(?:\.\d+)?)", path.read_text(encoding="utf-8")
        )
    }
    assert cited
    assert not {(name, section) for name, section in cited if section not in sections}
