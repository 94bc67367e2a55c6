"""Tables that fit: on a terminal that is too narrow whole columns are left out, and that is said.

In a pipe they are plain text of any width, which needs no rich: a list of 10,000 checkpoints is printed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import click

from ckpt_tracker.cli.output import on_terminal

if TYPE_CHECKING:
    from rich.table import Table

Row = TypeVar("Row")
_GAP = "  "


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column: its header, and what a row has in it."""

    header: str
    cell: Callable[[Row], str]
    spare: int = 0
    """Where room is short the columns with the highest go first; those with 0 stay."""
    text: bool = False
    """Aligned to the left; numbers are to the right."""


@dataclass(frozen=True)
class _Filled:
    """A column with its cells."""

    column: Column[object]
    cells: list[str]

    @property
    def width(self) -> int:
        return max(map(len, [self.column.header, *self.cells]))

    def lines(self) -> list[str]:
        """Header and cells, all of one width."""
        width = self.width
        return [
            each.ljust(width) if self.column.text else each.rjust(width) for each in [self.column.header, *self.cells]
        ]


def print_rows(
    columns: Sequence[Column[Row]], rows: Sequence[Row], *, chosen: Callable[[Row], bool] = lambda row: False
) -> None:
    """Prints one line a row; the `chosen` ones in green where there is colour."""
    filled = [_Filled(each, [each.cell(row) for row in rows]) for each in columns]  # type: ignore[arg-type]
    if not on_terminal():
        for words in zip(*(each.lines() for each in filled), strict=True):
            click.echo(_GAP.join(words).rstrip())
        return
    from rich.console import Console

    out = Console(markup=False, highlight=False, emoji=False)
    shown = _fitting(filled, width=out.width)
    out.print(_table(shown, [chosen(row) for row in rows]))
    missing = [each.column.header for each in filled if each not in shown]
    if missing:
        click.echo(f"left out for want of room: {', '.join(missing)} (--json has all)")


def _fitting(filled: Sequence[_Filled], *, width: int) -> list[_Filled]:
    shown = list(filled)
    while sum(each.width + len(_GAP) for each in shown) > width + len(_GAP):
        spare = max(each.column.spare for each in shown)
        if spare == 0:
            break
        shown.remove([each for each in shown if each.column.spare == spare][-1])
    return shown


def _table(filled: Sequence[_Filled], chosen: Sequence[bool]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for position, each in enumerate(filled):
        # the name in front is never cut short: it may be copied
        overflow, no_wrap = ("fold", False) if position == 0 else ("ellipsis", True)
        justify = "left" if each.column.text else "right"
        table.add_column(each.column.header, justify=justify, overflow=overflow, no_wrap=no_wrap)  # type: ignore[arg-type]
    for green, cells in zip(chosen, zip(*(each.cells for each in filled), strict=True), strict=True):
        table.add_row(*cells, style="green" if green else None)
    return table
