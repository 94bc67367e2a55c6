"""`ckpt metrics`: what a checkpoint was saved with, and what was measured later."""

from __future__ import annotations

import json

from ckpt_tracker import Store
from ckpt_tracker.environment import user


def test_metrics_are_added_and_shown_as_what_they_are(ckpt, mnist):
    """The training's own without a mark, the others with the command and the user."""
    result = ckpt("--store", mnist, "metrics", "mnist@v2", "add", "test_acc=0.93", "test/f1=9e-1")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["metric", "mnist@v2", "recorded"]
    assert lines[1] == ["acc", "0.1", "training"]
    assert lines[2][:2] == ["test/f1", "0.9"]
    assert lines[3][0] == "test_acc"
    assert lines[3][-3:] == ["ckpt", "metrics", f"({user()})"]
    with Store(mnist) as store:
        assert store["mnist@best:test_acc:max"].version == 2


def test_metrics_as_json(ckpt, mnist):
    """By name; NaN, which JSON does not have, is null."""
    ckpt("--store", mnist, "metrics", "mnist@v3", "add", "test_acc=0.93")
    document = json.loads(ckpt("--store", mnist, "metrics", "mnist@v3", "--json").stdout)
    assert document["ref"] == "mnist@v3"
    assert [(each["name"], each["value"]) for each in document["metrics"]] == [
        ("acc", 0.2),
        ("test_acc", 0.93),
        ("val_loss", None),
    ]
    assert [each["by"] for each in document["metrics"]] == [None, "ckpt metrics", None]


def test_show_and_log_tell_evaluations(ckpt, mnist):
    """Where they are, and when they came."""
    ckpt("--store", mnist, "metrics", "mnist@v1", "add", "test_acc=0.93")
    assert "test_acc: 0.93 (measured later)" in ckpt("--store", mnist, "show", "mnist@v1").stdout
    (line,) = [line for line in ckpt("--store", mnist, "log", "mnist").stdout.splitlines() if "evaluated" in line]
    assert line.endswith("test_acc=0.93")


def test_metrics_refuses_what_it_cannot_take(ckpt, mnist):
    """Each with what was expected; nothing is recorded."""
    for arguments, message in {
        ("mnist@v1", "add"): "add takes what was measured: ckpt metrics REF add test_acc=0.93",
        ("mnist@v1", "add", "acc"): "'acc' is no metric: expected NAME=NUMBER",
        ("mnist@v1", "add", "acc=high"): "'acc=high' is no metric: expected NAME=NUMBER",
        ("mnist@v1", "add", "=1"): "'=1' is no metric: expected NAME=NUMBER",
        ("mnist@v1", "add", "acc=1"): "mnist@v1 was saved with acc=0, which stays",
        ("mnist@v1", "set", "a=1"): "'set' is not 'add'",
    }.items():
        result = ckpt("--store", mnist, "metrics", *arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    with Store(mnist) as store:
        assert store["mnist@v1"].evaluations == ()
