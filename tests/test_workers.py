"""Processes of categories: each tells how it ended, none takes others with it, and all hear that they shall stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from functools import partial

import pytest

from uflow_cli.errors import UflowError
from uflow_cli.workers import Job, run_jobs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")


def do(what, begun, stop):
    begun.touch()
    if what == "user's error":
        raise UflowError("one line")
    if what == "bug":
        raise ZeroDivisionError("in between")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait":
        try:
            assert stop.wait(60)
        except KeyboardInterrupt:
            begun.with_name("interrupted").touch()
            raise


@pytest.fixture
def jobs(tmp_path):
    return lambda *names: [Job(name, partial(do, name, tmp_path / name)) for name in names]


@pytest.mark.parametrize("n_workers", [1, 4])
def test_every_job_tells_how_it_ended(jobs, n_workers, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    ended = {end.category: end for end in run_jobs(jobs("kill", "bug", "user's error", "well"), n_workers=n_workers)}
    assert {name: end.message for name, end in ended.items()} == {
        "kill": "its worker process was ended by signal 9; too little memory is a common cause",
        "bug": "ZeroDivisionError: in between",
        "user's error": "one line",
        "well": "",
    }
    assert [name for name, end in ended.items() if end.traceback] == ["bug"]
    assert "Traceback" in ended["bug"].traceback


def test_a_stop_is_told_to_those_at_work_and_no_other_is_started(jobs, tmp_path):
    ended = list(run_jobs(jobs("wait", "well"), should_stop=(tmp_path / "wait").exists))
    assert [(end.category, end.message) for end in ended] == [("wait", "")]
    assert not (tmp_path / "well").exists()


def test_an_interrupt_ends_those_at_work_and_waits_for_them(jobs, tmp_path):
    def should_stop():
        if (tmp_path / "wait").exists():
            time.sleep(0.2)
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(jobs("wait", "well"), should_stop=should_stop))
    assert not multiprocessing.active_children()
    assert (tmp_path / "interrupted").exists()
    assert not (tmp_path / "well").exists()
