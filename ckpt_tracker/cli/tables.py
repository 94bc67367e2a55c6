"""Tables that fit: on a terminal that is too narrow whole columns are left out, and that is said.

In a pipe they are plain text of any width. Both are written here and not by rich, whose tables take 0.8 ms a line: of
10,000 checkpoints a terminal would see nothing for eight seconds.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

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


class _Filled:
    """A column with its cells."""

    def __init__(self, column: Column[Row], rows: Sequence[Row]) -> None:
        self.header = column.header
        self.spare = column.spare
        self.text = column.text
        self.wrap = column.wrap
        self.cells = [column.header, *map(column.cell, rows)]
        self.ascii = all(map(str.isascii, self.cells))
        self.width = max(map(len if self.ascii else _display_width, self.cells))
        self.folded = False

    @property
    def least(self) -> int:
        """How narrow it may become."""
        return min(self.width, _LEAST_WRAPPED) if self.wrap else self.width

    def fold(self, most: int) -> None:
        """Lets what is wider stand on a line of its own, whole, with its row below it."""
        widths = [_display_width(each) for each in self.cells]
        self.width = max([_display_width(self.header), *(each for each in widths if each <= most)])
        self.folded = True

    def lines(self) -> list[str]:
        """Header and cells, all of one width."""
        align = str.ljust if self.text else str.rjust
        if self.folded:
            return [self._folded(each) for each in self.cells]
        if self.ascii:
            return [align(each, self.width) for each in self.cells]
        return [align(each, self.width - _display_width(each) + len(each)) for each in self.cells]

    def _folded(self, cell: str) -> str:
        room = self.width - _display_width(cell)
        return cell + " " * room if room >= 0 else f"{cell}\n{' ' * self.width}"


def print_rows(
    columns: Sequence[Column[Row]], rows: Sequence[Row], *, chosen: Callable[[Row], bool] = lambda row: False
) -> None:
    """Prints one line a row; the `chosen` ones in green where there is colour."""
    print_lines(table_lines(columns, rows, chosen=chosen))


def print_lines(lines: Sequence[str]) -> None:
    """Prints lines that have their colours."""
    click.echo("\n".join(lines), color=True if coloured() else None)


def table_lines(
    columns: Sequence[Column[Row]], rows: Sequence[Row], *, chosen: Callable[[Row], bool] = lambda row: False
) -> list[str]:
    """The same as text: a header, and one line a row."""
    filled = [_Filled(each, rows) for each in columns]
    if not on_terminal():
        return _joined(filled)
    lines, missing = _for_terminal(filled, [chosen(row) for row in rows])
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
    return [line.rstrip() for line in map(_GAP.join, zip(*(each.lines() for each in filled), strict=True))]


def _for_terminal(filled: Sequence[_Filled], chosen: Sequence[bool]) -> tuple[list[str], list[str]]:
    """The lines, and the headers of the columns that are not in them."""
    if filled[0].width > terminal_width() // 2 and _width(filled) > terminal_width():
        filled[0].fold(terminal_width() // 2)
    shown = _fitting(filled, width=terminal_width())
    missing = [each.header for each in filled if each not in shown]
    last = shown[-1]
    room = terminal_width() - sum(each.width + len(_GAP) for each in shown[:-1])
    if not last.wrap or last.width <= room or len(shown) == 1:
        lines = _joined(shown)
    else:
        lines = list(_wrapped(_joined(shown[:-1]), last.cells, width=max(room, _LEAST_WRAPPED)))
    if coloured():
        styles = [{"bold": True}, *({"fg": "green"} if each else {} for each in chosen)]
        lines = [click.style(line, **style) if style else line for line, style in zip(lines, styles, strict=True)]  # type: ignore[arg-type]
    return lines, missing


def _wrapped(front: Sequence[str], cells: Sequence[str], *, width: int) -> Iterator[str]:
    indent = max(map(_display_width, front)) + len(_GAP)
    for line, cell in zip(front, cells, strict=True):
        first, *rest = textwrap.wrap(cell, width) or [""]
        padded = line + " " * (indent - _display_width(line))
        yield "\n".join([(padded + first).rstrip(), *(" " * indent + each for each in rest)])


def _fitting(filled: Sequence[_Filled], *, width: int) -> list[_Filled]:
    shown = list(filled)
    while _width(shown) > width:
        spare = max(each.spare for each in shown)
        if spare == 0:
            break
        shown.remove([each for each in shown if each.spare == spare][-1])
    return shown


def _width(filled: Sequence[_Filled]) -> int:
    return sum(each.least + len(_GAP) for each in filled) - len(_GAP)


def _display_width(text: str) -> int:
    """How many cells of a terminal it takes: some characters take two, some none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
