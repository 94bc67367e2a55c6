"""A save that fails in the background is told to the training exactly once, and never instead of its own error."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointWarning, SaveFailed
from ckpt_tracker.tracker import Tracker


class Disk:
    """A store whose saves can be made to fail, really: its `tmp/` becomes a file."""

    def __init__(self, path: Path) -> None:
        self._tmp = path / "tmp"

    def fail(self) -> None:
        """From now on nothing can be written."""
        self._tmp.rmdir()
        self._tmp.write_bytes(b"")

    def mend(self) -> None:
        """From now on it can again."""
        if self._tmp.is_file():
            self._tmp.unlink()
            self._tmp.mkdir()


@pytest.fixture
def disk(path: Path) -> Iterator[Disk]:
    """The disk of the test's store, mended at the end."""
    made = Disk(path)
    yield made
    made.mend()


def _begun(path: Path, on_error: Any) -> Tracker:
    tracker = Tracker(path, "r", on_error=on_error, keep="last:99")
    tracker.begin()
    return tracker


def _save(tracker: Tracker, epoch: int) -> None:
    """A save whose outcome is known when this returns."""
    tracker.save({"model": {"w": np.full(9, epoch)}}, epoch=epoch, step=epoch, metrics={})
    tracker.run.checkpoints()


def _durable(path: Path) -> list[int | None]:
    with Store(path) as store:
        return [each.epoch for each in store.run("r").checkpoints() if each.verify().ok]


def test_an_error_is_raised_at_the_next_save(path: Path, disk: Disk) -> None:
    """Once: the save after that works."""
    tracker = _begun(path, "raise")
    _save(tracker, 0)
    disk.fail()
    _save(tracker, 1)
    disk.mend()
    with pytest.raises(SaveFailed, match="r@v2 was not saved"):
        _save(tracker, 2)
    _save(tracker, 3)
    tracker.close()
    assert _durable(path) == [0, 3]


def test_an_error_is_raised_at_close(path: Path, disk: Disk) -> None:
    """Where no save comes any more; the run is given back all the same."""
    tracker = _begun(path, "raise")
    _save(tracker, 0)
    disk.fail()
    _save(tracker, 1)
    with pytest.raises(SaveFailed, match="r@v2 was not saved"):
        tracker.close()
    tracker.close()
    disk.mend()
    assert _durable(path) == [0]
    _begun(path, "raise").close()


@pytest.mark.parametrize("failing", range(6))
def test_a_failure_anywhere_is_told_at_the_next_call(path: Path, disk: Disk, failing: int) -> None:
    """Once, whichever of six saves it is; all the others are durable."""
    tracker, told = _begun(path, "raise"), []
    for epoch in range(6):
        try:
            tracker.due(epoch=epoch)
            if epoch == failing:
                disk.fail()
            _save(tracker, epoch)
        except SaveFailed as error:
            told.append((epoch, str(error)))
            _save(tracker, epoch)
        finally:
            disk.mend()
    try:
        tracker.close()
    except SaveFailed as error:
        told.append((6, str(error)))
    assert [epoch for epoch, _ in told] == [failing + 1]
    assert f"r@v{failing + 1} was not saved" in told[0][1]
    assert _durable(path) == [epoch for epoch in range(6) if epoch != failing]


def test_with_warn_the_training_goes_on(path: Path, disk: Disk) -> None:
    """Each failure is a warning, and what comes after it is saved."""
    tracker = _begun(path, "warn")
    disk.fail()
    _save(tracker, 0)
    disk.mend()
    with pytest.warns(CheckpointWarning, match="a checkpoint was not saved: r@v1 was not saved"):
        _save(tracker, 1)
    _save(tracker, 2)
    tracker.close()
    assert _durable(path) == [1, 2]


def test_with_warn_a_newest_checkpoint_that_is_not_durable_is_raised_at_close(path: Path, disk: Disk) -> None:
    """The end of a training without its last checkpoint is no success."""
    tracker = _begun(path, "warn")
    _save(tracker, 0)
    disk.fail()
    _save(tracker, 1)
    with pytest.warns(CheckpointWarning, match="r@v2"), pytest.raises(SaveFailed, match="r@v2 was not saved"):
        tracker.close()
    disk.mend()
    assert _durable(path) == [0]


def test_with_warn_only_the_newest_counts_at_close(path: Path, disk: Disk) -> None:
    """An earlier failure was a warning."""
    tracker = _begun(path, "warn")
    disk.fail()
    _save(tracker, 0)
    disk.mend()
    with pytest.warns(CheckpointWarning):
        _save(tracker, 1)
    tracker.close(finished=True)
    assert _durable(path) == [1]


def test_with_warn_several_failures_at_once_end_no_training(path: Path, disk: Disk) -> None:
    """They are one warning that names them all."""
    tracker = _begun(path, "warn")
    disk.fail()
    for epoch in range(3):
        capture = tracker.run.capture({"loop": {"epoch": epoch}})
        tracker.run.submit(capture, epoch=epoch, step=epoch, metrics={})
    tracker.run.checkpoints()
    disk.mend()
    with pytest.warns(CheckpointWarning, match="r@v1 was not saved.*r@v2 was not saved.*r@v3 was not saved"):
        _save(tracker, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.close()
    assert _durable(path) == [3]


@pytest.mark.parametrize("failures", [1, 3])
@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_the_trainings_own_error_is_not_hidden(path: Path, disk: Disk, on_error: str, failures: int) -> None:
    """The failed save is a note on it, or a warning; however many have failed."""
    tracker = _begun(path, on_error)
    disk.fail()
    for epoch in range(failures):
        capture = tracker.run.capture({"loop": {"epoch": epoch}})
        tracker.run.submit(capture, epoch=epoch, step=epoch, metrics={})
    own = ZeroDivisionError("training")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tracker.close(error=own)
    notes = [*getattr(own, "__notes__", []), *(str(each.message) for each in said)]
    assert any("r@v1 was not saved" in note for note in notes)
    assert not tracker.active


def test_a_run_whose_last_save_failed_is_not_finished(path: Path, disk: Disk) -> None:
    """It can be continued, and an unnamed one is offered for that."""
    tracker = _begun(path, "raise")
    _save(tracker, 0)
    disk.fail()
    _save(tracker, 1)
    with pytest.raises(SaveFailed):
        tracker.close(finished=True)
    disk.mend()
    with Store(path) as store:
        assert not store.run("r").record.finished


def test_a_finished_run_says_so(path: Path) -> None:
    """Until it is trained again."""
    tracker = _begun(path, "raise")
    _save(tracker, 0)
    tracker.close(finished=True)
    with Store(path) as store:
        assert store.run("r").record.finished
    _begun(path, "raise").close()
    with Store(path) as store:
        assert not store.run("r").record.finished


def test_an_interrupt_while_closing_gives_the_run_back(python: Callable[..., str], path: Path) -> None:
    """Ctrl-C in the middle of a wait: the process may go on, and train again."""
    output = python(
        """
        import signal, sys, threading
        import numpy as np
        from ckpt_tracker.tracker import Tracker
        tracker = Tracker(sys.argv[1], "r")
        tracker.begin()
        gate = threading.Event()
        tracker.run.writer()._writer.submit("slow", gate.wait)
        tracker.save({"model": {"w": np.ones(10)}}, epoch=0, step=1, metrics={})
        signal.signal(signal.SIGALRM, lambda *_: (gate.set(), signal.default_int_handler(2, None)))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            tracker.close()
        except KeyboardInterrupt:
            print("interrupted", tracker.active)
        again = Tracker(sys.argv[1], "r")
        print(again.begin().ref)
        again.close()
        """,
        path,
    )
    assert output.split("\n") == ["interrupted False", "r@v1"]
