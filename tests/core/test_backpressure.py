"""A training that saves faster than can be written."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker.errors import InvalidOption
from ckpt_tracker.tracker import Tracker

STATE = {"model": {"w": np.ones(10)}}


def _save_while_held(tracker: Tracker) -> str | None:
    """Saves, and asks whether the next one is due while the writer is kept from writing it."""
    tracker.begin()
    gate = threading.Event()
    tracker.run.writer()._writer.submit("held", gate.wait)
    first = tracker.save(STATE, epoch=0, step=1, metrics={})
    due = tracker.due(epoch=1, step=2)
    gate.set()
    first.wait()
    assert tracker.due(epoch=2, step=3) == "1 epoch"
    tracker.close()
    return due


def test_a_checkpoint_that_is_due_too_early_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With backpressure="skip"; it is said, and the next one is due as ever."""
    with caplog.at_level(logging.WARNING, "ckpt_tracker"):
        assert _save_while_held(Tracker(tmp_path / "store", "r", backpressure="skip")) is None
    assert "it is skipped, for backpressure='skip' says so" in caplog.text


def test_otherwise_the_training_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And that is said once."""
    with caplog.at_level(logging.WARNING, "ckpt_tracker"):
        assert _save_while_held(Tracker(tmp_path / "store", "r")) == "1 epoch"
    assert caplog.text.count("still being written: the training waits for that") == 1


def test_another_word_is_refused(tmp_path: Path) -> None:
    """Before anything is made."""
    with pytest.raises(InvalidOption, match="backpressure='drop': expected 'wait' or 'skip'"):
        Tracker(tmp_path / "store", "r", backpressure="drop")  # type: ignore[typeddict-item]
