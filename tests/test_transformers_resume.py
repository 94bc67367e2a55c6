"""A Trainer killed with SIGKILL and started again leaves the checkpoints of an uninterrupted one, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("scripts") / "transformers_training.py"
METRIC = {"metric_for_best_model": "eval_loss"}

CASES = {
    "cosine scheduler": {"kill": [2, 3], "noisy": True, "args": {"lr_scheduler_type": "cosine"}},
    "plateau scheduler, logs across epochs": {
        "kill": [2, 3],
        "noisy": True,
        "args": {**METRIC, "lr_scheduler_type": "reduce_lr_on_plateau", "logging_steps": 3, "eval_on_start": True},
    },
    "stopped early": {
        "kill": [2, 1],
        "noisy": True,
        "early": [2, 9.0],
        "args": {**METRIC, "num_train_epochs": 7},
    },
    "accumulation, two workers": {
        "kill": [2, 1],
        "noisy": True,
        "args": {"gradient_accumulation_steps": 2, "dataloader_num_workers": 2},
    },
    "killed before the first checkpoint": {"kill": [0, 3], "seed": 1, "noisy": True},
    "resume_from_checkpoint=hf_dir": {"kill": [2, 3], "noisy": True, "by_folder": True},
    "the second of two trainings": {"kill": [1, 1, 1], "noisy": True, "times": 2},
    "between two trainings": {"kill": [0, 2, 1], "noisy": True, "times": 2},
    "inside an epoch, accumulation": {
        "kill": [1, 2],
        "tracker": {"every": ["1 epoch", "1 step"]},
        "args": {"gradient_accumulation_steps": 2},
    },
    "inside an epoch, order from the process' random state, max_steps": {
        "kill": [1, 4],
        "tracker": {"every": "2 steps"},
        "args": {"accelerator_config": {"use_seedable_sampler": False}, "max_steps": 13},
    },
    "at the first moment after an epoch": {
        "kill": [1, 1],
        "tracker": {"every": "0.0000001 seconds"},
        "args": {"accelerator_config": {"use_seedable_sampler": False}},
    },
}


class Trainings:
    """A process that has imported Transformers, and trains in forks of itself."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"},
        )

    def train(self, case, store, *, seed, kill=None):
        """The exit status of a training, and the digests of its run's checkpoints."""
        line = json.dumps({**case, "store": str(store), "seed": seed, "kill": kill})
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else pytest.fail(self._process.communicate()[1])

    def close(self):
        """What it still says goes with it."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def trainings():
    """One for the module: importing takes seconds."""
    process = Trainings()
    yield process
    process.close()


@pytest.mark.parametrize("name", CASES)
def test_a_killed_training_leaves_the_same_checkpoints(trainings, name, tmp_path):
    """Every checkpoint's digest is that of an uninterrupted run, although the restart had other seeds."""
    case = CASES[name]

    status, whole = trainings.train(case, tmp_path / "whole", seed=1)
    killed, _ = trainings.train(case, tmp_path / "killed", seed=1, kill=case["kill"])
    resumed, restarted = trainings.train(case, tmp_path / "killed", seed=case.get("seed", 2))

    assert (status, killed, resumed) == (0, -signal.SIGKILL, 0)
    assert restarted == whole


def test_a_training_killed_three_times_leaves_the_same_checkpoints(trainings, tmp_path):
    """Each restart goes on from what the one before left, at an epoch's end or inside one."""
    case = {"tracker": {"every": ["1 epoch", "2 steps"]}, "args": {"logging_steps": 3}}

    _, whole = trainings.train(case, tmp_path / "whole", seed=1)
    for seed, kill in enumerate([[0, 3], [1, 1], [2, 0]], start=1):
        trainings.train(case, tmp_path / "killed", seed=seed, kill=kill)

    assert trainings.train(case, tmp_path / "killed", seed=9) == [0, whole]


def test_another_seed_gives_other_digests(trainings, tmp_path):
    """The comparison can fail: the digests depend on the random states."""
    _, first = trainings.train({}, tmp_path / "a", seed=1)
    _, second = trainings.train({}, tmp_path / "b", seed=2)

    assert not set(first.values()) & set(second.values())
