"""The index answers which checkpoint is last, best, of an epoch; the same from whichever thread or process asks."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointNotFound
from ckpt_tracker.records import CheckpointRecord, Monitor

NAN, INF = math.nan, math.inf


def _save(store: Store, run: str, *losses: float | None) -> None:
    for epoch, loss in enumerate(losses):
        metrics = {"other": 1.0} if loss is None else {"loss": loss}
        store.run(run).save({"loop": {"epoch": epoch}}, epoch=epoch, step=10 * epoch, metrics=metrics)
    store.run(run).checkpoints()


BEST = {
    "min": ("min", [0.3, 0.1, 0.2], 2),
    "max": ("max", [0.3, 0.1, 0.2], 1),
    "negative": ("min", [-1.0, 0.0, -2.0], 3),
    "the first of equal ones": ("min", [0.3, 0.1, 0.1], 2),
    "the first of equal ones, highest": ("max", [0.3, 0.3, 0.1], 1),
    "nan first": ("min", [NAN, 0.9, 0.5, 0.7], 3),
    "nan last": ("max", [0.9, 0.5, NAN], 1),
    "infinity": ("max", [INF, 0.5, -INF], 2),
    "negative infinity": ("min", [INF, 0.5, -INF], 2),
    "missing": ("min", [None, 0.5, None], 2),
    "the largest number": ("max", [0.0, 1.7e308], 2),
    "0 and -0": ("min", [0.0, -0.0], 1),
}


@pytest.mark.parametrize(("mode", "losses", "expected"), BEST.values(), ids=BEST.keys())
def test_best_is_the_best_finite_value(store: Store, mode: str, losses: list[float | None], expected: int) -> None:
    """NaN and infinities never win, missing values neither, and of equal ones the earlier does."""
    _save(store, "r", *losses)
    assert store[f"r@best:loss:{mode}"].version == expected


NO_BEST: dict[str, tuple[list[float | None], str]] = {
    "nan": ([NAN], r"no checkpoint of run 'r' can be ranked by 'loss': loss is NaN \(1 of 1\)"),
    "infinite": ([INF, -INF], r"can be ranked by 'loss': loss is Inf \(1 of 2\); loss is -Inf \(1 of 2\)"),
    "missing": ([None], r"no metric 'loss'; there are: other \(in run 'r'\)"),
}


@pytest.mark.parametrize(("losses", "message"), NO_BEST.values(), ids=NO_BEST.keys())
def test_without_a_finite_value_there_is_no_best(store: Store, losses: list[float | None], message: str) -> None:
    """The error says which metrics there are, or what keeps each from being ranked."""
    _save(store, "r", *losses)
    with pytest.raises(CheckpointNotFound, match=message):
        store["r@best:loss:min"]


def test_runs_are_told_apart(store: Store) -> None:
    """The best and the last of a run are its own."""
    _save(store, "a", 0.5, 0.6)
    _save(store, "b", 0.1)
    assert [store[ref].ref for ref in ("a@best:loss:min", "a@last", "b@last")] == ["a@v1", "a@v2", "b@v1"]


def test_metrics_named_alike_are_told_apart(store: Store) -> None:
    """A name is compared whole and as it is written."""
    run = store.run("r")
    run.save({"loop": {}}, metrics={"loss": 3.0, "val_loss": 1.0, "Loss": 0.0, "l%": 2.0}).wait()
    assert store.index.metric_names("r") == ["Loss", "l%", "loss", "val_loss"]
    assert store["r@best:l%:min"].version == 1


def test_metrics_come_back_from_the_index_as_they_were(store: Store) -> None:
    """SQLite has no NaN, and the caller does not see that."""
    _save(store, "r", NAN, INF, 0.1)
    values = [each.metrics["loss"] for each in store.run("r").checkpoints()]
    assert math.isnan(values[0])
    assert values[1:] == [INF, 0.1]


def test_a_record_that_was_read_has_every_field(store: Store) -> None:
    """It is made without its constructor: none may be missing, and none be one that there is not."""
    _save(store, "r", 0.5, 0.2)
    store.run("r").tag("paper", store["r@v2"])
    names = {field.name for field in fields(CheckpointRecord)}
    assert [vars(each).keys() for each in store.index.checkpoints("r")] == [names, names]


def test_the_newest_of_an_epoch_or_step_is_found(store: Store) -> None:
    """An epoch that was trained again after a resume has its later checkpoint."""
    run = store.run("r")
    for epoch, step in [(0, 5), (1, 10), (1, 10), (2, 15)]:
        run.save({"loop": {}}, epoch=epoch, step=step)
    assert [store[ref].version for ref in ("r@epoch:1", "r@step:10", "r@epoch:0")] == [3, 3, 1]


def test_the_schema_number_is_the_number_of_migrations(store: Store) -> None:
    """A migration that is added without a new number would never be applied."""
    from ckpt_tracker.index import connection as index
    from ckpt_tracker.index import migrations

    connection = sqlite3.connect(store.index.path)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        applied = connection.execute("SELECT name FROM _sqlite_migrations").fetchall()
    finally:
        connection.close()
    assert version == index.SCHEMA == len(applied) == len(migrations.migrations._migrations)


def test_the_schemas_digests_are_those_of_the_migrations() -> None:
    """Of each schema there ever was: an index that has another one is not ours."""
    from sqlite_utils import Database

    from ckpt_tracker.index import connection as index
    from ckpt_tracker.index.migrations import migrations

    connection = sqlite3.connect(":memory:", isolation_level=None)
    found = [index.schema_digest(connection)]
    for number, _ in enumerate(migrations._migrations, start=1):
        following = migrations._migrations[number:]
        migrations.apply(Database(connection), stop_before=following[0].name if following else None)
        found.append(index.schema_digest(connection))
    connection.close()
    assert dict(enumerate(found)) == index.OURS


def test_the_index_is_in_wal_mode(store: Store) -> None:
    """Readers don't wait for a writer."""
    store.run("r")
    connection = sqlite3.connect(store.index.path)
    try:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        connection.close()


def test_any_thread_may_ask(store: Store) -> None:
    """Each thread has a connection of its own."""
    _save(store, "r", 0.5, 0.1)
    answers: list[int | None] = []

    def ask() -> None:
        answers.append(store.index.best("r", Monitor("loss", "min")))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [2] * 4


def test_a_store_goes_on_answering_after_it_was_closed(store: Store) -> None:
    """Closing waits for what was saved; the next question opens the index again."""
    _save(store, "r", 0.5)
    store.close()
    assert store["r@last"].version == 1
    store.close()


WRITER = """
    import sys
    from ckpt_tracker import Store
    with Store(sys.argv[1]) as store:
        run = store.run(sys.argv[2])
        for epoch in range(25):
            run.save({"loop": {"epoch": epoch}}, epoch=epoch, metrics={"loss": 1 / (1 + epoch)}).wait()
"""


def test_two_processes_write_two_runs_at_once(start: Callable[..., object], path: Path, store: Store) -> None:
    """Neither fails on a locked index, and each sees all in the end."""
    first, second = start(WRITER, path, "a"), start(WRITER, path, "b")
    for process in (first, second):
        output, errors = process.end()  # type: ignore[attr-defined]
        assert (process.popen.returncode, output, errors) == (0, "", "")  # type: ignore[attr-defined]
    assert [len(store.run(name).checkpoints()) for name in ("a", "b")] == [25, 25]
    assert store["a@best:loss:min"].epoch == store["b@last"].epoch == 24


def test_a_forked_child_opens_a_connection_of_its_own(python: Callable[..., str], path: Path) -> None:
    """SQLite's connections must not cross a fork; the child's answers, and the parent's afterwards, are right."""
    output = python(
        """
        import os, sys
        from ckpt_tracker import Store
        with Store(sys.argv[1]) as store:
            store.run("r").save({"loop": {}}, epoch=0).wait()
            child = os.fork()
            if not child:
                print("child", store["r@last"].ref, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            store.run("r").save({"loop": {}}, epoch=1).wait()
            print("parent", store["r@last"].ref)
        """,
        path,
    )
    assert output.split("\n") == ["child r@v1", "parent r@v2"]
