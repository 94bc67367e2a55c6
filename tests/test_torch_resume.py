"""A PyTorch training killed with SIGKILL and started again ends where an uninterrupted one does, bit for bit."""

import signal

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
