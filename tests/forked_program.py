"""The program in processes of its own that can be killed, forked from one that has imported all: a start takes no time."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

import torch

import uflow_cli.training
from uflow_cli.cli import main

assert uflow_cli.training  # imported for the processes to come


def run(arguments: list[str], output: Path, environment: dict[str, str]) -> None:
    """`uflow ARGUMENTS`, both streams appended to `output`."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    with output.open("a", buffering=1) as stream:
        sys.stdout = sys.stderr = stream
        sys.argv = ["uflow", *arguments]
        try:
            main()
        except Exception:
            traceback.print_exc(file=stream)  # before it is closed
            raise


def start(arguments: list[object], output: Path, **environment: object) -> BaseProcess:
    """Start `uflow ARGUMENTS`; `environment` is added to this process's own."""
    context = multiprocessing.get_context("forkserver")
    assert isinstance(context, ForkServerContext)
    context.set_forkserver_preload([__name__])
    variables = {name: str(value) for name, value in {**os.environ, **environment}.items()}
    process = context.Process(target=run, args=([str(argument) for argument in arguments], output, variables))
    path = os.pathsep.join(filter(None, sys.path))  # Python 3.11's server takes it from nowhere else
    with patch.dict(os.environ, PYTHONPATH=path):
        process.start()
    return process
