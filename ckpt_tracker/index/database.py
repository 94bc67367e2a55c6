"""The index: SQLite over all manifests, to answer "which was best" at once. A cache: it can be rebuilt at any time.

Reading uses sqlite3 itself, because importing sqlite-utils takes longer than most questions; schema and writes are
sqlite-utils'. Every write is one `BEGIN IMMEDIATE` transaction: a deferred one that reads first and then writes fails
under other writers, however long its time-out. Connections belong to the thread and the process that opened them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ckpt_tracker.disk.filesystem import unused_name
from ckpt_tracker.errors import CkptTrackerError, StoreFull
from ckpt_tracker.index.rows import (
    checkpoint_from_row,
    checkpoint_row,
    evaluation_from_row,
    evaluation_row,
    metric_rows,
    metric_value,
    parsed,
    run_from_row,
    run_row,
)
from ckpt_tracker.records import CheckpointRecord, Evaluation, Monitor, RunRecord

if TYPE_CHECKING:
    from sqlite_utils import Database

_log = logging.getLogger("ckpt_tracker")
_SCHEMA = 4
# What `sqlite_master` says in each schema, 0 being an empty file. Whatever else an index holds, a trigger or a view,
# somebody else has put there, and it is rebuilt.
_OURS = {
    0: "4f53cda18c2baa0c",
    1: "99582760b6fce490",
    2: "ee45f58e9f2be5ab",
    3: "ff6a1552dfc679c2",
    4: "b2b5d1000e2ebbce",
}
_BUSY_SECONDS = 60.0
# of one run: a metric of the training's own is never overruled by one that was measured later
_VALUES = (
    "SELECT run, version, value FROM metrics WHERE run = ? AND name = ? UNION ALL "
    "SELECT run, version, value FROM evaluations AS later WHERE run = ? AND name = ? AND NOT EXISTS (SELECT 1 "
    "FROM metrics AS own WHERE own.run = later.run AND own.version = later.version AND own.name = later.name)"
)
_Answer = TypeVar("_Answer")
# what SQLite says when the file is sound, or can't be told to be damaged
_NO_DAMAGE = (
    *("is locked", "is busy", "is full", "readonly database", "unable to open", "interrupted"),
    *("closed database", "out of memory"),
)


_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process, kept: to close them here could end what the parent is at."""


class Index:
    """The index of one store.

    `fill` is called to put everything into an empty index: after it was missing, damaged, or of another schema.
    """

    def __init__(self, path: Path, *, fill: Callable[[Index], None]) -> None:
        self.path = path
        self._fill = fill
        self._connections: dict[tuple[int, int, int], sqlite3.Connection] = {}
        self._filling = threading.RLock()
        weakref.finalize(self, _close, self._connections).atexit = False

    def close(self) -> None:
        """Closes this process's connections; the next question opens one again."""
        _close(self._connections)

    # -- writing ---------------------------------------------------------------------------------------------

    def put_run(self, run: RunRecord) -> None:
        """Adds or updates a run, with all that was measured of its checkpoints later, in one transaction."""

        def put(db: Database) -> None:
            db.table("runs").insert(run_row(run), replace=True)
            db.table("evaluations").delete_where("run = ?", [run.name])
            db.table("evaluations").insert_all(evaluation_row(run.name, each) for each in run.evaluations)

        self._write(put)

    def put(self, records: Iterable[CheckpointRecord]) -> None:
        """Adds or updates checkpoints, in one transaction."""
        known = list(records)
        self._write(lambda db: _put(db, known))

    def remove(self, run: str, versions: Iterable[int]) -> None:
        """Forgets checkpoints, in one transaction."""
        self.change(removed=[(run, version) for version in versions])

    def change(self, *, removed: Iterable[tuple[str, int]] = (), changed: Iterable[CheckpointRecord] = ()) -> None:
        """Forgets checkpoints (run, version), and updates others: all in one transaction."""
        keys, records = list(removed), list(changed)

        def change_all(db: Database) -> None:
            for key in keys:
                db.table("checkpoints").delete_where("run = ? AND version = ?", key)
                db.table("metrics").delete_where("run = ? AND version = ?", key)
            _put(db, records)

        self._write(change_all)

    def remove_run(self, run: str) -> None:
        """Forgets a run and its checkpoints."""

        def forget(db: Database) -> None:
            db.table("runs").delete_where("name = ?", [run])
            for table in ("checkpoints", "metrics", "evaluations"):
                db.table(table).delete_where("run = ?", [run])

        self._write(forget)

    # -- reading ---------------------------------------------------------------------------------------------

    def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        return self._sound(lambda: self._runs("ORDER BY created_at, name"))

    def run(self, name: str) -> RunRecord | None:
        """The run of that name."""
        return next(iter(self._sound(lambda: self._runs("WHERE name = ?", name))), None)

    def versions(self) -> dict[str, set[int]]:
        """The versions the index knows, by run."""
        known: dict[str, set[int]] = {}
        for run, version in self._read("SELECT run, version FROM checkpoints"):
            known.setdefault(run, set()).add(version)
        return known

    def digests(self, run: str) -> dict[int, str]:
        """The digest of each version of a run."""
        return dict(map(tuple, self._read("SELECT version, digest FROM checkpoints WHERE run = ?", run)))

    def checkpoints(self, run: str | None = None) -> list[CheckpointRecord]:
        """Checkpoints of one run, or of all, oldest version first."""
        if run is None:
            return self._sound(lambda: self._records("", run=None))
        return self._sound(lambda: self._records("WHERE run = ?", run, run=run))

    def checkpoint(self, run: str, version: int) -> CheckpointRecord | None:
        """One checkpoint."""
        where = "WHERE run = ? AND version = ?"
        return next(iter(self._sound(lambda: self._records(where, run, version, run=run))), None)

    def last(self, run: str) -> int | None:
        """The newest version of a run."""
        return self._version("SELECT max(version) FROM checkpoints WHERE run = ?", run)

    def at(self, run: str, *, epoch: int | None = None, step: int | None = None) -> int | None:
        """The newest version of that epoch, or of that step."""
        column, value = ("epoch", epoch) if epoch is not None else ("step", step)
        sql = f"SELECT max(version) FROM checkpoints WHERE run = ? AND {column} = ?"
        return self._version(sql, run, value)

    def best(self, run: str, monitor: Monitor) -> int | None:
        """The version with the best finite value; of equal ones the earliest. None where none has the metric.

        Weights that hold NaN or infinities are never best.
        """
        order = "ASC" if monitor.mode == "min" else "DESC"
        return self._version(
            f"SELECT version FROM ({_VALUES}) JOIN checkpoints USING (run, version) "
            f"WHERE value > -9e999 AND value < 9e999 AND nonfinite = '{{}}' ORDER BY value {order}, version LIMIT 1",
            *(run, monitor.metric) * 2,
        )

    def metric_names(self, run: str) -> list[str]:
        """Every metric that some checkpoint of the run has."""
        sql = (
            "SELECT name FROM metrics WHERE run = ? UNION SELECT name FROM evaluations "
            "JOIN checkpoints USING (run, version) WHERE run = ? ORDER BY name"
        )
        return [row[0] for row in self._read(sql, run, run)]

    # -- as a file -------------------------------------------------------------------------------------------

    def problem(self) -> str | None:
        """What SQLite finds wrong with its own structures, or None."""
        found: str = self._read("PRAGMA integrity_check(1)")[0][0]
        return None if found == "ok" else found

    def rebuild(self) -> None:
        """Forgets everything, and fills it anew from the manifests."""
        self._delete()
        self._read("SELECT 1")

    # -- connections -----------------------------------------------------------------------------------------

    def _runs(self, where: str, *values: object) -> list[RunRecord]:
        later: dict[str, list[Evaluation]] = {}
        for row in self._read("SELECT * FROM evaluations ORDER BY version, name"):
            later.setdefault(row["run"], []).append(evaluation_from_row(row))
        rows = self._read(f"SELECT * FROM runs {where}", *values)
        return [run_from_row(row, evaluations=later.get(row["name"], ())) for row in rows]

    def _records(self, where: str, *values: object, run: str | None) -> list[CheckpointRecord]:
        rows = self._read(f"SELECT * FROM checkpoints {where} ORDER BY run, version", *values)
        metrics: dict[tuple[str, int], dict[str, float]] = {}
        for row in self._read(f"SELECT run, version, name, value FROM metrics {where}", *values):
            metrics.setdefault((row["run"], row["version"]), {})[row["name"]] = metric_value(row["value"])
        later: dict[tuple[str, int], list[Evaluation]] = {}
        for row in self._read(f"SELECT * FROM evaluations {where} ORDER BY name", *values):
            later.setdefault((row["run"], row["version"]), []).append(evaluation_from_row(row))
        tags, pins = self._marks(run)
        keys = [(row["run"], row["version"]) for row in rows]
        return [
            checkpoint_from_row(
                row,
                metrics=metrics.get(key, {}),
                tags=tags.get(key, ()),
                pinned=key in pins,
                evaluations=later.get(key, ()),
            )
            for row, key in zip(rows, keys, strict=True)
        ]

    def _version(self, sql: str, *values: object) -> int | None:
        rows = self._read(sql, *values)
        return rows[0][0] if rows else None

    def _marks(self, run: str | None) -> tuple[dict[tuple[str, int], tuple[str, ...]], set[tuple[str, int]]]:
        """The tags of each checkpoint that has some, and which are pinned."""
        found: dict[tuple[str, int], tuple[str, ...]] = {}
        pinned: set[tuple[str, int]] = set()
        sql = "SELECT name, tags, pins FROM runs" + ("" if run is None else " WHERE name = ?")
        for name, tags, pins in self._read(sql, *(() if run is None else (run,))):
            pinned.update((name, version) for version in parsed(pins))
            for tag, version in parsed(tags).items():
                found[name, version] = (*found.get((name, version), ()), tag)
        return found, pinned

    def _read(self, sql: str, *values: object) -> list[sqlite3.Row]:
        return self._mending(lambda connection: connection.execute(sql, values).fetchall())

    def _write(self, change: Callable[[Database], object]) -> None:
        from sqlite_utils import Database

        def transact(connection: sqlite3.Connection) -> None:
            with _immediate(connection):
                change(Database(connection, execute_plugins=False))

        self._mending(transact)

    def _mending(self, ask: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Asks; where the index turns out damaged it is rebuilt, that is said, and it is asked once more."""
        try:
            return ask(self._connection())
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not _is_damage(error):
                raise self._unusable(error) from error
            self._discard(error)
            return self._again(ask)

    def _again(self, ask: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        try:
            return ask(self._connection())
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> CkptTrackerError:
        """What SQLite says names neither the file nor the way out."""
        if "is full" in str(error):
            return StoreFull(errno.ENOSPC, f"no room left for the index {self.path}: free space there; it is a cache")
        return CkptTrackerError(
            f"the index {self.path} can't be used: {error}; check its disk and permissions. It is a cache: "
            "no checkpoint is lost with it"
        )

    def _sound(self, answer: Callable[[], _Answer]) -> _Answer:
        """The same for rows that SQLite reads well, and that can't have been written."""
        try:
            return answer()
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            self._discard(error)
            return answer()

    def _connection(self) -> sqlite3.Connection:
        try:
            inode = self.path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        key = (os.getpid(), threading.get_ident(), inode)
        connection = self._connections.get(key)
        if connection is None:
            connection = self._connect()
            self._connections[(*key[:2], self.path.stat().st_ino)] = connection
        return connection

    def _connect(self) -> sqlite3.Connection:
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise sqlite3.DatabaseError("it is no plain file")
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA synchronous = NORMAL")
            if _schema(connection) != _SCHEMA:
                self._prepare(connection)
        except BaseException:
            for key in [key for key, known in self._connections.items() if known is connection]:
                del self._connections[key]
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        from ckpt_tracker.index.migrations import upgrade

        connection.execute("PRAGMA journal_mode = WAL")
        with self._filling, _immediate(connection):
            if _schema(connection) == _SCHEMA:
                return
            upgrade(connection, schema=_SCHEMA)
            key = (os.getpid(), threading.get_ident(), self.path.stat().st_ino)
            self._connections[key] = connection
            self._fill(self)

    def _discard(self, error: Exception) -> None:
        _log.warning("the index %s is damaged (%s): rebuilt from the manifests", self.path, error)
        self._delete()

    def _delete(self) -> None:
        self.close()
        for suffix in ("", "-wal", "-shm", "-journal"):
            path = self.path.with_name(self.path.name + suffix)
            if path.is_dir() and not path.is_symlink():
                os.replace(path, path.with_name(unused_name(path.name)))
            path.unlink(missing_ok=True)


def schema_digest(connection: sqlite3.Connection) -> str:
    """A hash of every table, index, trigger and view of a database, but for the table of migrations, which differs
    from one version of sqlite-utils to another.
    """
    rows = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master "
        "WHERE tbl_name != '_sqlite_migrations' OR type NOT IN ('table', 'index') ORDER BY type, name"
    ).fetchall()
    return hashlib.sha256(repr([tuple(row) for row in rows]).encode()).hexdigest()[:16]


def _schema(connection: sqlite3.Connection) -> int:
    """The schema's number. Raises DatabaseError for one that is later than ours, or not ours."""
    with _transaction(connection, "BEGIN"):
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        digest = schema_digest(connection)
    if found > _SCHEMA:
        raise sqlite3.DatabaseError(f"schema {found} is later than {_SCHEMA}")
    if digest != _OURS.get(found):
        raise sqlite3.DatabaseError("somebody else has changed its schema")
    return found


def _put(db: Database, records: list[CheckpointRecord]) -> None:
    db.table("checkpoints").insert_all(map(checkpoint_row, records), replace=True)
    rows = (row for record in records for row in metric_rows(record))
    db.table("metrics").insert_all(rows, replace=True)


def _close(connections: dict[tuple[int, int, int], sqlite3.Connection]) -> None:
    for (process, *_), connection in list(connections.items()):
        if process == os.getpid():
            connection.close()
        else:
            _inherited.append(connection)
    connections.clear()


def _is_damage(error: Exception) -> bool:
    return not any(sign in str(error).lower() for sign in _NO_DAMAGE)


def _immediate(connection: sqlite3.Connection) -> contextlib.AbstractContextManager[None]:
    """A write transaction."""
    return _transaction(connection, "BEGIN IMMEDIATE")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """One transaction; inside another one it is part of that."""
    if connection.in_transaction:
        yield
        return
    connection.execute(begin)
    try:
        yield
    except BaseException:
        # SQLite may have ended the transaction itself
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
