"""The index is a cache: missing, damaged, behind or ahead, it is made to say what the manifests say."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlite_utils import Database

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointNotFound
from ckpt_tracker.index.connection import SCHEMA
from ckpt_tracker.index.migrations import migrations


@pytest.fixture
def filled(path: Path) -> Path:
    """The folder of a closed store with two runs, metrics, tags and a parent."""
    with Store(path) as store:
        for name, shift in (("a", 0.0), ("b", 0.5)):
            run = store.run(name, config={"lr": 0.1, "layers": [1, 2]})
            for epoch, loss in enumerate([math.nan, 0.9, 0.2, math.inf, 0.4]):
                metrics = {"loss": loss + shift, "acc": 1 - loss} if epoch != 1 else {"acc": 0.1}
                run.save({"model": {"w": np.full(9, epoch + shift)}}, epoch=epoch, step=7 * epoch, metrics=metrics)
            run.tag("paper", run.checkpoints()[1])
        store.record_event("a", "start", monitor="loss", mode="min")
        store.record_event("b", "finish")
    return path


def _answers(store: Store) -> dict[str, Any]:
    runs = {run.name: run.record for run in store.runs()}
    return {
        "runs": repr(runs),
        "indexed runs": repr(store.index.runs()),
        "checkpoints": repr([each.record for run in store.runs() for each in run.checkpoints()]),
        "best": [
            store[f"{name}@best:{metric}:{mode}"].ref
            for name in runs
            for metric, mode in (("loss", "min"), ("loss", "max"), ("acc", "max"))
        ],
        "epochs": [store[f"{name}@epoch:{epoch}"].ref for name in runs for epoch in range(5)],
        "tags": [store[f"{name}@paper"].ref for name in runs],
    }


@pytest.fixture
def expected(filled: Path) -> dict[str, Any]:
    """What the store answered before anything happened to its index."""
    with Store(filled) as store:
        return _answers(store)


def _ask(path: Path) -> dict[str, Any]:
    with Store(path) as store:
        return _answers(store)


def test_a_missing_index_is_rebuilt_and_answers_identically(filled: Path, expected: dict[str, Any]) -> None:
    """It may be deleted at any time."""
    (filled / "index.sqlite").unlink()
    assert _ask(filled) == expected


def test_an_index_that_vanishes_under_an_open_store_is_rebuilt(filled: Path, expected: dict[str, Any]) -> None:
    """The next question notices."""
    with Store(filled) as store:
        (filled / "index.sqlite").unlink()
        assert _answers(store) == expected


def _garbage(size: int) -> Callable[[bytes], bytes]:
    return lambda data: random.Random(size).randbytes(size)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": _garbage(5000),
    "a few bytes of garbage": _garbage(20),
    "zeros": lambda data: bytes(len(data)),
    "cut in the header": lambda data: data[:60],
    "cut in the first page": lambda data: data[:1000],
    "cut to one page": lambda data: data[:4096],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut before the end": lambda data: data[:-5000],
    "overwritten from the second page on": lambda data: data[:4096] + random.Random(0).randbytes(len(data) - 4096),
    "a later schema": lambda data: data[:60] + (99).to_bytes(4, "big") + data[64:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_index_is_rebuilt_and_that_is_said(
    filled: Path, expected: dict[str, Any], caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    """The answers are those of before; the log names the index."""
    file = filled / "index.sqlite"
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING, "ckpt_tracker"):
        assert _ask(filled) == expected
    assert [record.getMessage() for record in caplog.records if "index.sqlite is damaged" in record.getMessage()]


@pytest.mark.parametrize("metrics", ["[]", "[0.5]", "null", '"loss"', "{", '{"loss":"high"}'])
def test_metrics_that_nobody_wrote_are_damage(filled: Path, expected: dict[str, Any], metrics: str) -> None:
    """SQLite reads such a row well, and it can't have been written."""
    with contextlib.closing(sqlite3.connect(filled / "index.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE _checkpoints SET metrics = ? WHERE run = 'a' AND version = 3", (metrics,))
    assert _ask(filled) == expected


COLUMNS = {
    "_runs": "name, created_at, config, environment, monitor, mode, last_start, tags, pins",
    "_checkpoints": "run, version, epoch, step, metrics, created_at, digest, nbytes, stored_bytes, sections, kind, "
    "reason, parents, stall_seconds, write_seconds, context, nonfinite",
    "_metrics": "run, version, name",
    "_sources": "run, seen",
}


@pytest.mark.parametrize(("table", "columns"), COLUMNS.items())
def test_a_value_of_another_type_is_damage(filled: Path, expected: dict[str, Any], table: str, columns: str) -> None:
    """One flipped bit makes bytes of a text, and SQLite gives them out as such."""
    file = filled / "index.sqlite"
    sound = file.read_bytes()
    for column in columns.split(", "):
        file.write_bytes(sound)
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute(f"UPDATE {table} SET {column} = CAST({column} AS BLOB)")
        assert _ask(filled) == expected, column


def test_an_empty_index_is_filled(filled: Path, expected: dict[str, Any]) -> None:
    """To SQLite a file without a byte is a new database, and so it is to us."""
    (filled / "index.sqlite").write_bytes(b"")
    assert _ask(filled) == expected


def test_a_database_of_something_else_is_replaced(filled: Path, expected: dict[str, Any]) -> None:
    """Tables of the same names with other columns are no index of ours."""
    file = filled / "index.sqlite"
    file.unlink()
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY)")
    connection.commit()
    connection.close()
    assert _ask(filled) == expected


@pytest.mark.parametrize("schema", range(SCHEMA + 1))
def test_a_trigger_that_somebody_put_into_the_index_never_runs(filled: Path, schema: int) -> None:
    """An index with anything that is not ours in it is not written, whatever schema it says it has: it is rebuilt."""
    file = filled / "index.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(
            f"""
            CREATE TRIGGER forge AFTER INSERT ON _metrics BEGIN UPDATE _metrics SET value = -1; END;
            CREATE TRIGGER forget AFTER DELETE ON _metrics BEGIN DELETE FROM _checkpoints; END;
            PRAGMA user_version = {schema};
            """
        )
    with Store(filled) as store:
        store.run("new").save({"model": {}}, metrics={"loss": 3.0}).wait()
        assert store["new@last"].metrics == {"loss": 3.0}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone() == (0,)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_an_index_that_is_no_plain_file_is_replaced(filled: Path, expected: dict[str, Any], kind: str) -> None:
    """What a link points to stays as it is."""
    file, elsewhere = filled / "index.sqlite", filled.parent / "elsewhere.sqlite"
    shutil.copy(file, elsewhere)
    before = elsewhere.read_bytes()
    file.unlink()
    {"link": lambda: file.symlink_to(elsewhere), "folder": file.mkdir, "fifo": lambda: os.mkfifo(file)}[kind]()
    assert _ask(filled) == expected
    assert elsewhere.read_bytes() == before
    assert file.is_file()
    assert not file.is_symlink()


EARLIER = {
    1: "002_context_and_last_start",
    2: "003_pins_and_weights_only",
    3: "004_nonfinite_weights_and_evaluations",
    4: "005_tables_behind_views",
}


@pytest.mark.parametrize(("schema", "following"), EARLIER.items())
def test_an_index_of_an_earlier_schema_is_brought_up_to_date(
    filled: Path, expected: dict[str, Any], schema: int, following: str
) -> None:
    """In place, with what its new columns say of older checkpoints."""
    file = filled / "index.sqlite"
    file.unlink()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        migrations.apply(Database(connection), stop_before=following)
        connection.execute(f"PRAGMA user_version = {schema}")
    inode = file.stat().st_ino
    assert _ask(filled) == expected
    assert file.stat().st_ino == inode


def test_an_index_that_is_behind_catches_up(filled: Path) -> None:
    """A checkpoint whose manifest is there is found, also when its process died before it told the index."""
    shutil.copy(filled / "index.sqlite", filled.parent / "old.sqlite")
    with Store(filled) as store:
        store.run("a").save({"loop": {}}, epoch=9, metrics={"loss": 0.01}).wait()
        store.run("c").save({"loop": {}}, epoch=0).wait()
    os.replace(filled.parent / "old.sqlite", filled / "index.sqlite")
    with Store(filled) as store:
        assert store["a@best:loss:min"].epoch == 9
        assert [run.name for run in store.runs()] == ["a", "b", "c"]


def test_an_index_that_is_ahead_forgets(filled: Path) -> None:
    """A checkpoint without a manifest does not exist, nor does a run without a folder."""
    (filled / "runs" / "a" / "manifests" / "000003.json").unlink()
    shutil.rmtree(filled / "runs" / "b")
    with Store(filled) as store:
        assert [each.version for each in store.run("a").checkpoints()] == [1, 2, 4, 5]
        assert store["a@best:loss:min"].version == 5
        assert [run.name for run in store.runs()] == ["a"]


def test_a_manifest_that_cannot_be_read_is_left_out_and_named(
    filled: Path, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The others are there; the damaged one is in the log."""
    manifest = filled / "runs" / "a" / "manifests" / "000004.json"
    manifest.write_bytes(manifest.read_bytes()[:-50])
    (filled / "index.sqlite").unlink()
    with caplog.at_level(logging.WARNING, "ckpt_tracker"), Store(filled) as store:
        assert [each.version for each in store.run("a").checkpoints()] == [1, 2, 3, 5]
    assert any(record.getMessage().startswith("a@v4 is left out: ") for record in caplog.records)


def test_no_flipped_byte_of_the_index_breaks_the_store(filled: Path, same: Callable[[object, object], bool]) -> None:
    """Wherever it is, the store opens and lists; at worst a checkpoint is not found, and none is ever another one."""
    file = filled / "index.sqlite"
    data = file.read_bytes()
    generator = random.Random(1)
    used = [position for position in range(len(data)) if data[position]]
    for position in generator.sample(used, 100):
        flipped = bytearray(data)
        flipped[position] ^= 1 << generator.randrange(8)
        file.write_bytes(flipped)
        with Store(filled) as store:
            assert len(repr(store.runs())) > 2
            repr([each.record for run in store.runs() for each in run.checkpoints()])
            with contextlib.suppress(CheckpointNotFound):
                loaded = store["a@v2"].load("model")
                assert same({"w": np.full(9, 1.0)}, loaded)
