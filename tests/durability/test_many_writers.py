"""Many processes write one store, with retention and gc among them, and some die: what was acknowledged stays."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.tracker import Tracker

PROCESSES, CHECKPOINTS, KILLS = 16, 200, 40
FROZEN = np.arange(30_000, dtype=np.float32)


def fork(task: Callable[[], None], log: Path) -> int:
    """Runs a task in a child; what it logs, and the error it dies of, goes to a file."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        logging.basicConfig(filename=log, force=True)
        task()
        status = 0
    except BaseException:
        logging.getLogger(__name__).exception("died")
    finally:
        os._exit(status)


def write(path: Path, number: int, acknowledged: Path) -> None:
    """One training: it goes on where it was killed, and notes each checkpoint that is durable."""
    tracker = Tracker(path, f"run-{number}", keep="last:2 every:50epochs")
    resumed = tracker.begin()
    first = 0 if resumed is None or resumed.epoch is None else resumed.epoch + 1
    with acknowledged.open("a", buffering=1) as notes:
        for epoch in range(first, CHECKPOINTS):
            shared = np.full(20_000, epoch, dtype=np.float32)  # all runs have it in that epoch
            own = np.random.default_rng([number, epoch]).random(300)
            state = {"model": {"frozen": FROZEN, "shared": shared, "own": own}}
            checkpoint = tracker.save(state, epoch=epoch, step=epoch, metrics=None).wait()
            notes.write(f"{checkpoint.ref} {checkpoint.digest}\n")
    tracker.close(finished=True)


def sweep(path: Path) -> None:
    """gc, again and again, until it is killed."""
    while True:
        with Store(path) as store:
            store.gc()


@pytest.mark.slow
def test_what_was_acknowledged_stays(tmp_path: Path) -> None:
    """16 processes, 200 checkpoints each, 40 of them killed and started again: the newest of each run is the last
    epoch, every checkpoint there is loads, nothing was locked out, and gc leaves no orphan.
    """
    path, chance = tmp_path / "store", random.Random(0)
    Store(path).close()
    notes = [tmp_path / f"acknowledged-{number}" for number in range(PROCESSES)]
    tasks = [lambda number=number: write(path, number, notes[number]) for number in range(PROCESSES)]
    running = {fork(task, tmp_path / f"log-{number}"): number for number, task in enumerate(tasks)}
    sweeper, kills = fork(lambda: sweep(path), tmp_path / "log-gc"), 0
    statuses = {}
    while running:
        if kills < KILLS and chance.random() < 0.2:
            os.kill(chance.choice(list(running)), signal.SIGKILL)
            kills += 1
        for child in list(running):
            done, status = os.waitpid(child, os.WNOHANG)
            if not done:
                continue
            number = running.pop(child)
            if os.WIFSIGNALED(status):
                running[fork(tasks[number], tmp_path / f"log-{number}")] = number
            else:
                statuses[number] = os.WEXITSTATUS(status)
        time.sleep(0.05)
    os.kill(sweeper, signal.SIGKILL)
    os.waitpid(sweeper, 0)

    logs = "".join(log.read_text(encoding="utf-8") for log in tmp_path.glob("log-*"))
    assert statuses == dict.fromkeys(range(PROCESSES), 0), logs
    assert kills == KILLS
    assert "locked" not in logs
    with Store(path) as store:
        digests = {each.ref: each.digest for run in store.runs() for each in run.checkpoints()}
        for number, noted in enumerate(notes):
            known = dict(line.split() for line in noted.read_text(encoding="utf-8").splitlines())
            run = store.run(f"run-{number}")
            assert run.last().epoch == CHECKPOINTS - 1
            assert {ref: digests[ref] for ref in known if ref in digests}.items() <= known.items()
            assert {each.epoch for each in run.checkpoints()} >= {49, 99, 149, 199}
        report = store.verify(deep=True)
        assert report.ok, report.findings
        assert report.checkpoints == len(digests)
        store.gc()
        assert len(list(store.objects.names())) == report.objects
