"""The text that the terminal shows: tables at fixed widths, in full and where there is little room."""

from __future__ import annotations

import io
import math
from datetime import datetime
from pathlib import Path

import pytest
from products import plain_calibration
from rich.console import Console  # noqa: TID251

from uflow_cli.cli.console import note, print_runs, print_trainings, warn
from uflow_cli.cli.console.bars import progress_bars
from uflow_cli.cli.console.tables import Column, columns_that_fit, runs_columns, table_of
from uflow_cli.cli.console.training import epoch_table
from uflow_cli.config import ModelConfig, TrainingConfig
from uflow_cli.run.listing import ListedRun
from uflow_cli.run.log import Epoch
from uflow_cli.run.record import Origin, Progress, Run
from uflow_cli.workers import Outcome

NOON = datetime(2026, 11, 22, 12).astimezone()


def text_of(table, *, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


RECORDS = [
    Epoch(9, 200, 2.5, 2.625, 1e-3, 61.0, True, 123.44, (0.983, 1.021, 1.104), 2.625),
    Epoch(10, 200, 2.4375, 2.75, 5e-4, 67.5, False, 98.0, (0.99, 1.0, 1.3), 2.75),
]

# Golden tables: they see order, alignment, units and which columns go first. Red is expected where a column is added or renamed;
# then look at the new table, and copy it from the failure.
WIDE = """\
 epoch    loss  held-out loss        mean z² by scale  images/s  learning rate  elapsed
 9/200  2.5000         2.6250  best    0.98 1.02 1.10     123.4          0.001  0:01:01
10/200  2.4375         2.7500          0.99 1.00 1.30      98.0         0.0005  0:01:08"""
NARROW = """\
 epoch    loss  held-out loss        mean z² by scale
 9/200  2.5000         2.6250  best    0.98 1.02 1.10
10/200  2.4375         2.7500          0.99 1.00 1.30"""


@pytest.mark.parametrize(("width", "expected"), [(120, WIDE), (60, NARROW)])
def test_training_table(width, expected):
    assert text_of(epoch_table(RECORDS, width=width), width=width) == expected


def test_training_table_shows_what_chose_the_epoch_where_the_loss_did_not():
    records = [Epoch(1, 2, 2.5, math.nan, 1e-3, 1.0, True, 10.0, (math.nan,), 0.75)]
    assert text_of(epoch_table(records, width=60), width=60).splitlines() == [
        "epoch    loss  held-out loss  criterion",
        "  1/2  2.5000              -     0.7500  best",
    ]


def a_run(folder, *, epochs=(20, 20), ratios=(0.983, 1.021, 1.104), **origin):
    lowest = tuple(float(value) for value in range(-2, 20))
    names = {"dataset": "mvtec", "category": folder.name, "n_training": 170, "n_selection": 10, "n_calibration": 22}
    return Run(
        folder, ModelConfig(), TrainingConfig(), Origin(**names | origin),
        Progress(epochs[0], 14, 1.73426, "finished", epochs[1], "held-out loss", 1.73426),
        plain_calibration(*(64 for _ in ratios), mean_ratio=ratios, lowest_log_nfa=lowest, shared=False),
        "digest", "flow-0014-digest.safetensors",
    )  # fmt: skip


OUTCOMES = [
    Outcome("bottle", "finished", 61.4, a_run(Path("runs/mvtec/bottle"))),
    Outcome("cable", "done before", 0.0, a_run(Path("runs/mvtec/cable"), n_training=180)),
    Outcome("capsule", "failed", 3.2, message="data/capsule/train/good/005.png: the PNG file is damaged; remove it"),
    Outcome("carpet", "stopped", 12.0, a_run(Path("runs/mvtec/carpet"), epochs=(15, 20))),
    Outcome("grid", "not started"),
]
TRAININGS = """\
category  state        images  epochs  best  held-out bits/dim      v by scale  flagged  seconds  message
bottle    finished        202   20/20    14             1.7343  0.98 1.02 1.10     2/22       61
cable     done before     212   20/20    14             1.7343  0.98 1.02 1.10     2/22
capsule   failed                                                                               3  data/capsule/train/good/0
                                                                                                  05.png: the PNG file is
                                                                                                  damaged; remove it
carpet    stopped         202   15/20    14             1.7343  0.98 1.02 1.10     2/22       12
grid      not started
2 of 5 categories are trained, 1 failed, 2 left for the same command; runs in runs/mvtec
"""
TRAININGS_NARROW = """\
category  state        held-out bits/dim  flagged  message
bottle    finished                1.7343     2/22
cable     done before             1.7343     2/22
capsule   failed                                   data/capsule/train/good/005.p
                                                   ng: the PNG file is damaged;
                                                   remove it
carpet    stopped                 1.7343     2/22
grid      not started
2 of 5 categories are trained, 1 failed, 2 left for the same command; runs in runs/mvtec
"""


@pytest.mark.parametrize(("width", "expected"), [(123, TRAININGS), (80, TRAININGS_NARROW)])
def test_table_of_trained_categories(capsys, monkeypatch, width, expected):
    monkeypatch.setattr("uflow_cli.cli.console.terminal.PLAIN_WIDTH", width)
    print_trainings(OUTCOMES, folder=Path("runs/mvtec"))
    assert "".join(line.rstrip() + "\n" for line in capsys.readouterr().out.splitlines()) == expected


LISTED = [
    ListedRun(Path("runs/mvtec/bottle"), "finished", NOON, 8_500_000, a_run(Path("runs/mvtec/bottle"))),
    ListedRun(
        Path("runs/mvtec/carpet"), "interrupted", NOON, 25_000_000, a_run(Path("runs/mvtec/carpet"), epochs=(15, 20))
    ),
    ListedRun(Path("runs/begun"), "training", NOON, 700),
    ListedRun(Path("runs/hurt"), "damaged", NOON, 3_000, problem="runs/hurt/config.json is damaged; train again"),
]
RUNS = """\
run                state        data set      preset  extractor           images  epochs  best  held-out bits/dim  smallest rate           trained      size
runs/mvtec/bottle  finished     mvtec/bottle  lite    efficientnet-lite0     202   20/20    14             1.7343          0.043  2026-11-22 12:00   8.1 MiB
runs/mvtec/carpet  interrupted  mvtec/carpet  lite    efficientnet-lite0     202   15/20    14             1.7343          0.043  2026-11-22 12:00  23.8 MiB
runs/begun         training                                                                                                       2026-11-22 12:00     700 B
runs/hurt          damaged                                                                                                        2026-11-22 12:00   2.9 KiB
damaged: runs/hurt/config.json is damaged; train again
"""
RUNS_NARROW = """\
run                state        images  epochs  best  held-out bits/dim
runs/mvtec/bottle  finished        202   20/20    14             1.7343
runs/mvtec/carpet  interrupted     202   15/20    14             1.7343
runs/begun         training
runs/hurt          damaged"""


def test_runs_table_is_whole_where_there_is_no_terminal(capsys):
    print_runs(LISTED, roots=[Path("runs")], as_json=False)
    assert "".join(line.rstrip() + "\n" for line in capsys.readouterr().out.splitlines()) == RUNS


def test_runs_table_keeps_the_key_figures_in_a_narrow_terminal():
    assert text_of(table_of(runs_columns(LISTED), width=80), width=80) == RUNS_NARROW


def test_warnings_go_through_the_stderr_that_a_live_display_put_in_place(monkeypatch):
    class Proxy(io.StringIO):
        rich_proxied_file = io.StringIO()  # what a console of rich would write to, and spoil the picture

    monkeypatch.setattr("sys.stderr", proxy := Proxy())
    warn("mind the [gap]")
    note("a note")
    assert proxy.getvalue() == "warning: mind the [gap]\na note\n"
    assert Proxy.rich_proxied_file.getvalue() == ""


@pytest.mark.parametrize("width", [48, 80, 120])
def test_bars_leave_room_for_what_the_terminal_echoes(width):
    bars = progress_bars(Console(width=width, file=io.StringIO()))
    bars.add_task("training", total=42_800, completed=21_400)
    lines = text_of(bars.get_renderable(), width=width).splitlines()
    assert len(lines) == 1
    assert len(lines[0]) <= width - 4
    assert "training" in lines[0]
    assert "21400/42800" in lines[0]


def test_columns_go_by_rank_until_the_others_fit():
    columns = [Column("a", ["12345"]), Column("b", ["12345"], rank=2), Column("c", ["12345"], rank=1)]
    assert [[column.name for column in columns_that_fit(columns, width=width)] for width in (19, 18, 12, 11, 1)] == [
        ["a", "b", "c"],
        ["a", "c"],
        ["a", "c"],
        ["a"],
        ["a"],
    ]


def test_a_long_path_gives_way_before_numbers_do_and_keeps_its_end():
    columns = [Column("name", ["a/very/long/path/to/somewhere"], shortest=8, justify="left"), Column("n", ["123456"])]
    lines = text_of(table_of(columns, width=20), width=20).splitlines()
    assert lines == ["name               n", "…o/somewhere  123456"]


def test_cells_are_text_and_no_markup():
    assert "[red]x[/]" in text_of(table_of([Column("[b]", ["[red]x[/]"])], width=40), width=40)
