"""`uflow serve`: find defects in images that come over HTTP."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uflow_cli.cli.options import (
    DEVICE,
    RUNTIME,
    Device,
    FalseAlarmRate,
    NfaThreshold,
    Runtime,
    chosen_run,
    require_one_threshold,
)

if TYPE_CHECKING:
    from uflow_cli.run.detector import TrainedDetector

NEEDED = ("fastapi", "multipart", "prometheus_client", "pycocotools", "uvicorn")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHORTEST_TOKEN = 16


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="[NAME=]RUN", show_default="the newest below ./runs",
            help="Run folder, and the name by which clients ask for it; may be given several times.",
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at; 0.0.0.0 is every one.")] = LOOPBACK[0],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, metavar="<int>", help="0: any free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File of a token that clients must give.")
    ] = None,
    queue: Annotated[
        int, typer.Option("--queue", min=1, metavar="<int>", help="Images in hand before clients are sent away.")
    ] = 32,
    max_megabytes: Annotated[
        int, typer.Option("--max-megabytes", min=1, metavar="<int>", help="Size of an image file.")
    ] = 50,
    max_megapixels: Annotated[
        int, typer.Option("--max-megapixels", min=1, metavar="<int>", help="Pixels of an image, by its header.")
    ] = 50,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", min=0.1, metavar="<float>", help="For a request to come in whole.")
    ] = 20.0,
    nfa_threshold: NfaThreshold = None,
    false_alarm_rate: FalseAlarmRate = None,
    device: Device = DEVICE,
    runtime: Runtime = RUNTIME,
) -> None:  # fmt: skip
    """Answer images sent over HTTP with what `uflow detect --json` says of them, until stopped."""
    from uflow_cli.cli import console
    from uflow_cli.errors import UflowError

    require_one_threshold(nfa_threshold, false_alarm_rate)
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UflowError(f'{lacking[0]} is not installed; install what serving needs: pip install "uflow-cli[serve]"')
    token = _read_token(token_file) if token_file else None

    from uflow_cli.run.detector import open_detector
    from uflow_cli.serve import Limits, bind, create_app
    from uflow_cli.serve import serve as serve_app

    detectors: dict[str, TrainedDetector] = {}
    for name, folder in [_named(text) for text in model or ()] or [(None, None)]:
        run = chosen_run(folder)
        known = name or run.folder.resolve().name
        if known in detectors:
            raise typer.BadParameter(f"two models are called {known}; give NAME=RUN", param_hint="'--model'")
        detectors[known] = open_detector(
            run, device=device.value, runtime=runtime.value, nfa_threshold=nfa_threshold,
            false_alarm_rate=false_alarm_rate,
        )  # fmt: skip
        if detectors[known].rois.is_needed:
            raise UflowError(f"{run.folder} needs the region of interest of each image, which no client can send")
    limits = Limits(queue, max_megabytes * 1_000_000, max_megapixels * 1_000_000, max_seconds)
    app = create_app(detectors, limits=limits, token=token)
    with bind(host, port) as listener:
        place = f"[{host}]" if ":" in host else host
        console.note(f"serving {', '.join(detectors)} on http://{place}:{listener.getsockname()[1]} until Ctrl-C")
        if host not in LOOPBACK and token is None:
            console.warn(f"whoever reaches {host} may send images; give --token-file FILE")
        serve_app(app, listener, limits=limits)


def _named(text: str) -> tuple[str | None, Path | None]:
    """Name and folder in NAME=RUN, which may be a folder alone, also one with = in it."""
    found = re.fullmatch(r"([\w.-]+)=(.+)", text)
    return (None, Path(text)) if found is None or Path(text).is_dir() else (found[1], Path(found[2]))


def _read_token(path: Path) -> str:
    from uflow_cli.errors import UflowError

    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise UflowError(f"cannot read --token-file {path} ({getattr(error, 'strerror', error)})") from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise UflowError(
            f"--token-file {path}: a token of {SHORTEST_TOKEN} or more letters and digits in one line is needed; "
            "make one with `openssl rand -hex 32`"
        )
    return token
