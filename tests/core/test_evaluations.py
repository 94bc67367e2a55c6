"""What is measured after a training stands beside its own metrics: appended, marked, and good for finding the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.environment import user
from ckpt_tracker.errors import CheckpointGone, InvalidOption
from ckpt_tracker.retention import Best, Last
from ckpt_tracker.tracker import Tracker


@pytest.fixture
def trained(store: Store) -> Store:
    """Three epochs, each with weights of its own."""
    for epoch, loss in enumerate([0.5, 0.2, 0.3]):
        state = {"model": {"w": np.full(3, epoch)}, "optimizer": {"m": np.full(3, epoch)}}
        store.run("r").save(state, epoch=epoch, metrics={"loss": loss}).wait()
    return store


def test_an_evaluation_is_a_metric_and_says_whose(trained: Store) -> None:
    """When, by what and by whom; the training's own have no such mark."""
    before = datetime.now(timezone.utc)
    checkpoint = trained["r@v1"].add_metrics({"test/acc": 0.93}, test_f1=0.9)
    assert checkpoint.metrics == {"loss": 0.5, "test/acc": 0.93, "test_f1": 0.9}
    assert [each.name for each in checkpoint.evaluations] == ["test/acc", "test_f1"]
    first = checkpoint.evaluations[0]
    assert (first.version, first.value, first.by, first.user) == (1, 0.93, "python", user())
    assert before <= first.at <= datetime.now(timezone.utc)
    assert checkpoint.record.own_metrics == {"loss": 0.5}
    assert trained["r@v2"].evaluations == ()


def test_the_checkpoint_that_save_returned_takes_evaluations_too(store: Store) -> None:
    """It waits until it is durable."""
    assert store.run("r").save({"loop": {}}).add_metrics(acc=1).metrics == {"acc": 1.0}


def test_the_best_may_be_by_an_evaluation(trained: Store) -> None:
    """In Python, in references, and in what retention keeps."""
    trained["r@v1"].add_metrics(test_acc=0.9)
    trained["r@v3"].add_metrics(test_acc=0.95)
    assert trained.run("r").best("test_acc", mode="max").version == trained["r@best:test_acc:max"].version == 3
    kept = [each.checkpoint.version for each in trained.plan(Best(1, "test_acc", "max")).decisions if each.keep]
    assert 3 in kept
    assert 1 not in kept


def test_of_a_metric_that_is_added_again_the_last_value_counts(trained: Store) -> None:
    """And the history has both."""
    for value in (0.1, 0.2):
        trained["r@v1"].add_metrics(acc=value)
    assert trained["r@v1"].metrics["acc"] == 0.2
    told = [entry for entry in trained.run("r").history() if entry.event == "evaluated"]
    assert [(entry.versions, entry.details["metrics"]) for entry in told] == [
        ((1,), {"acc": 0.1}),
        ((1,), {"acc": 0.2}),
    ]


def test_what_the_training_recorded_stays(trained: Store) -> None:
    """Nothing of such a call is recorded, also what would have been new."""
    with pytest.raises(InvalidOption, match=r"r@v1 was saved with loss=0.5, which stays: .* another name than 'loss'"):
        trained["r@v1"].add_metrics(acc=0.9, loss=0.1)
    assert trained["r@v1"].metrics == {"loss": 0.5}


def test_what_is_no_number_is_refused(trained: Store) -> None:
    """As it is when a training saves it."""
    with pytest.raises(InvalidOption, match="metric 'acc' is 'high': expected one number"):
        trained["r@v1"].add_metrics({"acc": "high"})  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-310])
def test_every_number_comes_back_as_it_was(trained: Store, path: Path, value: float) -> None:
    """NaN too, which JSON does not have."""
    trained["r@v1"].add_metrics(acc=value)
    with Store(path) as other:
        assert repr(other["r@v1"].metrics["acc"]) == repr(value)


def test_a_rebuilt_index_has_them(trained: Store) -> None:
    """They are in the run's events."""
    trained["r@v2"].add_metrics(acc=0.9)
    before = trained["r@v2"].record
    trained.index.rebuild()
    assert trained["r@v2"].record == before
    assert trained.index.metric_names("r") == ["acc", "loss"]


def test_an_index_that_was_not_told_catches_up(trained: Store, path: Path) -> None:
    """As after a kill between the event and the index."""
    from ckpt_tracker.files import run_files

    run_files.events(trained.layout, "r").append("evaluate", version=2, metrics={"acc": 0.9})
    with Store(path) as other:
        assert other["r@v2"].metrics == {"loss": 0.2, "acc": 0.9}


def test_they_come_back_from_the_trash_with_their_checkpoint(trained: Store) -> None:
    """And outlive the loss of an optimizer."""
    trained["r@v1"].add_metrics(acc=0.9)
    trained.remove(trained["r@v1"])
    assert trained.index.metric_names("r") == ["loss"]
    trained.undo()
    assert trained["r@v1"].metrics == {"loss": 0.5, "acc": 0.9}
    trained.apply(trained.plan(Last(1) | Best(1, "acc", "max").weights_only()))
    assert trained["r@v1"].weights_only
    assert trained["r@v1"].metrics == {"loss": 0.5, "acc": 0.9}
    assert [each.name for each in trained["r@v1"].evaluations] == ["acc"]


def test_a_verify_knows_them(trained: Store, path: Path) -> None:
    """They are no damage, a damaged one is; and a checkpoint that was measured must have been there."""
    trained["r@v3"].add_metrics(acc=0.9)
    assert trained.verify(deep=True).ok
    (path / "runs/r/manifests/000003.json").unlink()
    assert [each.kind for each in trained.verify().findings] == ["missing manifest"]


FORGED: dict[str, dict[str, Any]] = {
    "no version": {"metrics": {"acc": 0.9}},
    "a version that is none": {"version": 0, "metrics": {"acc": 0.9}},
    "no metrics": {"version": 1},
    "a list": {"version": 1, "metrics": [1]},
    "a text": {"version": 1, "metrics": {"acc": "high"}},
    "a form of something else": {"version": 1, "metrics": {"acc": {"$tensor": 0}}},
    "a form that is none": {"version": 1, "metrics": {"acc": {"$float": "x"}}},
    "a name of nothing": {"version": 1, "metrics": {"": 1.0}},
}


@pytest.mark.parametrize("details", FORGED.values(), ids=FORGED.keys())
def test_an_evaluation_that_nobody_could_have_written_is_damage(trained: Store, path: Path, details: Any) -> None:
    """It is named, and left out; all else is there."""
    from ckpt_tracker.files import run_files

    run_files.events(trained.layout, "r").append("evaluate", **details)
    with Store(path) as other:
        assert other["r@v1"].metrics == {"loss": 0.5}
        assert [each.kind for each in other.verify().findings] == ["events"]


def test_an_event_never_overrules_the_training(trained: Store, path: Path) -> None:
    """Whoever wrote it."""
    from ckpt_tracker.files import run_files

    run_files.events(trained.layout, "r").append("evaluate", version=1, metrics={"loss": 0.0})
    with Store(path) as other:
        assert other["r@v1"].metrics == {"loss": 0.5}
        assert other["r@v1"].evaluations == ()
        assert other["r@best:loss:min"].version == 2


def test_a_checkpoint_that_is_gone_takes_none(trained: Store, path: Path) -> None:
    """It may have been evicted since it was looked up."""
    checkpoint = trained["r@v1"]
    with Store(path) as other:
        other.remove(other["r@v1"])
    with pytest.raises(CheckpointGone, match="r@v1 has no manifest any more"):
        checkpoint.add_metrics(acc=1.0)


EVALUATION = """
    import sys
    from ckpt_tracker import Store
    with Store(sys.argv[1]) as store:
        for number in range(20):
            store["r@v1"].add_metrics({f"{sys.argv[2]}{number}": number})
"""


def test_processes_evaluate_while_a_training_goes_on(start: Callable[..., Any], path: Path) -> None:
    """Nothing of either is lost."""
    tracker = Tracker(path, "r", keep="last:1 every:1epoch")
    tracker.begin()
    tracker.save({"model": {"epoch": 0}}, epoch=0, step=0, metrics={}).wait()
    processes = [start(EVALUATION, path, name) for name in "ab"]
    for epoch in range(1, 20):
        tracker.save({"model": {"epoch": epoch}}, epoch=epoch, step=epoch, metrics={}).wait()
    for process in processes:
        output, errors = process.end()
        assert (process.popen.returncode, output, errors) == (0, "", "")
    tracker.close(finished=True)
    with Store(path) as store:
        assert len(store["r@v1"].metrics) == 40
        assert len(store.run("r").checkpoints()) == 20
        assert store.verify(deep=True).ok
