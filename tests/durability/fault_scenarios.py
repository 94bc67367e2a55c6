"""What is done while a system call fails: each scenario begins with a store that is whole, and tells what it was
promised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from durability.crash_recording import mark
from durability.crash_scenarios import RUN, evict, prepared, save, started, state, tag, trash

from ckpt_tracker import Run, Store
from ckpt_tracker.errors import CkptTrackerError
from ckpt_tracker.retention import Last
from ckpt_tracker.tracker import Tracker

SETTLED: list[bool] = []
"""Not empty once what the scenario begins with is there."""


def thread_now() -> str:
    """What the gate calls the background writer that starts now."""
    return "writer" if SETTLED else "nobody"


@contextmanager
def writing(path: Path, *seeds: int) -> Iterator[tuple[Store, Run]]:
    """A store with checkpoints, opened again and with its run taken, before anything fails."""
    with Store(path) as store:
        for seed in seeds:
            save(started(store, RUN), seed)
    with Store(path) as store:
        run = store.run(RUN)
        run.writer()
        mark(settled=True)
        yield store, run
    mark(completed=True)


def opening(path: Path) -> None:
    """A store where there was none, a run, a save."""
    mark(settled=True)
    with Store(path) as store:
        save(started(store, RUN), 1)
    mark(completed=True)


def reopening(path: Path) -> None:
    """A store that is there, and the run's lock."""
    with prepared(path, 1) as (_, run):
        run.writer()
    mark(completed=True)


def saves(path: Path) -> None:
    """One of tensors that are new, and one that shares some."""
    with writing(path, 1) as (_, run):
        for seed in (2, 3, 4):
            save(run, seed)


def unwaited(path: Path) -> None:
    """Nobody waits: an error comes up once, at the next call, and saving goes on."""
    with writing(path, 1) as (_, run):
        first = run.save(state(2), epoch=2)
        run._drain()
        errors = []
        for seed in (3, 4):
            try:
                save(run, seed)
            except (CkptTrackerError, OSError) as error:
                errors.append(error)
        failed = [first.version] if first._pending is not None and first._pending.failed else []
        assert len(errors) <= 1, errors
        assert bool(failed) <= bool(errors), "silent"
        if not failed:
            mark(saved=[RUN, first.version, 2])
        save(run, 5)


def last(path: Path) -> None:
    """Nobody waits, and nothing comes after it: the error comes up at close."""
    with Store(path) as store:
        save(started(store, RUN), 1)
    store = Store(path)
    run = store.run(RUN)
    run.writer()
    mark(settled=True)
    checkpoint = run.save(state(2), epoch=2)
    try:
        store.close()
    except (CkptTrackerError, OSError):
        pass
    else:
        mark(saved=[RUN, checkpoint.version, 2])
    store.close()
    mark(completed=True)


def eviction(path: Path) -> None:
    """What is freed at once."""
    with writing(path, 1, 2, 3) as (store, run):
        evict(store, run, Last(1))


def removal(path: Path) -> None:
    """To the trash, and back."""
    with writing(path, 1, 2, 3) as (store, run):
        trash(store, run, Last(2))
        store.undo()
        trash(store, run, Last(1))


def collection(path: Path) -> None:
    """What killed saves left, and trash that is old."""
    with writing(path, 1, 2, 5) as (store, run):
        trash(store, run, Last(1))
        for each in store.layout.trash.rglob("*.json"):
            os.utime(each, (0, 0))
        (store.layout.tmp / "half").write_bytes(b"half")
        store.gc()


def rebuild(path: Path) -> None:
    """The index is gone."""
    with Store(path) as store:
        save(started(store, RUN), 1)
    (path / "index.sqlite").unlink()
    mark(settled=True)
    with Store(path) as store:
        store.run(RUN).last().load()
    mark(completed=True)


def tags(path: Path) -> None:
    """The first and another one."""
    with writing(path, 1, 2) as (_, run):
        tag(run, "paper")
        tag(run, "talk")


def training(path: Path) -> None:
    """A tracker that only warns: the training goes on, and the end tells of a last checkpoint that is not durable."""
    with Store(path) as store:
        save(started(store, RUN), 1)
    mark(settled=True)
    tracker = Tracker(path, RUN, keep=Last(1), on_error="warn")
    try:
        tracker.begin()
        for seed in (2, 3):
            older = [[RUN, each.version] for each in tracker.run.checkpoints()]
            checkpoint = tracker.save(state(seed), epoch=seed, step=None, metrics=None)
            mark(removing=older)
            checkpoint.wait()
            mark(saved=[RUN, checkpoint.version, seed])
    except BaseException as error:
        tracker.close(error=error)
        raise
    tracker.close(finished=True)
    mark(completed=True)


_BOTH, _MAIN = ("main", "writer"), ("main",)
SCENARIOS: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "opening": (_BOTH, opening),
    "reopening": (_MAIN, reopening),
    "saves": (_BOTH, saves),
    "unwaited": (_BOTH, unwaited),
    "last": (_BOTH, last),
    "eviction": (_MAIN, eviction),
    "removal": (_MAIN, removal),
    "collection": (_MAIN, collection),
    "rebuild": (_MAIN, rebuild),
    "tags": (_MAIN, tags),
    "training": (_BOTH, training),
}
