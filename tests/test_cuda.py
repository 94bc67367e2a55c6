"""Trainings on a CUDA device, killed and started again with other seeds, end bit for bit where they would have."""

from __future__ import annotations

import signal

import pytest
import torch
from training import last_line, start

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.slow,
]
FRAMEWORKS = ["torch", "lightning", "transformers"]
KINDS = [*FRAMEWORKS, *(f"{each}-overlapped" for each in FRAMEWORKS)]
# cuBLAS is deterministic with a fixed workspace only, see torch.use_deterministic_algorithms
FIXED = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The digest at the end of an uninterrupted training."""
    known = {}

    def digest(kind):
        if kind not in known:
            store = tmp_path_factory.mktemp(kind) / "store"
            known[kind] = last_line(start("training_cuda.py", kind, store, **FIXED))
        return known[kind]

    return digest


@pytest.mark.parametrize("kill", [(1, 0), (1, 5), (2, 7)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_on_cuda_ends_bit_equal(kind, kill, tmp_path, whole):
    """At an epoch's end and inside one, in half precision, with dropout and its scaler's steps on the device."""
    killed = start("training_cuda.py", kind, tmp_path / "store", *kill, **FIXED)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    resumed = start("training_cuda.py", kind, tmp_path / "store", seed=2, **FIXED)

    assert last_line(resumed) == whole(kind)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_copied_while_the_device_computes_is_what_is_copied_at_once(framework, whole):
    """The copies wait for the step before, and the next step for the copies."""
    assert whole(f"{framework}-overlapped") == whole(framework)


def test_a_checkpoint_of_a_cuda_training_loads_on_the_cpu(tmp_path):
    """Its tensors come back where every machine has room for them."""
    from ckpt_tracker import Store

    last_line(start("training_cuda.py", "torch", tmp_path / "store", **FIXED))
    with Store(tmp_path / "store") as store:
        state = store["run@last"].load()
    assert {value.device.type for value in state["model"].values()} == {"cpu"}
    assert len(state["rng"]["cuda"]) == torch.cuda.device_count()


def test_the_random_state_of_the_device_is_needed(tmp_path, whole):
    """Without it the restarted training ends elsewhere: the comparison would notice."""
    killed = start("training_cuda.py", "torch", tmp_path / "store", 1, 5, **FIXED)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    resumed = start("training_cuda.py", "torch", tmp_path / "store", seed=2, FORGET="1", **FIXED)

    assert last_line(resumed) != whole("torch")
