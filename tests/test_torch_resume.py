"""A PyTorch training killed with SIGKILL and started again ends where an uninterrupted one does, bit for bit."""

import signal
import subprocess
import sys

import pytest
import training

CASES = {
    "at an epoch's end": ["--kill", "2:3"],
    "in the first epoch, before any checkpoint": ["--kill", "0:2"],
    "with a plateau scheduler": ["--kill", "2:3", "--scheduler", "plateau"],
    "inside an epoch": ["--kill", "2:4", "--every", "2 steps"],
    "inside an epoch, with two triggers and a step scheduler": [
        *("--kill", "1:4", "--every", "3 steps", "--every", "1 epoch", "--scheduler", "onecycle")
    ],
    "inside an epoch, with two workers": ["--kill", "2:4", "--every", "2 steps", "--workers", "2"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_ends_bit_equal(case, tmp_path):
    """The last checkpoint's digest is that of an uninterrupted run, although the restart had other seeds."""
    arguments = CASES[case]
    kept = arguments[2:]
    whole = training.last_line(training.start("torch_training.py", tmp_path / "whole", *kept))

    killed = training.start("torch_training.py", tmp_path / "killed", *arguments)
    seed = 1 if case.startswith("in the first epoch") else 2
    resumed = training.last_line(training.start("torch_training.py", tmp_path / "killed", *kept, seed=seed))

    assert killed.returncode == -signal.SIGKILL
    assert resumed == whole


def test_another_seed_gives_another_digest(tmp_path):
    """The comparison can fail: the digest depends on the random states."""
    first = training.last_line(training.start("torch_training.py", tmp_path / "a", seed=1))
    second = training.last_line(training.start("torch_training.py", tmp_path / "b", seed=2))

    assert first != second


UNSEEDED = """
import sys, torch
from ckpt_tracker.integrations.torch import CheckpointTracker
torch.manual_seed(0)
model = torch.nn.Linear(2, 2)
with CheckpointTracker(sys.argv[1], "run", model=model) as tracker:
    for _ in tracker.epochs(1):
        pass
print(tracker.run.last().digest)
"""


def test_generators_that_nobody_seeded_leave_the_digest_alone(tmp_path):
    """Many scripts seed torch alone: Python's and NumPy's generators, seeded by the system, differ in every process."""
    digests = {
        subprocess.run([sys.executable, "-c", UNSEEDED, tmp_path / name], capture_output=True, check=True).stdout
        for name in ("a", "b")
    }

    assert len(digests) == 1
