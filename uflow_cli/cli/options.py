"""Options that several commands share, so that they read and behave alike."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from uflow_cli.cache import CacheFolder
    from uflow_cli.datasets import Dataset
    from uflow_cli.images import LeftOut
    from uflow_cli.inputs import Inputs
    from uflow_cli.run.record import Origin, Run
    from uflow_cli.schema import Setting


class DeviceName(StrEnum):
    """The kind of device that computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class RuntimeName(StrEnum):
    """The program that computes the evidence."""

    auto = "auto"
    torch = "torch"
    onnx = "onnx"


METAVARS = {"integer": "int", "number": "float", "string": "str"}
DEVICE = DeviceName.auto

DatasetName = Annotated[str | None, typer.Option("--dataset", help="Layout of the data set: mvtec, btad, visa, ...")]
Category = Annotated[
    str | None,
    typer.Option("--category", help="Product within the data set, such as screw; a,b or all where many can be."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        help="Folder that holds the data set, or its categories.  "
        "[default: UFLOW_DATA, data, datasets, then uflow/datasets in the system's cache folder]",
    ),
]
Device = Annotated[DeviceName, typer.Option("--device", help="auto takes a CUDA GPU where there is one.")]
RUNTIME = RuntimeName.auto
Runtime = Annotated[
    RuntimeName,
    typer.Option("--runtime", help="auto takes the run's graph on a CPU where `uflow export` or training made one."),
]
ModelFolder = Annotated[
    Path | None,
    typer.Option("--model", help="Run folder that `uflow train` wrote.", show_default="the newest below ./runs"),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir", envvar="UFLOW_CACHE_DIR",
        help="Folder where features are kept for later runs.  [default: uflow in the system's cache folder]",
    ),
]  # fmt: skip
CacheSize = Annotated[
    float,
    typer.Option(
        "--cache-size", envvar="UFLOW_CACHE_SIZE", min=0, metavar="<float>", help="GiB that kept features may take."
    ),
]
CACHE_SIZE = 50.0
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
NfaThreshold = Annotated[
    float | None,
    typer.Option(
        "--nfa-threshold", show_default="0, which is at most one",
        help="log10 of the false detections allowed in a lot of good images.",
    ),
]  # fmt: skip
FalseAlarmRate = Annotated[
    float | None,
    typer.Option(
        "--false-alarm-rate",
        help="Share of good images that may be flagged, instead of --nfa-threshold.",
    ),
]  # fmt: skip


Strict = Annotated[
    bool, typer.Option("--strict", help="Go no further where files were left out or the data cannot be right.")
]


RegionOfInterest = Annotated[
    Path | None,
    typer.Option(
        "--roi", metavar="MASK.png",
        help="Mask of the pixels that count, white inside, as large as the images.  [default: roi/NAME.png beside each "
        "image, where it is there]",
    ),
]  # fmt: skip


def heed(left_out: Sequence[LeftOut], doubts: Sequence[str] = (), *, strict: bool) -> None:
    """Say what was left out of the images and what cannot be right about them; DatasetError where `strict`."""
    from uflow_cli.cli import console
    from uflow_cli.errors import DatasetError
    from uflow_cli.images import describe_left_out

    said = [*([describe_left_out(left_out)] if left_out else []), *doubts]
    if strict and said:
        raise DatasetError(f"{'; '.join(said)} (--strict)")
    for sentence in said:
        console.warn(sentence)


def given_images(paths: Sequence[Path], *, quiet: bool = False) -> Inputs:
    """The images that arguments name, `-` those whose names come on stdin; says how many earlier results lay there."""
    from uflow_cli.cli import console
    from uflow_cli.inputs import EARLIER, find_images

    named = [path for path in paths if str(path) != "-"]
    found = find_images(named, listed=_listed() if len(named) < len(paths) else ())
    earlier = [item for item in found.left_out if item.reason == EARLIER]
    if earlier and not quiet:
        console.note(f"{len(earlier)} {EARLIER} are left out")
    return replace(found, left_out=[item for item in found.left_out if item.reason != EARLIER])


def _listed() -> list[Path]:
    """The paths that stdin names, one a line or with a zero byte after each; UflowError where there is none."""
    from uflow_cli.errors import UflowError

    data = sys.stdin.buffer.read()
    end = b"\0" if b"\0" in data else b"\n"
    names = [os.fsdecode(name.removesuffix(b"\r")) for name in data.split(end)]
    paths = [Path(name) for name in names if name]
    if not paths:
        raise UflowError("-: stdin names no image; give it a path a line, as `find` does")
    return paths


STDOUT = Path("-")
RESULTS = Path("detections")
ResultFolder = Annotated[Path, typer.Option("--out", help="Folder for results, masks and overlays.")]
WithMasks = Annotated[bool, typer.Option("--masks/--no-masks", help="Write a mask for each image.")]
WithOverlays = Annotated[bool, typer.Option("--overlays/--no-overlays", help="Write an overlay for each image.")]
JsonLines = Annotated[
    Path | None,
    typer.Option("--jsonl", help="Also write a JSON line per image to this file as it comes; - is stdout."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]


@contextlib.contextmanager
def lines_to(place: Path | None, *, go_on: bool = False) -> Iterator[Callable[[str], object]]:
    """What takes lines as they come: stdout, a file or pipe (to `go_on` with or begin anew), or nothing at all."""
    from uflow_cli.errors import UflowError

    if place is None:
        yield lambda _line: None
    elif place == STDOUT:
        yield lambda line: print(line, end="", flush=True)
    else:
        try:
            file = place.open("a" if go_on else "w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UflowError(f"{place}: cannot be written ({error.strerror}); choose another file") from error
        with file:
            yield file.write


def _weights_files(text: str) -> tuple[str, ...]:
    from uflow_cli.config import ModelConfig
    from uflow_cli.schema import settings_of

    files: tuple[str, ...] = settings_of(ModelConfig)["weights"].parse(text)
    return files


WeightsFiles = Annotated[
    Any,
    typer.Option(
        "--weights", parser=_weights_files, metavar="<str,...>",
        help="The extractor's weights files, or a folder, where those of the run lie elsewhere by now.",
    ),
]  # fmt: skip


def chosen_run(model: Path | None, *, weights: Sequence[str] | None = None, quiet: bool = False) -> Run:
    """The run that --model names, or the newest below ./runs, and then says which; with other `weights` files."""
    from uflow_cli.cli import console
    from uflow_cli.run.record import find_newest_run, load_run

    folder = model or find_newest_run(Path("runs"))
    run = load_run(folder, weights=weights)
    if model is None and not quiet:
        console.note(f"using the newest run, {folder}")
    if run.caveat:
        console.warn(run.caveat)
    return run


def are_many(category: str | None) -> bool:
    """Whether --category names many products."""
    return category is not None and (category == "all" or "," in category)


def ask(question: str) -> bool:
    """Whether the user says yes; no where nobody sits at a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(question, err=True)


def chosen_root(dataset: str, category: str | None, data_root: Path | None) -> Path:
    """The folder that holds the data set; says which where --data-root does not name it.

    Where there is none, a terminal is offered to fetch it, if a public address is known.
    """
    from uflow_cli.cli import console
    from uflow_cli.datasets import find_root
    from uflow_cli.errors import DatasetError

    try:
        root = find_root(dataset, category, root=data_root)
    except DatasetError as error:
        root = _fetched(dataset, category, reason=str(error))
    if root != data_root and os.environ.get("RANK", "0") == "0":  # of torchrun's processes, the first alone talks
        console.note(f"data set {dataset} is in {root}")
    return root


def _fetched(dataset: str, category: str | None, *, reason: str) -> Path:
    """The data set from its public address, if the user at the terminal wants so; DatasetError with `reason` if not."""
    from uflow_cli.cli import console
    from uflow_cli.cli.download import fetch
    from uflow_cli.download import sources
    from uflow_cli.errors import DatasetError

    source = sources().get(dataset)
    if source is None:
        raise DatasetError(reason)
    console.note(reason)
    if not ask(f"Fetch {source.title}?"):
        raise DatasetError(f"data set {dataset} is not here; fetch it: uflow download {dataset} --accept-licence")
    return fetch(source, category=None if are_many(category) else category, data_root=None, accepted=False)


def data_of(origin: Origin) -> Dataset:
    """The images that are now where a training had its own from."""
    from uflow_cli.datasets import folder_dataset, load_dataset, without
    from uflow_cli.errors import TrainingError

    if origin.good is not None:
        data = folder_dataset(Path(origin.good))
    elif origin.root is not None:
        data = load_dataset(origin.dataset, root=Path(origin.root), category=origin.category)
    else:
        raise TrainingError("this training was begun from Python, not by uflow train; resume it from there")
    return without(data, origin.excluded, strict=False)[0]


def chosen_cache(folder: Path | None, size: float) -> CacheFolder:
    """The cache that --cache-dir and --cache-size name."""
    from uflow_cli.cache import GIB, CacheFolder
    from uflow_cli.files import default_folder

    if not math.isfinite(size):
        raise typer.BadParameter(f"{size} is no number of GiB; give one such as 50", param_hint="'--cache-size'")
    return CacheFolder(folder or default_folder(), limit=round(size * GIB))


def require_one_threshold(nfa_threshold: float | None, false_alarm_rate: float | None) -> None:
    """Wrong usage if both were given, or a number that is none."""
    for name, value in (("--nfa-threshold", nfa_threshold), ("--false-alarm-rate", false_alarm_rate)):
        if value is not None and not math.isfinite(value):
            raise typer.BadParameter(f"a finite number is needed, not {value}", param_hint=f"'{name}'")
    if nfa_threshold is not None and false_alarm_rate is not None:
        raise typer.BadParameter(
            "give --nfa-threshold or --false-alarm-rate, not both", param_hint="'--false-alarm-rate'"
        )


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with one option for each setting of a run; it gets them by name, None where the user gave none."""
    from uflow_cli.config import ModelConfig, TrainingConfig
    from uflow_cli.schema import settings_of

    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(setting, title)
        )
        for title, kind in (("Model", ModelConfig), ("Training", TrainingConfig))
        for setting in settings_of(kind).values()
    ]
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
    return command


def _option(setting: Setting, title: str) -> Any:
    """The annotation that makes Typer offer `setting`; its default is the preset's, so it has none of its own."""
    name, about = f"--{setting.name.replace('_', '-')}", setting.help
    if setting.kind == "boolean":
        return Annotated[
            bool | None, typer.Option(f"{name}/--no-{name[2:]}", help=about, rich_help_panel=title, show_default=False)
        ]
    if setting.choices and not (setting.is_list or setting.none):
        return Annotated[Literal[setting.choices] | None, typer.Option(name, help=about, rich_help_panel=title)]

    def parse(text: str) -> Any:
        try:
            return setting.parse(text)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r}: {error}") from None

    shown = "|".join(setting.choices) or METAVARS[setting.kind]
    shown += ",..." if setting.is_list else ""
    shown += f"|{setting.none}" if setting.none else ""
    return Annotated[Any, typer.Option(name, parser=parse, metavar=f"<{shown}>", help=about, rich_help_panel=title)]
