"""What is recorded: each scenario in a forked process of its own, which marks what it was promised.

python -m durability.crash_scenarios FOLDER SCENARIO[+MUTATION] ...
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sqlite_utils  # noqa: F401  (imported late by the index; here once for all forks)
from durability.crash_mutations import MUTATIONS
from durability.crash_recording import mark

from ckpt_tracker import Run, Store
from ckpt_tracker.compaction import plan as compaction
from ckpt_tracker.files import objects
from ckpt_tracker.retention import Last, Retention
from ckpt_tracker.tracker import Tracker

RUN = "r"
SERIES = 100
"""From that seed on a tensor changes little from seed to seed."""
Kill = tuple[str, str, int, Callable[[Path], None]]
"""The call, what is in its path, the how manieth, and what the next process does."""


@functools.cache
def state(seed: int) -> dict[str, Any]:
    """A state with a tensor of its own, one that three seeds share, a small one, and plain values."""
    own, shared = np.random.default_rng(seed), np.random.default_rng(1000 + seed // 3)
    tensors = {"own": own.integers(0, 256, 96, dtype=np.uint8), "shared": shared.random(16), "small": own.random(3)}
    if seed >= SERIES:
        # of a series: little is changed by a seed, and a compaction finds something to do
        series = np.random.default_rng(SERIES).integers(0, 4, 2000, dtype=np.uint8)
        series[own.integers(0, 2000, 20)] ^= 1
        tensors["own"] = series
    return {"model": tensors, "loop": {"seed": seed, "history": [0.5] * (seed % 4)}}


def started(store: Store, name: str) -> Run:
    """A run, reported started."""
    config = {"of": name}
    run = store.run(name, config)
    mark(started=[name, config])
    return run


def save(run: Run, seed: int) -> None:
    """A checkpoint, reported durable."""
    checkpoint = run.save(state(seed), epoch=seed, metrics={"loss": float(seed % 5)}).wait()
    mark(saved=[run.name, checkpoint.version, seed], started=[run.name, {"of": run.name}])


def evict(store: Store, run: Run, keep: Retention | str) -> None:
    """Retention, as a tracker has it done."""
    plan = run.plan(keep)
    mark(removing=[[each.run, each.version] for each in plan.removed])
    store.evict(plan)


def trash(store: Store, run: Run, keep: Retention | str) -> None:
    """Retention, as a person has it done."""
    plan = run.plan(keep)
    mark(removing=[[each.run, each.version] for each in plan.removed])
    store.apply(plan)


def tag(run: Run, name: str) -> None:
    """A tag, reported given."""
    run.tag(name)
    mark(tagged=[run.name, name, run.last().version])


@contextlib.contextmanager
def prepared(path: Path, *seeds: int) -> Iterator[tuple[Store, Run]]:
    """A store with checkpoints of these seeds, durable and closed before it is opened again."""
    with Store(path) as store:
        for seed in seeds:
            save(started(store, RUN), seed)
    mark(settled=True)
    with Store(path) as store:
        yield store, store.run(RUN)


def first_save(path: Path) -> None:
    """A store where there was none, two folders deep."""
    with Store(path) as store:
        save(started(store, RUN), 1)


def saves(path: Path) -> None:
    """Tensors of their own, shared ones, and a state that was saved before."""
    with prepared(path, 1) as (_, run):
        for seed in (2, 3, 3):
            save(run, seed)


def second_run(path: Path) -> None:
    """Another run of the store is started, saves what is there already, and ends."""
    with prepared(path, 1) as (store, _):
        run = started(store, "other")
        save(run, 1)
        store.record_event("other", "finish")


def evictions(path: Path) -> None:
    """What is freed at once."""
    with prepared(path, 1, 2, 3, 4) as (store, run):
        evict(store, run, Last(2))
        save(run, 5)
        evict(store, run, Last(1))


def removals(path: Path) -> None:
    """To the trash, the newest too; then the trash is emptied."""
    with prepared(path, 1, 2, 5, 8) as (store, run):
        trash(store, run, "best:1:loss:min")
        save(run, 9)
        for each in store.layout.trash.rglob("*.json"):
            os.utime(each, (0, 0))
        store.gc()


def collection(path: Path) -> None:
    """What killed saves left behind is swept."""
    with prepared(path, 1, 2) as (store, run):
        for name in ("ab" * 32, "cd" * 32):
            orphan = store.objects.path(name)
            orphan.parent.mkdir(exist_ok=True)
            orphan.write_bytes(b"orphan")
        (store.layout.tmp / "half").write_bytes(b"half")
        store.gc()
        save(run, 3)


def rebuild(path: Path) -> None:
    """The index is gone, and then damaged."""
    with prepared(path, 1, 2):
        pass
    for change in (lambda file: file.unlink(), lambda file: file.write_bytes(b"no database" * 99)):
        change(path / "index.sqlite")
        with Store(path) as store:
            save(store.run(RUN), 3)


def compactions(path: Path) -> None:
    """A series is encoded; a save finds it so; its keyframe is evicted, what stood on that encoded anew."""
    with prepared(path, SERIES, SERIES + 1, SERIES + 2) as (store, run):
        assert store.compact(threads=1).objects > 2
        save(run, SERIES + 1)
        evict(store, run, Last(2))
        store.compact(threads=1)
        save(run, SERIES + 3)


def tags(path: Path) -> None:
    """The first event of a run, and the next."""
    with prepared(path, 1) as (_, run):
        tag(run, "paper")
        save(run, 2)
        tag(run, "paper")


def training(path: Path) -> None:
    """A tracker's: it starts, saves, lets retention work in the background, and finishes."""
    for first in (1, 4):
        tracker = Tracker(path, RUN, keep=Last(1))
        tracker.begin()
        for seed in range(first, first + 3):
            older = [[RUN, each.version] for each in tracker.run.checkpoints()]
            checkpoint = tracker.save(state(seed), epoch=seed, step=None, metrics=None)
            mark(removing=older)
            checkpoint.wait()
            mark(saved=[RUN, checkpoint.version, seed])
        tracker.close(finished=True)


def everything(path: Path, first: int) -> None:
    """Three saves, and all that can be done to them."""
    with Store(path) as store:
        run = store.run(RUN, {"of": RUN})
        save(run, first)
        save(run, first + 1)
        evict(store, run, Last(1))
        save(run, first + 2)
        trash(store, run, Last(1))
        tag(run, "paper")
        store.gc()


def eviction(path: Path) -> None:
    """By a process that does not save."""
    with Store(path) as store:
        evict(store, store.run(RUN), Last(1))


def collected(path: Path) -> None:
    """By a process that does nothing else."""
    with Store(path) as store:
        store.gc()


def _killed(kill: Kill, path: Path) -> None:
    """A process is killed at its n-th call on such a path; the next one finds what the first did not sync."""
    call, pattern, count, then = kill
    child = os.fork()
    if not child:
        _kill_at(call, pattern, count)
        everything(path, 1)
        os._exit(0)
    os.waitpid(child, 0)
    mark(explore=True)
    then(path)


def _kill_at(call: str, pattern: str, count: int) -> None:
    """Right before an fsync, right after anything else: what is done is not durable yet."""
    original = getattr(os, call)
    calls = iter(range(count - 1))

    def counted(*arguments: Any, **more: Any) -> Any:
        last = arguments[-1] if call == "replace" else arguments[0]
        path = os.readlink(f"/proc/self/fd/{last}") if isinstance(last, int) else str(last)
        kill = re.search(pattern, path) is not None and next(calls, None) is None
        if not kill or call != "fsync":
            original(*arguments, **more)
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()

    setattr(os, call, counted)


def _then_everything(path: Path) -> None:
    everything(path, 2)


KILLS: dict[str, Kill] = {
    "killed with objects named": ("fsync", r"/objects/..$", 1, _then_everything),
    "killed with a file of the run named": ("replace", r"/events\.length$", 1, _then_everything),
    "killed with a checkpoint named, then evicted": ("replace", "/manifests/000002.json$", 1, eviction),
    "killed in an eviction, then collected": ("unlink", "/manifests/000001.json$", 1, collected),
}
_COUNTS = {"fsync": range(1, 60, 2), "replace": range(1, 16), "unlink": range(1, 4), "mkdir": range(1, 12)}
KILLS |= {
    f"killed at {call} {count}": (call, "/store", count, _then_everything)
    for call, counts in _COUNTS.items()
    for count in counts
}
SCENARIOS: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (*(first_save, saves, second_run, evictions, removals, collection, rebuild, tags, training),)
}
if importlib.util.find_spec("zstandard"):
    SCENARIOS["compactions"] = compactions
SCENARIOS |= {name: functools.partial(_killed, kill) for name, kill in KILLS.items()}


def main(folder: Path, jobs: list[str]) -> None:
    """Each job in a fork of its own, one after the other."""
    objects.SMALL = compaction._SMALLEST = 64
    sys.argv = ["scenario"]  # or starts would record the repository's diff
    for job in jobs:
        path = folder / job
        path.mkdir()
        mark(begin=job)
        child = os.fork()
        if not child:
            scenario, _, mutation = job.partition("+")
            if mutation:
                MUTATIONS[mutation].apply()
            SCENARIOS[scenario](path / "store")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"{job} ended with status {status}"
        mark(end=job)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
