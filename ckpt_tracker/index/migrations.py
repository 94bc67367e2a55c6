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


def upgrade(connection: sqlite3.Connection, *, schema: int) -> None:
    """Brings the schema up to date, inside the transaction that is open on the connection; `schema` is its number."""
    db = Database(connection, execute_plugins=False)
    migrations.apply(db)
    db.execute(f"PRAGMA user_version = {schema}")
