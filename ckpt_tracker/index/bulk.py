"""Rows into the index and out of it: a run's when it starts, one checkpoint's after each save, many while catching up.

It uses sqlite3 itself. Whoever looks has to catch up where a training was killed between manifest and index, and
importing sqlite-utils takes some hundred times longer than that. With its `insert_all` a row takes four times as long
as with `executemany` (9 and 2.4 µs), and most of a rebuild would be that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import islice

from ckpt_tracker.index import later
from ckpt_tracker.index.connection import immediate
from ckpt_tracker.index.rows import METRIC_COLUMNS, Key, Row, checkpoint_row, evaluation_row, metric_rows, run_row
from ckpt_tracker.records import CheckpointRecord, RunRecord

_AT_ONCE = 500


def catch_up(
    connection: sqlite3.Connection, run: RunRecord, *, removed: Sequence[int], added: Iterable[CheckpointRecord]
) -> None:
    """One transaction: a run's row, what was measured later, and the checkpoints that are gone and new."""
    with immediate(connection):
        later.forget(connection.execute, run.name)
        connection.execute("DELETE FROM _evaluations WHERE run = ?", (run.name,))
        _insert(connection, "_runs", [run_row(run)])
        _insert(connection, "_evaluations", [evaluation_row(run.name, each) for each in run.evaluations])
        _delete(connection, [(run.name, version) for version in removed])
        rest = iter(added)
        while records := list(islice(rest, _AT_ONCE)):
            _put(connection, records)
        later.rank(connection.execute, run.name)


def change(connection: sqlite3.Connection, *, removed: Sequence[Key], changed: Sequence[CheckpointRecord]) -> None:
    """One transaction: checkpoints that are gone, and others that are new or changed."""
    with immediate(connection):
        _delete(connection, removed)
        _put(connection, changed)
        for record in changed:
            later.rank(connection.execute, record.run, record.version)


def remove_run(connection: sqlite3.Connection, run: str) -> None:
    """One transaction: all that there is of a run."""
    with immediate(connection):
        connection.execute("DELETE FROM _runs WHERE name = ?", (run,))
        for table in ("_checkpoints", "_metrics", "_evaluations", "_sources"):
            connection.execute(f"DELETE FROM {table} WHERE run = ?", (run,))


def _put(connection: sqlite3.Connection, records: Sequence[CheckpointRecord]) -> None:
    # what was known may have had other metrics
    _delete(connection, [(record.run, record.version) for record in records])
    _insert(connection, "_checkpoints", list(map(checkpoint_row, records)))
    _insert_tuples(connection, "_metrics", METRIC_COLUMNS, [row for each in records for row in metric_rows(each)])


def _delete(connection: sqlite3.Connection, keys: Sequence[Key]) -> None:
    for table in ("_checkpoints", "_metrics"):
        connection.executemany(f"DELETE FROM {table} WHERE run = ? AND version = ?", keys)


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
    if rows:
        _insert_tuples(connection, table, tuple(rows[0]), [tuple(row.values()) for row in rows])


def _insert_tuples(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]]
) -> None:
    places = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)
