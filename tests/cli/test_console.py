"""What the terminal shows, as text: tables at fixed widths, in full and where there is little room."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console  # noqa: TID251

from uflow_cli.cli.console.columns import Column, columns_that_fit, table_of
from uflow_cli.cli.console.training import epoch_table
from uflow_cli.training import Epoch


def text_of(table, *, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


RECORDS = [
    Epoch(9, 200, 2.5, 2.625, 1e-3, 61.0, True, 123.44, (0.983, 1.021, 1.104), 2.625),
    Epoch(10, 200, 2.4375, 2.75, 5e-4, 67.5, False, 98.0, (0.99, 1.0, 1.3), 2.75),
]

# Golden: sees order, alignment, units and which columns go first. Red is expected where a column is added or renamed;
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


def test_columns_go_by_rank_until_the_others_fit():
    columns = [Column("a", ["12345"]), Column("b", ["12345"], rank=2), Column("c", ["12345"], rank=1)]
    assert [[column.name for column in columns_that_fit(columns, width=width)] for width in (19, 18, 12, 11, 1)] == [
        ["a", "b", "c"],
        ["a", "c"],
        ["a", "c"],
        ["a"],
        ["a"],
    ]


def test_a_long_name_gives_way_before_numbers_do():
    columns = [Column("name", ["a/very/long/path/to/somewhere"], shortest=8, justify="left"), Column("n", ["123456"])]
    lines = text_of(table_of(columns, width=20), width=20).splitlines()
    assert lines[1].startswith("a/very")
    assert lines[1].endswith("…  123456")
    assert max(map(len, lines)) <= 20


def test_cells_are_text_and_no_markup():
    assert "[red]x[/]" in text_of(table_of([Column("[b]", ["[red]x[/]"])], width=40), width=40)
