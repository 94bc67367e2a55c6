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
    """What the script printed; its errors where it was to fail."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors
    return errors if status > 0 else output


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
    (_, expected), (continued_from, found) = (finish(each).split()[-2:] for each in (whole, resumed))
    assert continued_from in ("0", "1", "2")
    assert found == expected


@pytest.mark.slow
def test_arrays_that_tensorflow_shuffles_need_the_same_seed_and_say_so(tmp_path):
    """Its order can't be restored: a script without a seed is told at once, one with another seed when it continues."""
    pytest.importorskip("tensorflow")
    unseeded = start(tmp_path / "unseeded", "tensorflow", "arrays", seed=0)
    killed = start(tmp_path / "killed", "tensorflow", "arrays", seed=1, kill="4,0")
    assert "TensorFlow shuffles without a seed" in finish(unseeded, status=1)
    finish(killed, status=-signal.SIGKILL)
    reseeded = start(tmp_path / "killed", "tensorflow", "arrays", seed=2)
    assert "the seed is another one" in finish(reseeded, status=1)


@pytest.mark.slow
def test_a_training_step_that_draws_from_tf_random_is_named(tmp_path):
    """The state of such a draw lies in TensorFlow's kernels: the remedy is `keras.random`."""
    pytest.importorskip("tensorflow")
    noisy = start(tmp_path / "noisy", "tensorflow", "noisy", seed=1)
    assert "draws from tf.random (RandomStandardNormal)" in finish(noisy, status=1)
