"""Tables that fit: on a terminal that is too narrow whole columns are left out, and that is said.

In a pipe they are plain text of any width. Both are written here and not by rich, whose tables take 0.8 ms a line: of
10,000 checkpoints a terminal would see nothing for eight seconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import click

from ckpt_tracker.cli.output import on_terminal

Row = TypeVar("Row")
_GAP = "  "
_LEAST_WRAPPED = 24
_USUAL_WIDTH = 80


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column: its header, and what a row has in it."""

    header: str
    cell: Callable[[Row], str]
    spare: int = 0
    """Where room is short the columns with the highest go first; those with 0 stay."""
    text: bool = False
    """Aligned to the left; numbers are to the right."""
    wrap: bool = False
    """Of the last column: on a terminal its text may go on below, in the room that the others leave."""
    at_once: Callable[[Sequence[Row]], list[str]] | None = None
    """The cells of all rows, where that is faster than one by one."""


class _Filled:
    """A column with its cells. They are made when they are first asked for: not all columns have room."""

    def __init__(self, column: Column[Any], rows: Sequence[Any]) -> None:
        self.column = column
        self._rows = rows
        self._folded = False

    @cached_property
    def cells(self) -> list[str]:
        """The header, and what each row has."""
        column = self.column
        cells = column.at_once(self._rows) if column.at_once else map(column.cell, self._rows)
        return [column.header, *cells]

    @cached_property
    def _ascii(self) -> bool:
        return "".join(self.cells).isascii()

    @cached_property
    def _widths(self) -> list[int]:
        return list(map(len if self._ascii else _display_width, self.cells))

    @cached_property
    def width(self) -> int:
        """In characters of a terminal."""
        return max(map(len, self.cells)) if self._ascii else max(self._widths)

    @property
    def least(self) -> int:
        """How narrow it may become."""
        return min(self.width, _LEAST_WRAPPED) if self.column.wrap else self.width

    def fold(self, most: int) -> None:
        """Lets what is wider stand on a line of its own, whole, with its row below it."""
        self.width = max(self._widths[0], *(each for each in self._widths if each <= most))
        self._folded = True

    def padded(self) -> tuple[str, list[str]]:
        """The cells, and how `%` makes all of them of one width."""
        if self._ascii and not self._folded:
            return f"%{'-' if self.column.text else ''}{self.width}s", self.cells
        return "%s", list(map(self._padded, self.cells, self._widths))

    def _padded(self, cell: str, taken: int) -> str:
        room = self.width - taken
        if room < 0:
            return f"{cell}\n{' ' * self.width}"
        return cell + " " * room if self.column.text else " " * room + cell


def print_rows(
    columns: Sequence[Column[Row]], rows: Sequence[Row], *, chosen: Callable[[Row], bool] = lambda row: False
) -> None:
    """Prints one line a row; the `chosen` ones in green where there is colour."""
    print_lines(table_lines(columns, rows, chosen=chosen))


def print_lines(lines: Sequence[str]) -> None:
    """Prints lines that have their colours."""
    click.echo("\n".join(lines), color=True)


def table_lines(
    columns: Sequence[Column[Row]], rows: Sequence[Row], *, chosen: Callable[[Row], bool] = lambda row: False
) -> list[str]:
    """The same as text: a header, and one line a row."""
    filled = [_Filled(each, rows) for each in columns]
    if not on_terminal():
        return _joined(filled)
    shown = _fitting(filled, width=terminal_width())
    lines = _for_terminal(shown, width=terminal_width())
    missing = [each.column.header for each in filled if each not in shown]
    if coloured():
        lines[0] = click.style(lines[0], bold=True)
        for number in [number for number, row in enumerate(rows, start=1) if chosen(row)]:
            lines[number] = click.style(lines[number], fg="green")
    if missing:
        note = f"left out for want of room: {', '.join(missing)} (--json has all)"
        lines.append(click.style(note, dim=True) if coloured() else note)
    return lines


def coloured() -> bool:
    """Colour is wanted: a terminal, and nobody who set `$NO_COLOR`."""
    return on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal_width() -> int:
    """In characters; `$COLUMNS` counts more than the terminal."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1).columns or _USUAL_WIDTH
    except (OSError, ValueError):
        return _USUAL_WIDTH


def _joined(filled: Sequence[_Filled]) -> list[str]:
    forms, cells = zip(*(each.padded() for each in filled), strict=True)
    # one format a line takes half as long as padding each cell by itself
    return [line.rstrip() for line in map(_GAP.join(forms).__mod__, zip(*cells, strict=True))]


def _for_terminal(shown: Sequence[_Filled], *, width: int) -> list[str]:
    """The last column goes on below where it is too wide."""
    last = shown[-1]
    room = width - sum(each.width + len(_GAP) for each in shown[:-1])
    if not last.column.wrap or last.width <= room or len(shown) == 1:
        return _joined(shown)
    return list(_wrapped(_joined(shown[:-1]), last.cells, width=max(room, _LEAST_WRAPPED)))


def _wrapped(front: Sequence[str], cells: Sequence[str], *, width: int) -> Iterator[str]:
    import textwrap

    indent = max(map(_display_width, front)) + len(_GAP)
    for line, cell in zip(front, cells, strict=True):
        first, *rest = textwrap.wrap(cell, width) or [""]
        padded = line + " " * (indent - _display_width(line))
        yield "\n".join([(padded + first).rstrip(), *(" " * indent + each for each in rest)])


def _fitting(filled: Sequence[_Filled], *, width: int) -> list[_Filled]:
    """The columns that have room; before one is left out, the first one is folded."""
    shown = _affordable(filled, width=width)
    if len(shown) == len(filled) and _width(shown) <= width:
        return shown
    if filled[0].width <= width // 2:
        return shown
    filled[0].fold(width // 2)
    return _affordable(filled, width=width)


def _affordable(filled: Sequence[_Filled], *, width: int) -> list[_Filled]:
    """As many as there is room for, the ones that can be spared least first; none behind them is made."""
    shown: list[_Filled] = []
    for each in sorted(filled, key=lambda each: each.column.spare):
        if each.column.spare and _width([*shown, each]) > width:
            break
        shown.append(each)
    return [each for each in filled if each in shown]


def _width(filled: Sequence[_Filled]) -> int:
    return sum(each.least + len(_GAP) for each in filled) - len(_GAP)


def _display_width(text: str) -> int:
    """How many cells of a terminal it takes: some characters take two, some none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
