"""Where a command's words go: results to stdout, the rest to stderr.

In a pipe there is no colour, no progress bar, and a line is as long as it has to be.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

Progress = Callable[[int, int], None]
"""Told (done, in all)."""
_PATIENCE = 1.0


def on_terminal() -> bool:
    """People read stdout, or it shall be as if they did."""
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))


def emit_json(document: Any) -> None:
    """Prints a document. What JSON has no number for (NaN, infinity) is null."""
    import orjson

    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def emit_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Prints a label and a text on each line, the texts below each other."""
    lines = list(pairs)
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        click.echo(f"{click.style(f'{label:<{width}}', bold=True)}  {text}")


def note(message: str) -> None:
    """Something that is no result, for stderr."""
    click.echo(message, err=True)


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A progress bar in bytes, drawn on a terminal's stderr once the work has taken a second."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        bars: list[tuple[Any, Any]] = []

        def advance(done: int, total: int) -> None:
            if not bars and time.monotonic() - started > _PATIENCE and sys.stderr.isatty():
                bars.append(_draw(stack, what, total))
            for bar, task in bars:
                bar.update(task, completed=done, total=total)

        yield advance


def _draw(stack: contextlib.ExitStack, what: str, total: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    description = TextColumn("{task.description}")
    columns = (description, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    return bar, bar.add_task(what, total=total)
