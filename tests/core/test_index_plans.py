"""What the index does for a question does not grow with the store: by SQLite's plans and by counts, not by time."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ckpt_tracker import Store
from ckpt_tracker.index.database import Index
from ckpt_tracker.records import CheckpointRecord, Monitor

MIN, MAX = Monitor("loss", "min"), Monitor("loss", "max")
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def record(run: str, version: int, **metrics: float) -> CheckpointRecord:
    """A checkpoint as the index is told of it."""
    return CheckpointRecord(
        run=run,
        version=version,
        epoch=version,
        step=10 * version,
        metrics=metrics,
        created_at=START + timedelta(minutes=version),
        digest="0" * 64,
        nbytes=8,
        stored_bytes=8,
        sections=("model",),
    )


@pytest.fixture
def index(store: Store) -> Index:
    """Of a store with two runs."""
    store.run("a")
    store.run("b")
    store.index.put(record("a", version, loss=1 / version, acc=0.5) for version in range(1, 40))
    store.index.put(record("b", version, loss=1 / version) for version in range(1, 60))
    return store.index


@contextlib.contextmanager
def statements(index: Index) -> Iterator[list[str]]:
    """The SQL that is executed inside, with its values."""
    connection = index._connection()
    found: list[str] = []
    connection.set_trace_callback(found.append)
    yield found
    connection.set_trace_callback(None)


def plan(index: Index, ask: Callable[[Index], object]) -> list[str]:
    """How SQLite goes about what `ask` asks, one line a step."""
    with statements(index) as executed:
        ask(index)
    connection = sqlite3.connect(index.path)
    steps = [row[3] for sql in executed for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    connection.close()
    assert steps
    return steps


QUESTIONS: dict[str, Callable[[Index], object]] = {
    "the last of a run": lambda index: index.last("a"),
    "the best of a run, lowest": lambda index: index.best("a", MIN),
    "the best of a run, highest": lambda index: index.best("a", MAX),
    "the best of all, lowest": lambda index: index.best_of_all(MIN),
    "the best of all, highest": lambda index: index.best_of_all(MAX),
    "the newest of an epoch": lambda index: index.at("a", epoch=3),
    "the newest of a step": lambda index: index.at("a", step=30),
}
ROWS: dict[str, Callable[[Index], object]] = {
    "one checkpoint": lambda index: index.checkpoint("a", 3),
    "a page of a run": lambda index: index.page("a", limit=5),
    "the next page of a run": lambda index: index.page("a", limit=5, before=record("a", 9)),
    "a page of all": lambda index: index.page(limit=5),
    "the next page of all": lambda index: index.page(limit=5, before=record("a", 9)),
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_a_question_is_one_search_in_an_index_that_has_all_it_needs(
    index: Index, ask: Callable[[Index], object]
) -> None:
    """No table is scanned, none is looked into besides, and nothing is sorted."""
    searches = [step for step in plan(index, ask) if not step.startswith("SCALAR SUBQUERY")]
    assert searches
    for step in searches:
        assert re.match(r"SEARCH \w+ USING (COVERING INDEX|PRIMARY KEY) ", step), step


@pytest.mark.parametrize("ask", ROWS.values(), ids=ROWS.keys())
def test_a_page_is_read_in_the_order_of_an_index(index: Index, ask: Callable[[Index], object]) -> None:
    """No more rows are read than are shown, and nothing is sorted."""
    steps = plan(index, ask)
    assert any(step.startswith("SEARCH _checkpoints ") for step in steps)
    for step in steps:
        assert not re.match(r"SCAN (_|it)|USE TEMP B-TREE", step), step


def test_the_names_of_metrics_are_found_without_reading_the_values(index: Index) -> None:
    """Each name is one search, whatever the number of checkpoints."""
    assert index.metric_names("a") == ["acc", "loss"]
    steps = [step for step in plan(index, lambda each: each.metric_names("a")) if "_metrics" in step]
    assert steps
    for step in steps:
        assert step.startswith("SEARCH _metrics USING COVERING INDEX _metrics_of_run"), step


def test_pages_follow_each_other(index: Index) -> None:
    """Newest first; of all runs by time, each checkpoint once."""
    first = index.page("a", limit=3)
    assert [each.version for each in first] == [39, 38, 37]
    assert [each.version for each in index.page("a", limit=3, before=first[-1])] == [36, 35, 34]
    shown: list[str] = []
    page = index.page(limit=7)
    while page:
        shown += [each.ref for each in page]
        page = index.page(limit=7, before=page[-1])
    everything = sorted(index.checkpoints(), key=lambda each: (each.created_at, each.run), reverse=True)
    assert shown == [each.ref for each in everything]


def test_the_best_of_all_is_the_earliest_of_equal_ones(store: Store) -> None:
    """In time, whatever the run is called."""
    for run, version in (("a", 5), ("b", 3), ("c", 4)):
        store.run(run)
        store.index.put([record(run, version, loss=0.5), record(run, version + 1, loss=0.7)])
    assert store.index.best_of_all(MIN) == ("b", 3)
    assert store.index.best_of_all(MAX) == ("b", 4)
    assert store.index.best_of_all(Monitor("other", "min")) is None


def _statements_of_opening(path: Path, count: int) -> list[str]:
    with Store(path) as store:
        store.run("r")
        store.index.put(record("r", version, loss=1.0) for version in range(1, count))
        with statements(store.index) as executed:
            store.run("r").last()
            store.run("r").best("loss", mode="min")
        return [re.sub(r"\d+", "N", sql) for sql in executed]


def test_looking_up_takes_the_same_statements_however_many_checkpoints_there_are(tmp_path: Path) -> None:
    """Of `last` and `best`, as people call them."""
    few, many = _statements_of_opening(tmp_path / "few", 3), _statements_of_opening(tmp_path / "many", 300)
    assert few == many


def test_a_metric_that_a_checkpoint_lost_is_no_longer_ranked(index: Index) -> None:
    """A checkpoint that is put again has the metrics that it has now."""
    assert index.best("a", MIN) == 39
    index.put([record("a", 39, acc=0.5)])
    assert index.best("a", MIN) == 38
