"""Real kills: a Keras training that SIGKILL ended, started again, leaves the checkpoints of an uninterrupted one."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

for _needed in ("keras", "tensorflow", "torch"):
    pytest.importorskip(_needed)
SCRIPT = Path(__file__).with_name("keras_training.py")
BACKENDS = ("torch", "jax", "tensorflow")
INSIDE = {"every": ["1 epoch", "2 steps"]}
# inside the first epoch; after an epoch's end, where only its checkpoint is newer; inside a later one
KILLS = [[0, 3], [2, 1], [3, 3]]


class Trainings:
    """A process that has imported Keras with one backend, and trains in forks of itself."""

    def __init__(self, backend, log):
        self._log = log
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                env={**os.environ, **quiet, "KERAS_BACKEND": backend},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def fit(self, case, store, *, seed, kill=None):
        """The exit status of a training, and what it says when it comes to its end."""
        print(
            json.dumps({**case, "store": str(store), "seed": seed, "kill": kill}), file=self._process.stdin, flush=True
        )
        answer = self._process.stdout.readline()
        status, said = json.loads(answer) if answer else pytest.fail(self._log.read_text())
        return status, said or {"log": self.log()}

    def log(self):
        """What the process and its forks have written to standard error."""
        return self._log.read_text()

    def close(self):
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Starts one process for each backend, as importing it takes longer than most trainings."""
    log = tmp_path_factory.mktemp("trainings")
    processes = {}

    def of(backend):
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
        if backend not in processes:
            processes[backend] = Trainings(backend, log / backend)
        return processes[backend]

    yield of
    for process in processes.values():
        process.close()


def compare(process, case, folder, *, kills):
    """A whole training, and one that is killed at those batches and started again each time with another seed."""
    status, whole = process.fit(case, folder / "whole", seed=1)
    assert status == 0, whole
    for seed, kill in enumerate(kills, start=1):
        status, _ = process.fit(case, folder / "killed", seed=seed, kill=kill)
        assert status == -signal.SIGKILL
    status, resumed = process.fit(case, folder / "killed", seed=9)
    assert status == 0, resumed
    assert resumed["digests"] == whole["digests"]
    assert whole["warnings"] == resumed["warnings"] == []
    return resumed


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scenario", ["arrays", "dataset"])
def test_a_training_killed_three_times_leaves_the_same_checkpoints(trainings, backend, scenario, tmp_path):
    """Each restart goes on from what the one before left: inside an epoch, or at its end."""
    resumed = compare(trainings(backend), {"scenario": scenario, **INSIDE}, tmp_path, kills=KILLS)
    assert resumed["from"] == "2:18"


CASES = {
    "at an epoch's end alone": ("torch", {"scenario": "arrays"}),
    "scaled loss, accumulation": ("torch", {"scenario": "scaled", **INSIDE}),
    "scaled loss, accumulation, two batches at a time": ("tensorflow", {"scenario": "scaled", **INSIDE}),
    "a step of its own, torch": ("torch", {"scenario": "stepping", **INSIDE}),
    "a step of its own, JAX": ("jax", {"scenario": "stepping", **INSIDE}),
    "a step of its own, two optimizers": ("tensorflow", {"scenario": "stepping", **INSIDE}),
    "several inputs, outputs and metrics": ("torch", {"scenario": "several", **INSIDE}),
    "several inputs, outputs and metrics, built late": ("tensorflow", {"scenario": "several", **INSIDE}),
    "tf.data, cached and shuffled": ("tensorflow", {"scenario": "pipeline", **INSIDE}),
    "tf.data on another backend": ("torch", {"scenario": "pipeline", **INSIDE}),
    "a layer in tf.data": ("tensorflow", {"scenario": "augmented", **INSIDE}),
    "a layer in a data set": ("tensorflow", {"scenario": "augmented", "options": {"inside": False}, **INSIDE}),
    "a DataLoader with two workers": ("torch", {"scenario": "loader", "options": {"workers": 2}, **INSIDE}),
    "two threads that load": ("torch", {"scenario": "workers", **INSIDE}),
    "two threads that load, TensorFlow": ("tensorflow", {"scenario": "workers", **INSIDE}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_training_leaves_the_same_checkpoints(trainings, name, tmp_path):
    """Every checkpoint's digest is that of an uninterrupted run, although the restart had other seeds."""
    backend, case = CASES[name]
    compare(trainings(backend), case, tmp_path, kills=[[2, 3]])


def test_another_seed_gives_other_digests(trainings, tmp_path):
    """The comparison can fail: the digests depend on the random states."""
    process = trainings("torch")
    _, first = process.fit({"scenario": "dataset"}, tmp_path / "a", seed=1)
    _, second = process.fit({"scenario": "dataset"}, tmp_path / "b", seed=2)
    assert not set(first["digests"].values()) & set(second["digests"].values())


# -- signals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "name", "status"),
    [("torch", "SIGTERM", 143), ("jax", "SIGUSR1", 138), ("tensorflow", "SIGTERM", 143), ("torch", "SIGINT", 130)],
)
def test_a_signal_saves_before_the_next_batch_and_ends_the_training(trainings, backend, name, status, tmp_path):
    """The restart goes on there, and ends bit for bit like a training that nobody asked to stop."""
    process, case = trainings(backend), {"scenario": "dataset"}
    _, whole = process.fit(case, tmp_path / "whole", seed=1)
    ended, _ = process.fit({**case, "signal": name}, tmp_path / "cut", seed=1, kill=[1, 2])
    _, resumed = process.fit(case, tmp_path / "cut", seed=2)
    reason = "KeyboardInterrupt" if name == "SIGINT" else name
    assert ended == status
    assert "saving before the next batch" in process.log()
    assert (resumed["from"], resumed["reasons"]) == ("0:8", ["1 epoch", reason, "1 epoch", "1 epoch", "1 epoch"])
    assert whole["digests"].items() <= resumed["digests"].items()


@pytest.mark.parametrize("where", [{"kill": [1, 4]}, {"kill": [1, 0], "validating": True}])
def test_a_signal_after_the_last_batch_is_answered_when_the_epoch_ends(trainings, where, tmp_path):
    """Its checkpoint is the epoch's own, after validation, with the signal as its reason."""
    process, case = trainings("torch"), {"scenario": "arrays"}
    _, whole = process.fit(case, tmp_path / "whole", seed=1)
    ended, _ = process.fit({**case, **where, "signal": "SIGTERM"}, tmp_path / "cut", seed=1, kill=where["kill"])
    _, resumed = process.fit(case, tmp_path / "cut", seed=2)
    assert (ended, resumed["reasons"][1]) == (143, "SIGTERM")
    assert resumed["digests"] == whole["digests"]


def test_a_signal_waits_for_the_epochs_end_where_the_data_hide_their_position(trainings, tmp_path):
    """A Python generator can't be read again up to a batch."""
    process = trainings("torch")
    case = {"scenario": "generated", "signal": "SIGTERM"}
    ended, said = process.fit(case, tmp_path, seed=1, kill=[1, 1])
    assert ended == 143
    assert "saving when the epoch ends" in said["log"]


def test_a_second_signal_ends_at_once(trainings, tmp_path):
    """Nothing is saved for it: the checkpoint to go on from is the one before."""
    process, case = trainings("torch"), {"scenario": "arrays"}
    ended, _ = process.fit({**case, "signal": "SIGTERM", "times": 2}, tmp_path, seed=1, kill=[1, 1])
    _, resumed = process.fit(case, tmp_path, seed=2)
    assert ended == -signal.SIGTERM
    assert resumed["from"] == "0:5"
