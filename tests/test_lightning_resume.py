"""A Lightning training killed with SIGKILL and started again leaves the very checkpoints of an uninterrupted one."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("lightning_training.py")
WITHIN = {"every": ["1 epoch", "1 step"]}

CASES = {
    "step scheduler": {"scheduler": "step", "kill": [2, 1]},
    "plateau scheduler": {"scheduler": "plateau", "kill": [2, 1]},
    "bf16, accumulation, step-wise scheduler": {
        "scheduler": "onecycle",
        "kill": [1, 2],
        "trainer": {"precision": "bf16-mixed", "accumulate_grad_batches": 3},
    },
    "generators, two workers": {
        "generator": True,
        "workers": 2,
        "kill": [2, 0],
        "trainer": {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0},
    },
    "max_steps": {
        "scheduler": "plateau",
        "kill": [2, 1],
        "trainer": {"max_epochs": -1, "max_steps": 16},
    },
    "averaged weights": {
        "kill": [3, 1],
        "callbacks": ["EMAWeightAveraging"],
    },
    "inside an epoch, validating there, plateau": {
        **WITHIN,
        "scheduler": "plateau",
        "kill": [1, 2],
        "trainer": {"val_check_interval": 2},
    },
    "inside the first epoch, generators, two workers": {
        **WITHIN,
        "scheduler": "step",
        "generator": True,
        "workers": 2,
        "kill": [0, 2],
    },
    "inside an epoch, accumulation, max_steps": {
        "every": "3 steps",
        "scheduler": "onecycle",
        "kill": [2, 3],
        "trainer": {"max_epochs": -1, "max_steps": 7, "accumulate_grad_batches": 2},
    },
}
# the other package is the same code under another name
TRIED = [("lightning.pytorch", name) for name in CASES]
TRIED += [
    ("pytorch_lightning", "plateau scheduler"),
    ("pytorch_lightning", "inside an epoch, validating there, plateau"),
]


class Trainings:
    """A process that has imported one Lightning, and trains in forks of itself."""

    def __init__(self, package, log):
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, SCRIPT, package],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def fit(self, case, store, *, seed, kill=None):
        """The exit status of a training, and the digests of its run's checkpoints."""
        line = json.dumps({**case, "store": str(store), "seed": seed, "kill": kill})
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else pytest.fail(self._log.read_text())

    def close(self):
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Starts one process for each package, as importing it takes longer than all trainings."""
    log = tmp_path_factory.mktemp("trainings")
    processes = {}

    def of(package):
        if package not in processes:
            processes[package] = Trainings(package, log / package)
        return processes[package]

    yield of
    for process in processes.values():
        process.close()


@pytest.mark.parametrize(("package", "name"), TRIED)
def test_a_killed_training_leaves_the_same_checkpoints(trainings, package, name, tmp_path):
    """Every checkpoint's digest is that of an uninterrupted run, although the restart had other seeds."""
    process, case = trainings(package), CASES[name]

    status, whole = process.fit(case, tmp_path / "whole", seed=1)
    killed, _ = process.fit(case, tmp_path / "killed", seed=1, kill=case["kill"])
    resumed, restarted = process.fit(case, tmp_path / "killed", seed=2)

    assert (status, killed, resumed) == (0, -signal.SIGKILL, 0)
    assert restarted == whole


def test_a_training_killed_three_times_leaves_the_same_checkpoints(trainings, tmp_path):
    """Each restart goes on from what the one before left, at an epoch's end or inside one."""
    process = trainings("lightning.pytorch")
    case = {**WITHIN, "scheduler": "plateau"}

    _, whole = process.fit(case, tmp_path / "whole", seed=1)
    for seed, kill in enumerate([[0, 3], [1, 1], [2, 0]], start=1):
        process.fit(case, tmp_path / "killed", seed=seed, kill=kill)

    assert process.fit(case, tmp_path / "killed", seed=9) == [0, whole]


def test_another_seed_gives_other_digests(trainings, tmp_path):
    """The comparison can fail: the digests depend on the random states."""
    process = trainings("lightning.pytorch")
    _, first = process.fit({}, tmp_path / "a", seed=1)
    _, second = process.fit({}, tmp_path / "b", seed=2)

    assert not set(first.values()) & set(second.values())


@pytest.mark.slow
def test_two_ranks_leave_the_same_checkpoints(tmp_path):
    """Each rank gets its own random states and its own part of the data again; one of them writes."""

    def fit(store, **case):
        done = subprocess.run(
            [sys.executable, SCRIPT, "lightning.pytorch", json.dumps({**case, **ranks, "store": str(store)})],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert case.get("kill") or done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1:]

    ranks = {**WITHIN, "scheduler": "onecycle", "trainer": {"devices": 2, "strategy": "ddp", "max_epochs": 3}}
    whole = fit(tmp_path / "whole", seed=1)
    fit(tmp_path / "killed", seed=1, kill=[1, 1])

    assert fit(tmp_path / "killed", seed=5) == whole
    assert [run.name for run in (tmp_path / "killed" / "runs").iterdir()] == ["run"]
