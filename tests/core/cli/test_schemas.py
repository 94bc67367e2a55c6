"""What `--json` prints is what `schemas.SCHEMAS` says: no key more, none less, each of its kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from json_shapes import faults

from ckpt_tracker import Store
from ckpt_tracker.cli.app import COMMANDS
from ckpt_tracker.cli.schemas import ONE_A_LINE, SCHEMAS
from ckpt_tracker.tracker import Tracker


@pytest.fixture
def eventful(mnist):
    """The store `mnist`, of which much has been done: evicted, stripped, evaluated, trashed, resumed."""
    tracker = Tracker(mnist, "mnist", monitor="val_loss", mode="min", keep="last:2 best:1:weights", config={"lr": 1})
    tracker.begin()
    for epoch in (3, 4):
        model = {"w": np.array([float(epoch), np.nan])}
        metrics = {"val_loss": 1.0 / epoch, "odd": float("inf")}
        tracker.save({"model": model, "optimizer": {}}, epoch=epoch, step=None, metrics=metrics, reason="1 epoch")
    tracker.close(finished=True)
    with Store(mnist) as store:
        for value in range(3):
            store.run("b").save({"model": {"w": np.full(3, value)}}).wait()
        store["b@v1"].add_metrics({"test": 0.5})
        store.remove(store["b@v2"])
        store.run("b").pin()
    return mnist


CALLS = {
    "runs": [[]],
    "ls": [[], ["mnist"], ["mnist", "--columns", "epoch"]],
    "show": [["mnist"], ["gan"], ["b@v1"]],
    "best": [["mnist"], ["--across-runs", "--metric", "test + 1", "--mode", "max"]],
    "why": [["mnist@last"], ["b@v1", "--keep", "best:1:test:max:weights"]],
    "diff": [["mnist@v1", "mnist@last"], ["gan", "b"]],
    "du": [[], ["--keep", "last:1"]],
    "watch": [["mnist"]],
    "log": [[], ["mnist", "--at", "2100-01-01"]],
    "metrics": [["mnist"], ["b@v1"]],
    "tag": [["mnist", "x"], ["mnist@v1", "paper"], ["mnist", "paper", "--delete"]],
    "pin": [["gan"], ["b"]],
    "unpin": [["b"]],
    "prune": [["--keep", "last:1"], ["b", "--keep", "last:1", "--yes"]],
    "rm": [["b@v1"]],
    "trash": [[], ["--empty"]],
    "undo": [[]],
    "gc": [[], ["--dry-run"]],
    "compact": [["--dry-run"]],
    "export": [["mnist@v1", "m.npz"]],
    "verify": [[], ["mnist", "--deep"]],
    "repair": [[], ["--yes"]],
}
ELSEWHERE = {"demo": "tests/test_demo.py", "import": "tests/test_import.py", "verify-resume": "test_verify_resume.py"}


def test_every_command_has_a_schema_that_is_tried():
    """No command prints what nobody documented."""
    assert set(SCHEMAS) == set(COMMANDS) == {*CALLS, *ELSEWHERE}


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, call) for name, calls in CALLS.items() for call in calls], ids=str
)
def test_what_is_printed_is_what_is_documented(ckpt, eventful, name, arguments):
    """Real output of the command, key by key."""
    if name == "compact":
        pytest.importorskip("zstandard")
    result = ckpt(name, *arguments, "--store", eventful, "--json")
    assert result.exit_code == 0, result.output
    documents = [json.loads(line) for line in result.stdout.splitlines()] if name in ONE_A_LINE else None
    for document in documents or [json.loads(result.stdout)]:
        assert [*faults(document, SCHEMAS[name])] == []


def test_a_damaged_store_is_told_as_documented(ckpt, eventful):
    """The findings of `verify`, and the steps of `repair`."""
    next(path for path in (eventful / "objects").rglob("*") if path.is_file()).write_bytes(b"no")
    (eventful / "runs/mnist/run.json").write_bytes(b"{}")
    for name in ("verify", "repair"):
        document = json.loads(ckpt(name, "--store", eventful, "--json").stdout)
        assert [*faults(document, SCHEMAS[name])] == []
        assert document.get("findings") or document.get("steps")


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({"a": 1}, {"a": "text"}),
        ({}, {"a": "integer"}),
        ({"a": 1, "b": 2}, {"a": "integer"}),
        ([{"a": None}], [{"a": "integer"}]),
        (True, "integer"),
        ({"x": "1"}, {"*": "number"}),
        ("mnist", "reference"),
        ([], ({"a": "text"}, "null")),
    ],
)
def test_what_is_not_of_a_shape_is_found(value, shape):
    """The check itself can fail."""
    assert [*faults(value, shape)]
