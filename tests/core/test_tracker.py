"""The tracker: when it saves, what it keeps, and that nothing is deleted before the newer one is durable."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.callback import TrackerCallback
from ckpt_tracker.errors import CheckpointWarning, InvalidOption, UnstorableLeaf
from ckpt_tracker.retention import Best, Every, Last
from ckpt_tracker.tracker import Tracker


def _state(epoch: int) -> dict[str, object]:
    weights = {"w": np.random.default_rng(epoch).random(10_000), "frozen": np.ones(10_000)}
    return {"model": weights, "loop": {"epoch": epoch}}


def _train(tracker: Tracker, losses: list[Any], *, start: int = 0) -> None:
    for epoch, loss in enumerate(losses, start=start):
        metrics = {} if loss is None else {"loss": loss}
        tracker.save(_state(epoch), epoch=epoch, step=10 * (epoch + 1), metrics=metrics, reason="1 epoch")


def _versions(path: Path, run: str = "r") -> list[int]:
    with Store(path) as store:
        return [each.version for each in store.run(run).checkpoints()]


OPTIONS: dict[str, dict[str, Any]] = {
    "monitor without mode": {"monitor": "loss"},
    "mode without monitor": {"mode": "min"},
    "mode auto": {"monitor": "loss", "mode": "auto"},
    "no trigger": {"every": "sometimes"},
    "a number for every": {"every": 5},
    "no policy": {"keep": "all"},
    "a number for keep": {"keep": 5},
    "best without monitor": {"keep": Best(1)},
    "a bad run name": {"run": "a/b"},
    "no resume": {"resume": "yes"},
    "a run for resume": {"resume": "mnist"},
    "resume best without monitor": {"resume": "best"},
    "no reference": {"resume": "mnist@a b"},
    "none for resume": {"resume": None},
    "no on_error": {"on_error": "ignore"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_wrong_option_is_refused_at_once(path: Path, options: dict[str, Any]) -> None:
    """Before the disk is touched, and long before the first epoch ends."""
    with pytest.raises(InvalidOption):
        Tracker(path, **options)
    assert not path.exists()


def test_making_a_tracker_touches_no_disk(path: Path) -> None:
    """Until the training begins."""
    Tracker(path, "r", monitor="loss", mode="min", every=["1 epoch", "5 minutes"], keep="last:2 best:1")
    assert not path.exists()


def test_the_default_keeps_the_best_and_the_last_two(path: Path) -> None:
    """Where a metric is monitored; the last three where none is."""
    assert Tracker(path, monitor="loss", mode="min").options.keep == Last(2) | Best(1, "loss", "min")
    assert Tracker(path).options.keep == Last(3)


def test_a_training_leaves_the_best_and_the_last_two(path: Path) -> None:
    """With the objects of these, and none else."""
    tracker = Tracker(path, "r", monitor="loss", mode="min")
    assert tracker.begin() is None
    _train(tracker, [0.5, 0.1, 0.4, 0.3, 0.2])
    tracker.close()
    assert _versions(path) == [2, 4, 5]
    with Store(path) as store:
        assert store["r@best"].version == 2
        assert len(set(store.objects.names())) == 4
        assert store.gc() == 0
        assert store.verify(deep=True).ok


def test_nan_never_becomes_the_best(path: Path) -> None:
    """M10: a first NaN does not hold the place for ever."""
    tracker = Tracker(path, "r", monitor="loss", mode="min", keep=Best(1))
    tracker.begin()
    _train(tracker, [math.nan, 0.9, 0.5, 0.7])
    tracker.close()
    assert _versions(path) == [3, 4]


def test_the_newest_stays_whatever_the_policy_says(path: Path) -> None:
    """Or there would be nothing to resume from."""
    tracker = Tracker(path, "r", keep=Every(epochs=100))
    tracker.begin()
    _train(tracker, [1, 2, 3])
    tracker.close()
    assert _versions(path) == [3]


def test_nothing_is_deleted_before_the_newer_one_is_durable(path: Path) -> None:
    """M1, M3, M12: while the new one can't be written, the old one is there."""
    tracker = Tracker(path, "r", keep=Last(1), on_error="warn")
    tracker.begin()
    _train(tracker, [1])
    tracker.run.checkpoints()
    tmp = tracker.store.layout.tmp
    tmp.rmdir()
    tmp.write_bytes(b"")
    _train(tracker, [2], start=1)
    tracker.run.checkpoints()
    assert [each.version for each in tracker.run.checkpoints() if each.verify().ok] == [1]
    tmp.unlink()
    tmp.mkdir()
    with pytest.warns(CheckpointWarning, match="a checkpoint was not saved: r@v2"):
        _train(tracker, [3], start=2)
    tracker.close()
    assert _versions(path) == [3]


def test_nothing_of_another_run_is_touched(path: Path) -> None:
    """Neither its checkpoints nor what it shares."""
    with Store(path) as store:
        for epoch in range(3):
            store.run("other").save(_state(epoch), epoch=epoch).wait()
    tracker = Tracker(path, "r", keep=Last(1))
    tracker.begin()
    _train(tracker, [1, 2, 3])
    tracker.close()
    assert _versions(path, "other") == [1, 2, 3]
    with Store(path) as store:
        assert store.verify(deep=True).ok


def test_a_tag_given_while_training_keeps_its_checkpoint(path: Path) -> None:
    """Also one that another process gives."""
    tracker = Tracker(path, "r", keep=Last(1))
    tracker.begin()
    _train(tracker, [1])
    tracker.run.checkpoints()
    with Store(path) as other:
        other.run("r").tag("paper")
    _train(tracker, [2, 3], start=1)
    tracker.close()
    assert _versions(path) == [1, 3]


def test_a_missing_metric_warns_once_and_keeps_the_checkpoint(path: Path) -> None:
    """It never ends the training; what there is instead is said."""
    tracker = Tracker(path, "r", monitor="loss", mode="min", keep=Best(2))
    tracker.begin()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for epoch in range(3):
            tracker.save(_state(epoch), epoch=epoch, step=epoch, metrics={"acc": 0.5})
        tracker.close()
    (message,) = [str(each.message) for each in said if each.category is CheckpointWarning]
    assert message.startswith("the monitored metric 'loss' is missing (there are: acc): such checkpoints are kept")
    assert _versions(path) == [2, 3]


def test_no_metric_is_missing_inside_an_epoch(path: Path) -> None:
    """None are expected there."""
    tracker = Tracker(path, "r", monitor="loss", mode="min", every="1 step")
    tracker.begin()
    assert tracker.save(_state(0), epoch=None, step=1, metrics=None) is not None
    tracker.close()


@pytest.mark.parametrize("value", ["high", None, [1, 2], object(), 10**400])
def test_a_metric_that_is_no_number_is_left_out_with_a_warning(path: Path, value: object) -> None:
    """The others are recorded."""
    tracker = Tracker(path, "r")
    tracker.begin()
    with pytest.warns(CheckpointWarning, match=r"metric 'note' is .*, which is no number: left out"):
        checkpoint = tracker.save(_state(0), epoch=0, step=1, metrics={"note": value, "loss": np.float32(0.5)})
    tracker.close()
    assert checkpoint is not None
    assert checkpoint.metrics == {"loss": 0.5}


def test_a_state_that_cannot_be_stored_ends_the_training_clearly(path: Path) -> None:
    """It is the script's to mend; the run is given back by close."""
    tracker = Tracker(path, "r", on_error="warn")
    tracker.begin()
    with pytest.raises(UnstorableLeaf, match=r"^callbacks\.EarlyStopping\.fn is a "):
        tracker.save({"callbacks": {"EarlyStopping": {"fn": print}}}, epoch=0, step=1, metrics={})
    tracker.close()
    assert _versions(path) == []


def test_a_checkpoint_records_why_it_was_taken(path: Path) -> None:
    """The trigger's text; and how long the training was held up by it."""
    tracker = Tracker(path, "r", every=["2 epochs", "5 steps"])
    tracker.begin()
    for epoch, step in [(0, 4), (1, 4), (None, 5)]:
        reason = tracker.due(epoch=epoch, step=step)
        if reason:
            tracker.save(_state(0), epoch=epoch, step=step, metrics={}, reason=reason)
    records = [each.record for each in tracker.run.checkpoints()]
    tracker.close()
    assert [each.reason for each in records] == ["2 epochs", "5 steps"]
    assert all(each.stall_seconds > 0 and each.write_seconds > 0 for each in records)


def test_a_callback_has_the_trackers_face(path: Path) -> None:
    """What every integration's CheckpointTracker offers."""

    class Callback(TrackerCallback):
        """An integration's, without a framework."""

    callback = Callback(path, "r", monitor="loss", mode="min")
    assert callback.resumed_from is None
    assert not path.exists()
    callback._tracker.begin()
    _train(callback._tracker, [0.5])
    assert (callback.run.name, callback.store.path) == ("r", path)
    callback.close()
    assert _versions(path) == [1]


def test_a_quiet_training_warns_of_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No warning and no log line where nothing is wrong."""
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        tracker = Tracker(path, "r", monitor="loss", mode="min")
        tracker.begin()
        _train(tracker, [0.5, 0.4, 0.6, 0.3])
        tracker.close(finished=True)
    assert caplog.messages == []
