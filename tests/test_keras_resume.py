"""Real kills: a Keras training that SIGKILL ended, and that was started again, ends like one that nothing ended."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras")
SCRIPT = Path(__file__).with_name("keras_train.py")


def start(store, backend, scenario, *, seed, kill=None):
    """Starts the script; its output is merged, and read by `finish`."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "SEED": str(seed),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",
    }
    if kill is not None:
        environment["KILL"] = kill
    command = [sys.executable, str(SCRIPT), str(store), scenario]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, *, status=0):
    """The last line that the script printed."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors
    return output.split("\n")[-2:-1]


@pytest.mark.parametrize(
    ("backend", "scenario", "seed_after"),
    [
        ("torch", "arrays", 2),
        ("jax", "arrays", 2),
        ("tensorflow", "dataset", 2),
        # TensorFlow's orders hang on the seed, which has to be the same
        pytest.param("tensorflow", "pipeline", 1, marks=pytest.mark.slow),
        pytest.param("tensorflow", "arrays", 1, marks=pytest.mark.slow),
        pytest.param("torch", "dataset", 2, marks=pytest.mark.slow),
        pytest.param("jax", "dataset", 2, marks=pytest.mark.slow),
        pytest.param("tensorflow", "twins", 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, backend, scenario, seed_after):
    """Killed inside epoch 3 and started again with other seeds, the last checkpoint has the same digest."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    whole = start(tmp_path / "whole", backend, scenario, seed=1)
    killed = start(tmp_path / "killed", backend, scenario, seed=1, kill="3,2")
    finish(killed, status=-signal.SIGKILL)
    resumed = start(tmp_path / "killed", backend, scenario, seed=seed_after)
    (_, expected), (continued_from, found) = (finish(each)[0].split() for each in (whole, resumed))
    assert continued_from in ("0", "1", "2")
    assert found == expected
