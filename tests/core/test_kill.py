"""SIGKILL at any point: what was reported durable loads bit-exactly, and nothing is left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ckpt_tracker import Store
from ckpt_tracker.files import manifest as manifests

COMMON = """
import os, random, select, signal, sys, warnings
import numpy as np
import sqlite_utils
import ckpt_tracker.index.migrations, ckpt_tracker.retention.reclaim
from ckpt_tracker import Store
from ckpt_tracker.errors import CkptTrackerError
from ckpt_tracker.retention import Best, Last

def state(seed):
    generator = np.random.default_rng(seed)
    shared = np.random.default_rng(seed // 4).integers(0, 256, 90_000, dtype=np.uint8)
    return {
        "model": {"frozen": shared, "head": generator.random(12_000), "bias": generator.random(5)},
        "loop": {"seed": seed, "history": list(range(seed % 7))},
    }
"""

# One process that has everything imported forks a training, kills it, and looks; thirty times.
KILLS = (
    COMMON
    + """
def train(path, first, pipe):
    with Store(path) as store:
        run = store.run("r")
        for seed in range(first, first + 1000):
            checkpoint = run.save(state(seed), epoch=seed, metrics={"loss": float(seed % 5)})
            if seed % 5 == 0:
                store.evict(run.plan(Last(3) | Best(1, "loss", mode="min")))
            os.write(pipe, f"{checkpoint.wait().version} {seed}\\n".encode())

def look(path, told):
    '''Every checkpoint that is there, and the one that was told last, is what was saved.'''
    with Store(path) as store:
        checkpoints = store.run("r").checkpoints()
        versions = [each.version for each in checkpoints]
        if told:
            assert versions[-1] >= told[-1][0], (versions, told[-1])
            assert any(each.version == told[-1][0] for each in checkpoints), (versions, told[-1])
        for checkpoint in checkpoints:
            saved, loaded = state(checkpoint.epoch), checkpoint.load()
            assert saved["loop"] == loaded["loop"]
            assert all(saved["model"][name].tobytes() == loaded["model"][name].tobytes() for name in saved["model"])
            assert dict(told).get(checkpoint.version, checkpoint.epoch) == checkpoint.epoch
        return versions

generator = random.Random(5)
told, first = [], 0
for kill in range(30):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        train(sys.argv[1], first, write)
        os._exit(1)
    os.close(write)
    wanted, lines = generator.randrange(0, 6), b""
    while lines.count(b"\\n") < wanted:
        lines += os.read(read, 100)
    # then on into the next save, by chance
    select.select([], [], [], generator.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 4096):
        lines += more
    os.close(read)
    told += [tuple(map(int, line.split())) for line in lines.split(b"\\n") if line]
    first += 50
    look(sys.argv[1], told)
    if kill % 10 == 9:
        with Store(sys.argv[1]) as store:
            store.gc()
            assert store.gc() == 0
            assert store.verify(deep=True).ok
versions = [version for version, _ in told]
assert versions == sorted(set(versions)), "a version was given twice"
print("kills 30, told", len(told) >= 30)
"""
)


def test_thirty_kills_lose_nothing_that_was_reported_durable(python: Callable[..., str], path: Path) -> None:
    """Saves, deduplicated saves, evictions; at random points. Every checkpoint that is there loads bit-exactly."""
    assert python(KILLS, path) == "kills 30, told True"
    with Store(path) as store:
        store.gc()
        folder = store.layout.manifests("r")
        needed = [manifests.read(folder, each.version, run="r").objects for each in store.run("r").checkpoints()]
        assert set(store.objects.names()) == set().union(*needed)
        assert list(store.layout.tmp.glob("[!e]*")) == []  # a later sweep takes the scratch files of events
        assert store.verify(deep=True).ok


STEPS = (
    COMMON
    + """
with Store(sys.argv[1]) as store:
    run = store.run("r")
    for seed in (1, 2, 3):
        run.save(state(seed), epoch=seed).wait()
        print(seed, flush=True)
        store.evict(run.plan(Last(1)))
"""
)


def _may_trace() -> bool:
    command = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=rmdir:signal=KILL:when=1", "true"]
    return (
        shutil.which("strace") is not None and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not _may_trace(), reason="strace is not installed, or may not trace here")
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "mkdir", "unlink", "flock"])
def test_a_kill_at_each_step_of_the_protocol_loses_nothing(tmp_path: Path, call: str) -> None:
    """Right at the n-th call of each kind, n growing until the script comes to its end."""
    kills = 0
    for count in [1, 2, 3, 5, 8, 13, 21, 34]:
        path = tmp_path / f"{call}-{count}"
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={count}"]
        ended = subprocess.run(
            ["strace", "-f", "-qq", "-o", "/dev/null", *inject, sys.executable, "-c", STEPS, str(path)],
            check=False,
            capture_output=True,
            text=True,
        )
        told = [int(line) for line in ended.stdout.split()]
        with Store(path) as store:
            checkpoints = store.run("r").checkpoints()
            assert max([each.epoch or 0 for each in checkpoints], default=0) >= max(told, default=0)
            for checkpoint in checkpoints:
                weights = np.random.default_rng(checkpoint.epoch).random(12_000)
                assert (checkpoint.load("model")["head"] == weights).all()
            store.run("r").save({"loop": {}}).wait()
            store.gc()
            assert store.verify(deep=True).ok
        if ended.returncode == 0:
            break
        kills += 1
    assert kills >= 2
