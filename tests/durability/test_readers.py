"""Reading while others evict and sweep: a checkpoint is read whole, or it is gone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointGone, CheckpointNotFound
from ckpt_tracker.tracker import Tracker

READS = 400


def train(path: Path) -> None:
    """Saves for ever, and keeps two; each tensor of a checkpoint holds its step."""
    tracker = Tracker(path, "r", keep="last:2")
    tracker.begin()
    step = 0
    while True:
        state = {"model": {f"w{number}": np.full(20_000, float(step)) for number in range(4)}}
        tracker.save(state, epoch=None, step=step, metrics=None)
        step += 1


def test_a_reader_gets_all_of_a_checkpoint_or_hears_that_it_is_gone(tmp_path: Path) -> None:
    """400 reads of the older of two checkpoints, while the writer replaces them as fast as it can."""
    path = tmp_path / "store"
    Store(path).close()
    writer = os.fork()
    if not writer:
        try:
            train(path)
        finally:
            os._exit(1)
    whole, gone, partial = 0, 0, []
    try:
        while whole + gone < READS:
            try:
                with Store(path, create=False) as store:
                    checkpoint = store.run("r").checkpoints()[0]
                    model = checkpoint.load("model")
            except (CheckpointGone, CheckpointNotFound, IndexError):
                gone += 1
                continue
            whole += 1
            if not all((each == checkpoint.step).all() for each in model.values()):
                partial.append(checkpoint.ref)
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert partial == []
    assert whole > READS // 10
