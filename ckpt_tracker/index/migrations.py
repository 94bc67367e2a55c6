"""The schema of `index.sqlite`, as sqlite-utils migrations. Apply them with `upgrade`.

Every table can be rebuilt from the manifests and events, so a migration may also drop and make anew.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database, Migrations

migrations = Migrations("ckpt_tracker")


@migrations(name="001_runs_checkpoints_metrics")
def _first(db: Database) -> None:
    db.execute(
        """CREATE TABLE runs (
            name TEXT PRIMARY KEY, created_at TEXT NOT NULL, config TEXT NOT NULL, environment TEXT NOT NULL,
            unnamed INTEGER NOT NULL, finished INTEGER NOT NULL, monitor TEXT, mode TEXT, tags TEXT NOT NULL
        ) WITHOUT ROWID"""
    )
    db.execute(
        """CREATE TABLE checkpoints (
            run TEXT NOT NULL, version INTEGER NOT NULL, epoch INTEGER, step INTEGER, created_at TEXT NOT NULL,
            digest TEXT NOT NULL, nbytes INTEGER NOT NULL, stored_bytes INTEGER NOT NULL, sections TEXT NOT NULL,
            kind TEXT NOT NULL, reason TEXT, parents TEXT NOT NULL, stall_seconds REAL NOT NULL,
            write_seconds REAL NOT NULL, PRIMARY KEY (run, version)
        ) WITHOUT ROWID"""
    )
    # value is NULL for NaN, which SQLite cannot hold
    db.execute(
        """CREATE TABLE metrics (
            run TEXT NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
            PRIMARY KEY (run, version, name)
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE INDEX metrics_by_value ON metrics (run, name, value, version)")
    db.execute("CREATE INDEX checkpoints_by_epoch ON checkpoints (run, epoch, version)")
    db.execute("CREATE INDEX checkpoints_by_step ON checkpoints (run, step, version)")


@migrations(name="002_context_and_last_start")
def _second(db: Database) -> None:
    db.execute("ALTER TABLE checkpoints ADD COLUMN context TEXT NOT NULL DEFAULT '{}'")
    db.execute("ALTER TABLE runs ADD COLUMN last_start TEXT NOT NULL DEFAULT '{}'")
    _forget_rows(db)


@migrations(name="003_pins_and_weights_only")
def _third(db: Database) -> None:
    db.execute("ALTER TABLE runs ADD COLUMN pins TEXT NOT NULL DEFAULT '[]'")
    db.execute("ALTER TABLE checkpoints ADD COLUMN full_digest TEXT")


@migrations(name="004_nonfinite_weights_and_evaluations")
def _fourth(db: Database) -> None:
    db.execute("ALTER TABLE checkpoints ADD COLUMN nonfinite TEXT NOT NULL DEFAULT '{}'")
    _forget_rows(db)
    # what is measured later stands beside the metrics: they come from the manifests, these from the events
    db.execute(
        """CREATE TABLE evaluations (
            run TEXT NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
            added_at TEXT NOT NULL, added_by TEXT, added_user TEXT, PRIMARY KEY (run, version, name)
        ) WITHOUT ROWID"""
    )


def _forget_rows(db: Database) -> None:
    """What new columns would say of earlier rows is in manifests and events, from where they are filled in again."""
    for table in ("runs", "checkpoints", "metrics"):
        db.execute(f"DELETE FROM {table}")


@migrations(name="005_tables_behind_views")
def _fifth(db: Database) -> None:
    """The tables get names of their own, and views what people read; best and last are one step into an index."""
    for table in ("runs", "checkpoints", "metrics", "evaluations"):
        db.execute(f"DROP TABLE {table}")
    for statement in (*_TABLES, *_INDEXES, *_VIEWS):
        db.execute(statement)


# moment is created_at in microseconds since 1970, which sorts whatever the zone. metrics is {name: number}, with "nan",
# "inf" and "-inf" for those that JSON lacks: a record is one row. _evaluations has what was measured later as the
# events tell it, of checkpoints that are gone too; _metrics has the metrics of both kinds, to be ranked.
_TABLES = (
    """CREATE TABLE _runs (
        name TEXT PRIMARY KEY, created_at TEXT NOT NULL, config TEXT NOT NULL, environment TEXT NOT NULL,
        unnamed INTEGER NOT NULL, finished INTEGER NOT NULL, monitor TEXT, mode TEXT, last_start TEXT NOT NULL,
        tags TEXT NOT NULL, pins TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE _checkpoints (
        run TEXT NOT NULL, version INTEGER NOT NULL, moment INTEGER NOT NULL, epoch INTEGER, step INTEGER,
        metrics TEXT NOT NULL, created_at TEXT NOT NULL, digest TEXT NOT NULL, nbytes INTEGER NOT NULL,
        stored_bytes INTEGER NOT NULL, sections TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT, parents TEXT NOT NULL,
        stall_seconds REAL NOT NULL, write_seconds REAL NOT NULL, context TEXT NOT NULL, full_digest TEXT,
        nonfinite TEXT NOT NULL, PRIMARY KEY (run, version)
    ) WITHOUT ROWID""",
    # value is NULL for NaN, which SQLite cannot hold; ranked is NULL for whatever can't be best
    """CREATE TABLE _metrics (
        run TEXT NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL, value REAL, ranked REAL,
        moment INTEGER NOT NULL, later INTEGER NOT NULL, PRIMARY KEY (run, version, name)
    ) WITHOUT ROWID""",
    """CREATE TABLE _evaluations (
        run TEXT NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
        added_at TEXT NOT NULL, added_by TEXT, added_user TEXT, PRIMARY KEY (run, version, name)
    ) WITHOUT ROWID""",
    # what the files of a run looked like when the index was brought up to them
    "CREATE TABLE _sources (run TEXT PRIMARY KEY, seen TEXT NOT NULL) WITHOUT ROWID",
)
_INDEXES = (
    "CREATE INDEX _checkpoints_by_moment ON _checkpoints (moment, run, version)",
    "CREATE INDEX _checkpoints_by_epoch ON _checkpoints (run, epoch, version)",
    "CREATE INDEX _checkpoints_by_step ON _checkpoints (run, step, version)",
    "CREATE INDEX _metrics_of_run ON _metrics (run, name, ranked, version)",
    "CREATE INDEX _metrics_of_store ON _metrics (name, ranked, moment, run, version) WHERE ranked IS NOT NULL",
)
_VIEWS = (
    """CREATE VIEW runs AS SELECT
        name, created_at, config, environment, unnamed, finished, monitor, mode, last_start, tags, pins,
        (SELECT count(*) FROM _checkpoints WHERE run = name) AS checkpoints,
        (SELECT max(version) FROM _checkpoints WHERE run = name) AS last_version,
        (SELECT coalesce(sum(stored_bytes), 0) FROM _checkpoints WHERE run = name) AS stored_bytes
    FROM _runs""",
    """CREATE VIEW checkpoints AS SELECT
        run || '@v' || version AS ref, run, version, epoch, step, metrics, created_at, kind, reason, digest,
        full_digest IS NOT NULL AS weights_only, nonfinite, nbytes, stored_bytes, stall_seconds, write_seconds,
        sections, parents, context,
        (SELECT json_group_array(key) FROM json_each((SELECT tags FROM _runs WHERE name = run)) WHERE value = version)
            AS tags,
        EXISTS (SELECT 1 FROM json_each((SELECT pins FROM _runs WHERE name = run)) WHERE value = version) AS pinned
    FROM _checkpoints""",
    """CREATE VIEW metrics AS SELECT
        run || '@v' || version AS ref, run, version, epoch, step, name, value, later
    FROM _metrics JOIN _checkpoints USING (run, version)""",
)


def upgrade(connection: sqlite3.Connection, *, schema: int) -> None:
    """Brings the schema up to date, inside the transaction that is open on the connection; `schema` is its number."""
    db = Database(connection, execute_plugins=False)
    migrations.apply(db)
    db.execute(f"PRAGMA user_version = {schema}")
