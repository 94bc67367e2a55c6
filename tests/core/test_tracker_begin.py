"""From `begin` to `close`: who has the run, what a second start means, and what it leaves to others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import RunBusy
from ckpt_tracker.records import Monitor
from ckpt_tracker.retention import Last
from ckpt_tracker.tracker import Tracker


def _train(tracker: Tracker, losses: list[float], *, start: int = 0) -> None:
    for epoch, loss in enumerate(losses, start=start):
        state = {"model": {"w": np.full(100, epoch)}}
        tracker.save(state, epoch=epoch, step=10 * (epoch + 1), metrics={"loss": loss})


def _versions(path: Path) -> list[int]:
    with Store(path) as store:
        return [each.version for each in store.run("r").checkpoints()]


def test_begin_twice_is_one_training(path: Path) -> None:
    """A framework may call its hook again."""
    tracker = Tracker(path, "r")
    tracker.begin()
    assert tracker.begin() is None
    _train(tracker, [1])
    tracker.close()
    tracker.close()
    assert _versions(path) == [1]


def test_a_tracker_goes_on_recording_after_close(path: Path) -> None:
    """`fit` called twice is one run, and the second call does not go back to the checkpoint of the first."""
    tracker = Tracker(path, "r", keep=Last(9))
    tracker.begin()
    _train(tracker, [1, 2])
    tracker.close(finished=True)
    assert tracker.begin() is None
    _train(tracker, [3], start=2)
    tracker.close(finished=True)
    assert _versions(path) == [1, 2, 3]


def test_an_interrupted_cell_is_taken_over(path: Path) -> None:
    """The same thread starting anew means that the tracker before is done with; what it saved is durable."""
    first = Tracker(path, "r")
    first.begin()
    _train(first, [1])
    second = Tracker(path, "r")
    resumed = second.begin()
    assert resumed is not None
    assert resumed.version == 1
    assert not first.active
    second.close()


def test_a_tracker_held_by_a_with_block_is_not_taken_over(path: Path) -> None:
    """There it is in use, further up."""
    first = Tracker(path, "r")
    first.begin()
    first.entered = True
    with pytest.raises(RunBusy, match="another tracker of this process: close that one first"):
        Tracker(path, "r").begin()
    first.close()
    second = Tracker(path, "r")
    second.begin()
    second.close()


def test_a_run_of_another_process_is_refused(path: Path, start: Callable[..., Any]) -> None:
    """Two trainings on one run at once would mix."""
    process = start(
        """
        import sys
        from ckpt_tracker.tracker import Tracker
        tracker = Tracker(sys.argv[1], "r")
        tracker.begin()
        print("training", flush=True)
        sys.stdin.readline()
        """,
        path,
    )
    assert process.line() == "training"
    with pytest.raises(RunBusy, match=rf"process {process.popen.pid}"):
        Tracker(path, "r").begin()
    process.kill()
    tracker = Tracker(path, "r")
    tracker.begin()
    tracker.close()


def test_a_stores_own_tracker_leaves_it_open(store: Store) -> None:
    """Who gave the store closes it."""
    tracker = Tracker(store, "r")
    tracker.begin()
    _train(tracker, [1])
    tracker.close()
    assert store["r@last"].verify().ok
    assert store.run("r").save({"loop": {}}).wait().version == 2


def test_the_monitor_of_a_training_is_the_runs(path: Path) -> None:
    """`RUN@best` needs no metric then; a later training may have another."""
    for metric in ("loss", "acc"):
        tracker = Tracker(path, "r", monitor=metric, mode="min", config={"lr": 0.1})
        tracker.begin(config={"lr": 9, "layers": 2})
        tracker.close()
        with Store(path) as store:
            record = store.run("r").record
            assert (record.monitor, record.config) == (Monitor(metric, "min"), {"lr": 0.1, "layers": 2})
