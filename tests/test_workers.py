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
    def job(name):
        return Job(name, lambda: partial(do, name, tmp_path / name), lambda: f"result of {name}")

    return lambda *names: [job(name) for name in names]


@pytest.mark.parametrize("n_workers", [1, 4])
def test_every_job_tells_how_it_ended(jobs, n_workers, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    work, tracebacks = jobs("kill", "bug", "user's error", "well"), []
    ended = {end.category: end for end in run_jobs(work, n_workers=n_workers, on_bug=tracebacks.append)}
    assert {name: end.message for name, end in ended.items()} == {
        "kill": "its worker process was ended by signal 9; too little memory is a common cause",
        "bug": "ZeroDivisionError: in between",
        "user's error": "one line",
        "well": "",
    }
    assert [name for name, end in ended.items() if end.state == "finished"] == ["well"]
    assert ended["well"].result == "result of well"
    [traceback] = tracebacks
    assert "Traceback" in traceback
    assert "ZeroDivisionError" in traceback


def test_no_process_is_started_for_a_result_that_is_there(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", None)
    [outcome] = run_jobs([Job("bolts", lambda: None, lambda: "result")])
    assert (outcome.state, outcome.result) == ("done before", "result")


def test_a_stop_is_told_to_those_at_work_and_no_other_is_started(jobs, tmp_path):
    ended = list(run_jobs(jobs("wait", "well"), should_stop=(tmp_path / "wait").exists))
    assert [(end.category, end.state, end.message) for end in ended] == [
        ("wait", "finished", ""),
        ("well", "not started", ""),
    ]
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
