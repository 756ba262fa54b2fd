"""Tables that stay tables in a narrow terminal: the least important columns go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len  # noqa: TID251
from rich.markup import escape  # noqa: TID251
from rich.table import Table  # noqa: TID251

GAP = 2


@dataclass(frozen=True)
class Column:
    """A column of plain text. Rank 0 always stands; of the others, the highest goes first where width is short."""

    name: str
    cells: Sequence[str]
    rank: int = 0
    justify: Literal["left", "right"] = "right"
    shortest: int | None = None  # cells may lose their beginning down to this width, as paths can; None: they may not
    wraps: bool = False  # what is too long goes on in the next line instead

    @property
    def longest(self) -> int:
        """Width of the whole text."""
        return max((cell_len(text) for text in (self.name, *self.cells)), default=0)

    @property
    def needed(self) -> int:
        """Width below which the column says nothing."""
        return self.longest if self.shortest is None else min(self.longest, max(self.shortest, cell_len(self.name)))


def whole_width(columns: Sequence[Column]) -> int:
    """Width at which nothing is left out or cut."""
    return sum(column.longest + GAP for column in columns) - GAP


def columns_that_fit(columns: Sequence[Column], *, width: int) -> list[Column]:
    """The columns that have room side by side in `width` cells, in their order."""
    kept = list(columns)
    while len(kept) > 1 and sum(column.needed + GAP for column in kept) - GAP > width:
        last = max(kept, key=lambda column: column.rank)
        if last.rank == 0:
            break
        kept.remove(last)
    return kept


def table_of(columns: Sequence[Column], *, width: int, styles: Sequence[str] = ()) -> Table:
    """The columns that fit, with a style per row; columns that have nothing to show are left out."""
    told = [column for column in columns if not column.name or any(column.cells)]
    kept = columns_that_fit(told, width=width)
    spare = width - sum(column.needed + GAP for column in kept) + GAP
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    cells: list[Sequence[str]] = []
    for column in kept:
        taken = max(0, min(spare, column.longest - column.needed))
        spare -= taken
        name, wide = escape(column.name), column.needed + taken
        overflow: Literal["fold", "ellipsis"] = "fold" if column.wraps else "ellipsis"
        table.add_column(name, justify=column.justify, no_wrap=not column.wraps, overflow=overflow, width=wide)
        cells.append(column.cells if column.wraps else [_end(text, wide) for text in column.cells])
    for i, row in enumerate(zip(*cells, strict=True)):
        table.add_row(*(escape(text) for text in row), style=styles[i] if styles else None)
    return table


def _end(text: str, width: int) -> str:
    """The end of `text` that fits, with an ellipsis for what was before."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"
