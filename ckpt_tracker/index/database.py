"""The index: SQLite over all manifests, to answer "which was best" at once. A cache: it can be rebuilt at any time.

Each question is one step into a covering index, however many checkpoints there are. The schema and its migrations are
sqlite-utils'; rows are read and written by sqlite3 itself, because importing sqlite-utils takes longer than most of
what is done to an index that is there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import Any

from ckpt_tracker.index import bulk
from ckpt_tracker.index.connection import IndexFile, plain
from ckpt_tracker.index.rows import (
    CHECKPOINT_COLUMNS,
    METRIC_COLUMNS,
    RECORD_COLUMNS,
    Key,
    checkpoint_from_row,
    evaluation_from_row,
    image_of,
    marked,
    marks,
    moment,
    run_from_row,
)
from ckpt_tracker.records import CheckpointRecord, Evaluation, Monitor, RunRecord

_MANY = 400
_BY_RUN = "ORDER BY run, version"
_NEWEST_FIRST = "moment DESC, run DESC, version DESC"
# of each metric by itself: SELECT DISTINCT would look at every row
_METRIC_NAMES = """WITH RECURSIVE names (name) AS (
    SELECT min(name) FROM _metrics WHERE run = ?
    UNION ALL SELECT (SELECT min(name) FROM _metrics WHERE run = ? AND name > names.name)
    FROM names WHERE names.name IS NOT NULL
) SELECT name FROM names WHERE name IS NOT NULL"""


class Index(IndexFile):
    """The index of one store."""

    # -- writing ---------------------------------------------------------------------------------------------

    def put_run(self, run: RunRecord) -> None:
        """Adds or updates a run, with all that was measured of its checkpoints later, in one transaction."""
        self.catch_up(run, removed=(), added=())

    def put(self, records: Iterable[CheckpointRecord]) -> None:
        """Adds or updates checkpoints, in one transaction."""
        self.change(changed=records)

    def remove(self, run: str, versions: Iterable[int]) -> None:
        """Forgets checkpoints, in one transaction."""
        self.change(removed=[(run, version) for version in versions])

    def change(self, *, removed: Iterable[Key] = (), changed: Iterable[CheckpointRecord] = ()) -> None:
        """Forgets checkpoints (run, version), and updates others: all in one transaction."""
        keys, records = list(removed), list(changed)
        self._mending(lambda connection: bulk.change(connection, removed=keys, changed=records))

    def remove_run(self, run: str) -> None:
        """Forgets a run and its checkpoints."""
        self._mending(lambda connection: bulk.remove_run(connection, run))

    # -- catching up -----------------------------------------------------------------------------------------

    def sources(self) -> dict[str, str]:
        """What the files of each run looked like when the index was brought up to them, where that is known."""
        return dict(self._typed((str, str), "SELECT run, seen FROM _sources"))

    def catch_up(self, run: RunRecord, *, removed: Iterable[int], added: Iterable[CheckpointRecord]) -> None:
        """Makes the index say of a run what its files say, in one transaction; `added` is not held in memory."""
        gone = list(removed)
        self._mending(lambda connection: bulk.catch_up(connection, run, removed=gone, added=added))

    def remember(self, run: str, seen: str) -> None:
        """Notes what a run's files look like now; not while another process writes, nor where nobody can."""
        self._write_if_free("INSERT OR REPLACE INTO _sources (run, seen) VALUES (?, ?)", run, seen)

    # -- reading ---------------------------------------------------------------------------------------------

    def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        return self._sound(lambda: self._runs("ORDER BY created_at, name"))

    def run(self, name: str) -> RunRecord | None:
        """The run of that name."""
        return next(iter(self._sound(lambda: self._runs("WHERE name = ?", name))), None)

    def run_names(self) -> list[str]:
        """The names of all runs, oldest first."""
        return [name for (name,) in self._typed((str,), "SELECT name FROM _runs ORDER BY created_at, name")]

    def has_run(self, name: str) -> bool:
        """There is a run of that name."""
        return bool(self._read("SELECT 1 FROM _runs WHERE name = ?", name))

    def monitor(self, run: str) -> Monitor | None:
        """What says which checkpoint of a run is best."""
        sql = "SELECT monitor, mode FROM _runs WHERE name = ? AND monitor IS NOT NULL"
        rows = self._typed((str, str), sql, run)
        return Monitor(*rows[0]) if rows else None

    def versions(self, run: str) -> set[int]:
        """The versions of a run that the index knows."""
        return {version for (version,) in self._typed((int,), "SELECT version FROM _checkpoints WHERE run = ?", run)}

    def digests(self, run: str) -> dict[int, str]:
        """The digest of each version of a run."""
        return dict(self._typed((int, str), "SELECT version, digest FROM _checkpoints WHERE run = ?", run))

    def checkpoints(self, run: str | None = None) -> list[CheckpointRecord]:
        """Checkpoints of one run, or of all, oldest version first."""
        if run is None:
            return self._records(_BY_RUN)
        return self._records(f"WHERE run = ? {_BY_RUN}", run)

    def checkpoint(self, run: str, version: int) -> CheckpointRecord | None:
        """One checkpoint."""
        return next(iter(self._records("WHERE run = ? AND version = ?", run, version)), None)

    def page(
        self, run: str | None = None, *, limit: int, before: CheckpointRecord | None = None
    ) -> list[CheckpointRecord]:
        """The newest checkpoints of a run by version, or of all by time, newest first; those older than `before`."""
        if run is not None:
            version = before.version if before else 2**62
            where = "WHERE run = ? AND version < ? ORDER BY version DESC LIMIT ?"
            return self._records(where, run, version, limit)
        start = (moment(before), before.run, before.version) if before else (2**62, "", 0)
        where = f"WHERE (moment, run, version) < (?, ?, ?) ORDER BY {_NEWEST_FIRST} LIMIT ?"
        return self._records(where, *start, limit)

    def last(self, run: str) -> int | None:
        """The newest version of a run."""
        return self._version("SELECT version FROM _checkpoints WHERE run = ? ORDER BY version DESC LIMIT 1", run)

    def at(self, run: str, *, epoch: int | None = None, step: int | None = None) -> int | None:
        """The newest version of that epoch, or of that step."""
        column, value = ("epoch", epoch) if epoch is not None else ("step", step)
        sql = f"SELECT version FROM _checkpoints WHERE run = ? AND {column} = ? ORDER BY version DESC LIMIT 1"
        return self._version(sql, run, value)

    def best(self, run: str, monitor: Monitor) -> int | None:
        """The version with the best finite value; of equal ones the earliest. None where none has the metric.

        Weights that hold NaN or infinities are never best.
        """
        return self._version(
            "SELECT version FROM _metrics WHERE run = ? AND name = ? AND ranked = ("
            "SELECT ranked FROM _metrics WHERE run = ? AND name = ? AND ranked > -9e999 "
            f"ORDER BY ranked {_order(monitor)} LIMIT 1) ORDER BY version LIMIT 1",
            *(run, monitor.metric, run, monitor.metric),
        )

    def best_of_all(self, monitor: Monitor) -> Key | None:
        """The checkpoint of all runs with the best finite value; of equal ones the earliest in time."""
        return self._key(
            "SELECT run, version FROM _metrics WHERE name = ? AND ranked = ("
            "SELECT ranked FROM _metrics WHERE name = ? AND ranked > -9e999 "
            f"ORDER BY ranked {_order(monitor)} LIMIT 1) ORDER BY moment, run, version LIMIT 1",
            *(monitor.metric, monitor.metric),
        )

    def metric_names(self, run: str) -> list[str]:
        """Every metric that some checkpoint of the run has."""
        return [name for (name,) in self._typed((str,), _METRIC_NAMES, run, run)]

    def images(self, run: str) -> dict[int, str]:
        """`rows.image` of each version of a run, as it is in the index: for a verify."""
        metrics: dict[int, list[sqlite3.Row]] = {}
        for row in self._read(f"SELECT {', '.join(METRIC_COLUMNS)} FROM _metrics WHERE run = ?", run):
            metrics.setdefault(row["version"], []).append(row)
        rows = self._read(f"SELECT {', '.join(CHECKPOINT_COLUMNS)} FROM _checkpoints WHERE run = ?", run)
        return {row["version"]: image_of(row, metrics.get(row["version"], ())) for row in rows}

    # -- behind ----------------------------------------------------------------------------------------------

    def _runs(self, where: str, *values: object) -> list[RunRecord]:
        rows = self._read(f"SELECT * FROM _runs {where}", *values)
        found: dict[str, list[Evaluation]] = {}
        for row in self._of([row["name"] for row in rows], "_evaluations", "run"):
            found.setdefault(row["run"], []).append(evaluation_from_row(row))
        return [run_from_row(row, evaluations=found.get(row["name"], ())) for row in rows]

    def _records(self, where: str, *values: object) -> list[CheckpointRecord]:
        def answer() -> list[CheckpointRecord]:
            sql = f"SELECT {RECORD_COLUMNS} FROM _checkpoints {where}"
            records = self._mending(lambda connection: list(map(checkpoint_from_row, plain(connection, sql, values))))
            tags, pinned = marks(self._of({each.run for each in records}, "_runs", "name"))
            evaluations: dict[Key, list[Evaluation]] = {}
            # as many as tell `_of` whether they are many
            keys = [(each.run, each.version) for each in records[: _MANY + 1]]
            for row in self._of(keys, "_evaluations", "run", "version"):
                evaluations.setdefault((row["run"], row["version"]), []).append(evaluation_from_row(row))
            return marked(records, tags=tags, pinned=pinned, evaluations=evaluations)

        return self._sound(answer)

    def _of(self, keys: Collection[str] | Collection[Key], table: str, *columns: str) -> list[sqlite3.Row]:
        """The rows of these keys; where they are many, all rows there are."""
        if len(keys) > _MANY:
            return self._read(f"SELECT * FROM {table}")
        if not keys:
            return []
        values = [value for key in keys for value in ((key,) if isinstance(key, str) else key)]
        places = f"({', '.join('?' * len(columns))})"
        match = " AND ".join(f"it.{column} = wanted.{column}" for column in columns)
        return self._read(
            f"WITH wanted ({', '.join(columns)}) AS (VALUES {', '.join([places] * len(keys))}) "
            f"SELECT it.* FROM wanted CROSS JOIN {table} AS it ON {match}",
            *values,
        )

    def _version(self, sql: str, *values: object) -> int | None:
        return next((version for (version,) in self._typed((int,), sql, *values)), None)

    def _key(self, sql: str, *values: object) -> Key | None:
        return next(iter(self._typed((str, int), sql, *values)), None)

    def _typed(self, types: tuple[type, ...], sql: str, *values: object) -> list[Any]:
        """The rows, all of these types; where one can't have been written, the index is rebuilt and asked again."""

        def answer() -> list[Any]:
            rows = list(map(tuple, self._read(sql, *values)))
            for row in rows:
                if tuple(map(type, row)) != types:
                    raise TypeError(f"{row!r} stands in it")
            return rows

        return self._sound(answer)


def _order(monitor: Monitor) -> str:
    return "ASC" if monitor.mode == "min" else "DESC"
