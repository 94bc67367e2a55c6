"""Compactions beside trainings, sweeps and readers, each a process of its own: nothing is lost, mixed or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_tracker import Store

pytest.importorskip("zstandard", reason="the extra [compact] is not installed")

WORKER = """
import sys
import numpy as np
from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointGone
from ckpt_tracker.retention import Best, Last

def state(epoch):
    frozen, own = np.random.default_rng(0), np.random.default_rng(epoch)
    weights = frozen.standard_normal(20_000).astype("f4")
    changed = weights + np.float32(1e-6) * own.standard_normal(20_000).astype("f4")
    return {"model": {"w": changed, "f": weights}, "optimizer": {"m": own.standard_normal(20_000).astype("f4")}}

def check(checkpoint):
    found, saved = checkpoint.load(), state(checkpoint.epoch)
    assert found["model"]["w"].tobytes() == saved["model"]["w"].tobytes()
    assert found["optimizer"]["m"].tobytes() == saved["optimizer"]["m"].tobytes()

path, role, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
done = 0
for number in range(rounds):
    with Store(path) as store:
        if role == "compact":
            done += store.compact(threads=1).objects
        elif role == "sweep":
            store.gc()
        elif role == "read":
            for run in store.runs():
                for checkpoint in run.checkpoints():
                    try:
                        check(checkpoint)
                    except CheckpointGone:
                        pass
        else:
            run = store.run(role)
            run.save(state(number), epoch=number, metrics={"loss": (7 * number) % 5}).wait()
            store.evict(run.plan(Last(1 + number % 6) | Best(1, "loss", mode="min")))
print(done)
"""


@pytest.mark.slow
def test_compactions_beside_everything_else(tmp_path: Path) -> None:
    """Two trainings save the same tensors and evict; two compact, one sweeps, one reads all there is."""
    path = tmp_path / "store"
    Store(path).close()
    jobs = {"a": 25, "b": 25, "compact": 40, "compact ": 40, "sweep": 60, "read": 40}
    workers = {
        role: subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, str(path), role.strip(), str(rounds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for role, rounds in jobs.items()
    }
    ended = {role: worker.communicate(timeout=300) for role, worker in workers.items()}
    assert {role: errors for role, (_, errors) in ended.items() if errors} == {}
    with Store(path) as store:
        store.compact(threads=1)
        assert store.verify(deep=True).ok
        assert [len(run.checkpoints()) > 0 for run in store.runs()] == [True, True]
        store.gc()  # what evictions had to postpone
        assert store.verify(deep=True).ok
        assert list(store.objects.encoded.names())
