"""Tables that fit: on a terminal that is too narrow whole columns are left out, and that is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ckpt_tracker.cli.output import console, print_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = TypeVar("Row")
_ENDLESS = 100_000


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column: its header, and what a row has in it."""

    header: str
    cell: Callable[[Row], str]
    spare: int = 0
    """Where room is short the columns with the highest go first; those with 0 stay."""
    text: bool = False
    """Aligned to the left; numbers are to the right."""


def print_rows(
    columns: Sequence[Column[Row]], rows: Sequence[Row], *, chosen: Callable[[Row], bool] = lambda row: False
) -> None:
    """Prints one line a row; the `chosen` ones in green where there is colour."""
    out = console()
    shown = list(columns)
    while not _fits(_table(shown, rows, chosen), out) and any(each.spare for each in shown):
        spare = max(each.spare for each in shown)
        shown.remove([each for each in shown if each.spare == spare][-1])
    print_table(_table(shown, rows, chosen), out)
    missing = [each.header for each in columns if each not in shown]
    if missing:
        out.print(f"left out for want of room: {', '.join(missing)} (--json has all)", soft_wrap=True)


def _table(columns: Sequence[Column[Row]], rows: Sequence[Row], chosen: Callable[[Row], bool]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for position, each in enumerate(columns):
        # the name in front is never cut short: it may be copied
        overflow, no_wrap = ("fold", False) if position == 0 else ("ellipsis", True)
        justify = "left" if each.text else "right"
        table.add_column(each.header, justify=justify, overflow=overflow, no_wrap=no_wrap)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(each.cell(row) for each in columns), style="green" if chosen(row) else None)
    return table


def _fits(table: Table, out: Console) -> bool:
    from rich.measure import Measurement

    return Measurement.get(out, out.options.update(max_width=_ENDLESS), table).maximum <= out.width
