"""Where a command's words go: results to stdout, the rest to stderr.

In a pipe there is no colour, no progress bar, and a line is as long as it has to be.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Progress = Callable[[int, int], None]
"""Told (done, in all)."""
_PATIENCE = 1.0
_ENDLESS = 100_000


def console() -> Console:
    """stdout. Nothing in what is printed is taken for markup."""
    from rich.console import Console

    made = Console(markup=False, highlight=False, emoji=False)
    return made if made.is_terminal else Console(markup=False, highlight=False, emoji=False, width=_ENDLESS)


def print_table(table: Table, out: Console) -> None:
    """Prints a table; in a pipe without the blanks that fill up its last column."""
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as printed:
        out.print(table)
    for line in printed.get().splitlines():
        click.echo(line.rstrip())


def emit_json(document: Any) -> None:
    """Prints a document. What JSON has no number for (NaN, infinity) is null."""
    import orjson

    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def note(message: str) -> None:
    """Something that is no result, for stderr."""
    click.echo(message, err=True)


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A progress bar in bytes, drawn on a terminal's stderr once the work has taken a second."""
    from contextlib import ExitStack

    started = time.monotonic()
    with ExitStack() as stack:
        bars: list[tuple[Any, Any]] = []

        def advance(done: int, total: int) -> None:
            if not bars and time.monotonic() - started > _PATIENCE and sys.stderr.isatty():
                bars.append(_draw(stack, what))
            for bar, task in bars:
                bar.update(task, completed=done, total=total)

        yield advance


def _draw(stack: contextlib.ExitStack, what: str) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    return bar, bar.add_task(what, total=None)
