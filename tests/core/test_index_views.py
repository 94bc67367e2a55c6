"""The views `runs`, `checkpoints` and `metrics` are for everybody: their columns are what the README says."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from ckpt_tracker import Store

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def filled(path: Path) -> Path:
    """The folder of a closed store."""
    with Store(path) as store:
        run = store.run("a", config={"lr": 0.1})
        for epoch, loss in enumerate([0.5, math.nan, math.inf]):
            run.save(
                {"model": {"w": epoch}}, epoch=epoch, step=10 * epoch, metrics={"loss": loss, "epoch": float(epoch)}
            )
        store.run("b").save({"model": {}}, reason="SIGTERM", metrics={"acc": 0.9})
        run.tag("paper", run.checkpoints()[1])
        run.tag("final", run.checkpoints()[1])
        run.pin(run.checkpoints()[0])
        store.record_event("a", "start", monitor="loss", mode="min")
    return path


def _rows(path: Path, view: str) -> list[dict[str, Any]]:
    with contextlib.closing(Database(path / "index.sqlite")) as database:
        return list(database.view(view).rows)


def test_the_columns_of_the_views_are_those_of_the_readme(filled: Path) -> None:
    """Whoever wrote a query against them relies on it."""
    documented = {
        name: re.findall(r"`(\w+)`", columns)
        for name, columns in re.findall(
            r"^\| `(runs|checkpoints|metrics)` \| [^|]+ \| (.+) \|$", README.read_text(), re.M
        )
    }
    with contextlib.closing(Database(filled / "index.sqlite")) as database:
        assert sorted(database.view_names()) == ["checkpoints", "metrics", "runs"]
    assert documented == {name: list(_rows(filled, name)[0]) for name in ("runs", "checkpoints", "metrics")}


def test_the_view_of_checkpoints_says_what_the_store_says(filled: Path) -> None:
    """One row a checkpoint, also of those without metrics."""
    rows = {row["ref"]: row for row in _rows(filled, "checkpoints")}
    with Store(filled) as store:
        for checkpoint in (each for run in store.runs() for each in run.checkpoints()):
            row = rows.pop(checkpoint.ref)
            for name in ("run", "version", "epoch", "step", "digest", "nbytes", "stored_bytes", "reason", "pinned"):
                assert row[name] == getattr(checkpoint, name)
            assert sorted(json.loads(row["tags"])) == list(checkpoint.tags)
            assert {
                name: float(value) for name, value in json.loads(row["metrics"]).items()
            }.keys() == checkpoint.metrics.keys()
            assert row["created_at"] == checkpoint.created_at.isoformat()
    assert not rows


def test_the_view_of_runs_counts(filled: Path) -> None:
    """How many checkpoints, the newest, and what they added to the store."""
    first, second = sorted(_rows(filled, "runs"), key=lambda row: row["name"])
    assert [first[name] for name in ("name", "checkpoints", "last_version", "monitor", "mode")] == [
        "a",
        3,
        3,
        "loss",
        "min",
    ]
    assert (json.loads(first["tags"]), json.loads(first["pins"])) == ({"final": 2, "paper": 2}, [1])
    assert (second["name"], second["checkpoints"]) == ("b", 1)


def test_the_view_of_metrics_has_a_row_for_each(filled: Path) -> None:
    """SQLite's own infinity, and NULL for NaN."""
    found = (row for row in _rows(filled, "metrics") if row["name"] == "loss")
    rows = sorted(found, key=lambda row: row["version"])
    assert [(row["ref"], row["epoch"], row["value"]) for row in rows] == [
        ("a@v1", 0, 0.5),
        ("a@v2", 1, None),
        ("a@v3", 2, math.inf),
    ]


def test_a_frame_has_one_row_a_checkpoint_and_a_column_a_metric(filled: Path) -> None:
    """A metric that some lack is None there; one called as a column of ours gives way."""
    with Store(filled) as store:
        table = store.frame()
        assert {len(column) for column in table.values()} == {4}
        assert table["ref"] == ["a@v1", "a@v2", "a@v3", "b@v1"]
        assert (table["epoch"], table["metrics.epoch"]) == ([0, 1, 2, None], [0.0, 1.0, 2.0, None])
        assert table["acc"] == [None, None, None, 0.9]
        assert (table["loss"][0], table["loss"][2:]) == (0.5, [math.inf, None])
        assert math.isnan(table["loss"][1])
        assert store.frame("b")["ref"] == ["b@v1"]


def test_the_best_and_the_last_of_all_runs(filled: Path) -> None:
    """By any metric; the newest by time."""
    with Store(filled) as store:
        assert store.best("acc", "max").ref == "b@v1"
        assert store.best("loss", "max").ref == "a@v1"
        assert store.last().ref == "b@v1"
