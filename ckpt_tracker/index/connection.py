"""The index as a file: SQLite connections, transactions, the schema, and what is done about damage.

Every write is one `BEGIN IMMEDIATE` transaction: a deferred one that reads first and then writes fails under other
writers, however long its time-out. Connections belong to the thread and the process that opened them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from blake3 import blake3

from ckpt_tracker.disk.filesystem import unused_name
from ckpt_tracker.errors import CkptTrackerError, StoreFull

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("ckpt_tracker")
SCHEMA = 5
# What `sqlite_master` says in each schema, 0 being an empty file. Whatever else an index holds, a trigger or a view,
# somebody else has put there, and it is rebuilt.
OURS = {
    **{0: "d53d18c23212ea7b", 1: "95ff0471fc974a49", 2: "4fa776abe0e8964c", 3: "5f3fab71e1fdc897"},
    **{4: "12944cb571c13ea7", 5: "04c78f330ccd311b"},
}
_SMALLEST_PAGE = 512
_BUSY_SECONDS = 60.0
_Answer = TypeVar("_Answer")
# what SQLite says when the file is sound, or can't be told to be damaged
_NO_DAMAGE = (
    *("is locked", "is busy", "is full", "readonly database", "unable to open", "interrupted"),
    *("closed database", "out of memory"),
)


_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process, kept: to close them here could end what the parent is at."""


class IndexFile:
    """The file, which is rebuilt when it is missing, damaged, or of another schema.

    `fill` is called to put everything into an empty one.
    """

    def __init__(self, path: Path, *, fill: Callable[[Self], None]) -> None:
        self.path = path
        self._fill = fill
        self._connections: dict[tuple[int, int, int], sqlite3.Connection] = {}
        self._filling = threading.RLock()
        weakref.finalize(self, _close, self._connections).atexit = False

    def close(self) -> None:
        """Closes this process's connections; the next question opens one again."""
        _close(self._connections)

    def problem(self) -> str | None:
        """What SQLite finds wrong with its own structures, or None."""
        found: str = self._read("PRAGMA integrity_check(1)")[0][0]
        return None if found == "ok" else found

    def rebuild(self) -> None:
        """Forgets everything, and fills it anew from the manifests."""
        self._delete()
        self._read("SELECT 1")

    # -- questions and changes -------------------------------------------------------------------------------

    def _read(self, sql: str, *values: object) -> list[sqlite3.Row]:
        return self._mending(lambda connection: connection.execute(sql, values).fetchall())

    def together(self, change: Callable[[], _Answer]) -> _Answer:
        """Lets what `change` asks and changes be one transaction; no other process changes anything meanwhile."""

        def transact(connection: sqlite3.Connection) -> _Answer:
            with immediate(connection):
                return change()

        return self._mending(transact)

    def _write_if_free(self, sql: str, *values: object) -> None:
        """A change that nothing depends on: it is left out while another process writes, and where none can be made."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                with contextlib.suppress(sqlite3.OperationalError), immediate(connection):
                    connection.execute(sql, values)
            finally:
                connection.execute(f"PRAGMA busy_timeout = {1000 * _BUSY_SECONDS:.0f}")

        self._mending(change)

    def _mending(self, ask: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Asks; where the index turns out damaged it is rebuilt, that is said, and it is asked once more.

        Inside a transaction that is for whoever began it.
        """
        inside = self._inside
        try:
            return ask(self._connection())
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if inside:
                raise
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
            if self._inside:
                raise sqlite3.DatabaseError(f"a row can't be: {error}") from error
            self._discard(error)
            return answer()

    # -- connections -----------------------------------------------------------------------------------------

    @property
    def _inside(self) -> bool:
        """This thread is inside a transaction."""
        mine = (os.getpid(), threading.get_ident())
        return any(key[:2] == mine and known.in_transaction for key, known in list(self._connections.items()))

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
        if self.path.exists() and self.path.stat().st_size % _SMALLEST_PAGE:
            # to SQLite what is missing of a page is zeros
            raise sqlite3.DatabaseError("its end is missing")
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA synchronous = NORMAL")
            if _schema(connection) != SCHEMA:
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
        with self._filling, immediate(connection):
            if _schema(connection) == SCHEMA:
                return
            upgrade(connection, schema=SCHEMA)
            key = (os.getpid(), threading.get_ident(), self.path.stat().st_ino)
            self._connections[key] = connection
            with _without_indexes(connection):
                self._fill(self)  # type: ignore[arg-type]

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
    return blake3(repr([tuple(row) for row in rows]).encode()).hexdigest(8)


def _schema(connection: sqlite3.Connection) -> int:
    """The schema's number. Raises DatabaseError for one that is later than ours, or not ours."""
    with _transaction(connection, "BEGIN"):
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        digest = schema_digest(connection)
    if found > SCHEMA:
        raise sqlite3.DatabaseError(f"schema {found} is later than {SCHEMA}")
    if digest != OURS.get(found):
        raise sqlite3.DatabaseError("somebody else has changed its schema")
    return found


def _close(connections: dict[tuple[int, int, int], sqlite3.Connection]) -> None:
    for (process, *_), connection in list(connections.items()):
        if process == os.getpid():
            connection.close()
        else:
            _inherited.append(connection)
    connections.clear()


def _is_damage(error: Exception) -> bool:
    return not any(sign in str(error).lower() for sign in _NO_DAMAGE)


@contextlib.contextmanager
def _without_indexes(connection: sqlite3.Connection) -> Iterator[None]:
    """Many rows are put in: sorting them once, at the end, is several times faster than finding each one's place."""
    ours = "type = 'index' AND sql IS NOT NULL AND tbl_name != '_sqlite_migrations'"
    rows = connection.execute(f"SELECT name, sql FROM sqlite_master WHERE {ours}").fetchall()
    for name, _ in rows:
        connection.execute(f'DROP INDEX "{name}"')
    yield
    for _, sql in rows:
        connection.execute(sql)


def plain(connection: sqlite3.Connection, sql: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
    """The answer as tuples, one after the other: many are read in half the time that `sqlite3.Row`s take."""
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(sql, values)


def immediate(connection: sqlite3.Connection) -> contextlib.AbstractContextManager[None]:
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
