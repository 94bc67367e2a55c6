"""A PyTorch training that was killed or interrupted, and started again, ends where an uninterrupted one does.

Bit for bit, although the restart has other seeds: the model has BatchNorm and Dropout, and loading a sample draws from
torch's, NumPy's and Python's generators. Trainings run in forks of one process, see `torch_training.py`.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from trainings import Trainings, agree, check_overlapped

from ckpt_tracker.integrations._shared import random as _random

INSIDE = {"every": "2 steps"}
EVERYTHING = {
    **{"every": ["2 steps", "1 epoch"], "validate": True, "generator": True, "shaking": True},
    **{"precision": "scaler", "average": "ema", "scheduler": "plateau"},
}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """The process that forks them."""
    with Trainings("torch_training.py", tmp_path_factory.mktemp("trainings")) as started:
        yield started


KILLED = {
    "at an epoch's end": ({}, [1, 3]),
    "without batches()": ({"batches": False}, [1, 3]),
    "inside an epoch": (INSIDE, [1, 3]),
    "two workers": ({"workers": 2}, [2, 1]),
    "two workers, inside": ({"workers": 2, **INSIDE}, [1, 3]),
    "lasting workers": ({"workers": 2, "persistent": True, "data": "still", "every": "1 step"}, [2, 3]),
    "accumulation over the epoch's end": ({"accumulate": 2}, [1, 3]),
    "accumulation, inside": ({"accumulate": 2, "every": "1 step"}, [1, 3]),
    "scaler": ({"precision": "scaler"}, [1, 3]),
    "bfloat16, inside": ({"precision": "bf16", **INSIDE}, [2, 3]),
    "average of the weights": ({"average": "ema"}, [1, 3]),
    "SWA": ({"average": "swa", "scheduler": "swa"}, [2, 3]),
    "SWA, inside": ({"average": "swa", "scheduler": "swa", **INSIDE}, [2, 3]),
    "plateau": ({"scheduler": "plateau", "validate": True}, [2, 3]),
    "one cycle, inside": ({"scheduler": "onecycle", **INSIDE}, [1, 3]),
    "StatefulDataLoader": ({"data": "stateful"}, [1, 3]),
    "StatefulDataLoader, inside": ({"data": "stateful", **INSIDE}, [1, 3]),
    "StatefulDataLoader, two workers, inside": ({"data": "stateful", "workers": 2, **INSIDE}, [1, 3]),
    "IterableDataset, inside": ({"data": "stream", **INSIDE}, [1, 3]),
    "IterableDataset, two workers, inside": ({"data": "stream", "workers": 2, **INSIDE}, [1, 3]),
    "generator function, inside": ({"data": "function", **INSIDE}, [1, 3]),
    "generators and counters of a data set's own": ({"data": "own"}, [2, 3]),
    "generators and counters of a data set's own, inside": ({"data": "own", **INSIDE}, [1, 3]),
    "two ranks": ({"ranks": 2, "every": "1 step"}, [1, 2]),
}


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_training_ends_bit_equal(name, trainings):
    """Every checkpoint after the restart has the digest of the uninterrupted training's."""
    case, kill = KILLED[name]
    store, status, _ = trainings.interrupted(case, kill=kill)

    told = trainings.resumed(store, case)

    assert status in (-signal.SIGKILL, [-signal.SIGKILL] * 2)
    assert told["done"][0] != [0, 0]
    assert (agree(told, trainings.whole(case)), told["said"]) == (True, [])


@pytest.mark.parametrize("kill", [[0, 2], [0, 4], [1, 0], [1, 1], [1, 4], [2, 2], [2, 4]], ids=str)
def test_it_may_be_killed_at_any_batch(kill, trainings):
    """With everything that a training may have at once."""
    store, _, _ = trainings.interrupted(EVERYTHING, kill=kill)

    assert agree(trainings.resumed(store, EVERYTHING), trainings.whole(EVERYTHING))


OVERLAPPED = {
    "EVERYTHING": (EVERYTHING, [2, 2]),
    "two ranks": ({"ranks": 2, "every": ["2 steps", "1 epoch"]}, [1, 3]),
}


@pytest.mark.parametrize("name", OVERLAPPED)
def test_overlapped_checkpoints_are_those_that_are_copied_at_once(name, trainings):
    """Bit by bit; also those of a training that was killed and started again."""
    case, kill = OVERLAPPED[name]
    check_overlapped(trainings, case, kill=kill)


def test_ranks_take_a_checkpoint_together_that_was_thrown_away(trainings):
    """Weights were changed by hand while the first rank copied them: all save after the next step."""
    told = trainings.whole({"ranks": 2, "overlap": True, "halve": [1, 0]})

    assert [*told["saved"]] == ["0:6:1", "1:10:end", "2:15:end"]
    assert ["was changed while it was being copied" in each for each in told["said"]] == [True]


INTERRUPTED = {
    "SIGTERM at a batch": ({}, {"signal": [1, 2, "SIGTERM"]}, 143, "0:8:3"),
    "Ctrl-C at a batch": ({}, {"signal": [1, 2, "SIGINT"]}, 1, "0:8:3"),
    "SIGTERM while gradients accumulate": ({"accumulate": 2}, {"signal": [1, 2, "SIGTERM"]}, 143, "0:4:4"),
    "SIGTERM at the last batch": ({}, {"signal": [1, 4, "SIGTERM"]}, 143, "0:10:5"),
    "SIGUSR1 in validation": ({"validate": True}, {"signal": [1, "validation 2", "SIGUSR1"]}, 138, "0:10:5"),
    "an error in validation": ({"validate": True, "accumulate": 2}, {"error": [1, "validation 2"]}, 1, "0:4:5"),
    # the workers load ahead: at which batch of the first epoch that is, is chance
    "Ctrl-C while workers load": ({"workers": 2}, {"interrupt": 14}, 1, "None:"),
    "an error of the loader": ({"generator": True}, {"fail": 40}, 1, "0:6:1"),
    "an error of the loader at the first batch": ({"every": "3 epochs"}, {"fail": 62}, 1, "1:10:0"),
    "SIGTERM to one of two ranks": ({"ranks": 2}, {"signal": [1, 2, "SIGTERM"], "signalled": 1}, [143] * 2, "0:8:3"),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_training_is_saved_where_it_is(name, trainings):
    """An emergency checkpoint is at hand between two steps and in validation, and continues exactly."""
    case, how, expected, saved = INTERRUPTED[name]
    store, status, _ = trainings.interrupted(case, **how)

    told = trainings.resumed(store, case)

    assert status == expected
    assert any(name.startswith(saved) for name in told["saved"])
    assert agree(told, trainings.whole(case))


def test_an_error_of_the_script_in_a_batch_saves_nothing(trainings):
    """The state in the middle of a step is nothing to continue from: the epoch is done again."""
    store, _, _ = trainings.interrupted({}, error=[1, 2])

    told = trainings.resumed(store, {})

    assert told["done"][0] == [1, 0]
    assert agree(told, trainings.whole({}))


def test_more_epochs_continue_exactly(trainings):
    """A finished training that is given more epochs ends where one with all of them from the start does."""
    case = {"scheduler": "steps"}
    store, _, _ = trainings.interrupted({**case, "epochs": 2})

    assert agree(trainings.resumed(store, case), trainings.whole(case))


def test_random_numbers_in_lasting_workers_are_told_of(trainings):
    """What goes on in workers that live on is in no checkpoint: said at once, and seen again at the restart."""
    case = {"workers": 2, "persistent": True, "every": "2 steps"}
    store, _, _ = trainings.interrupted(case, kill=[1, 3])

    first = trainings.whole(case)
    told = trainings.resumed(store, case)

    assert not agree(told, first)
    assert [each.partition(",")[0] for each in first["said"]] == [
        "the loader's workers live on (persistent_workers=True)"
    ]
    assert any("first batch is not the one" in each for each in told["said"])


LOADER = ["data", "loaders", 0]
AT_END, WITHIN = [2, 0], [1, 3]
SPOILT = {
    "torch's generator": (AT_END, ["pop", "rng", "torch"]),
    "torch's generator, inside": (WITHIN, ["pop", "rng", "torch"]),
    "NumPy's generator": (AT_END, ["pop", "rng", "numpy"]),
    "Python's generator": (AT_END, ["pop", "rng", "python"]),
    "the loader's generator": (AT_END, ["pop", *LOADER, "generators", "loader.sampler.generator"]),
    "the generator of a module": (AT_END, ["pop", "generators", "model.5.generator"]),
    "another loader's generator": (AT_END, ["pop", "data", "loaders", 1, "generators", "loader.sampler.generator"]),
    "what the order was drawn from": (
        WITHIN,
        ["pop", "data", "start", "source", "generators", "loader.sampler.generator"],
    ),
    "the generators at the epoch's begin": (WITHIN, ["pop", "data", "begun", "rng", "torch"]),
    "the batch": (WITHIN, ["zero", "data", "batch"]),
    "BatchNorm's buffers": (WITHIN, ["zero", "model", "1.running_mean"]),
    "the optimizer's moments": (WITHIN, ["zero", "optimizer", "state", 0, "exp_avg"]),
    "the plateau's best": (WITHIN, ["zero", "scheduler", "best"]),
    "the scaler's count": (AT_END, ["zero", "scaler", "_growth_tracker"]),
    "the average": (AT_END, ["zero", "ema", "module.0.weight"]),
}


@pytest.mark.parametrize("piece", SPOILT)
def test_each_piece_is_needed(piece, trainings):
    """Without it the restarted training ends elsewhere: the comparison would notice."""
    kill, change = SPOILT[piece]
    store, _, _ = trainings.interrupted(EVERYTHING, kill=kill)

    told = trainings.resumed(store, EVERYTHING, spoil=[change])

    assert not agree(told, trainings.whole(EVERYTHING))


OTHERWISE_SPOILT = {
    "waiting gradients": ({"accumulate": 2}, ["pop", "gradients"]),
    "a data set's generator": ({"data": "own"}, ["pop", *LOADER, "generators", "loader.dataset.generator"]),
    "a transform's generator": (
        {"data": "own"},
        ["pop", *LOADER, "generators", "loader.dataset.transforms[1].closed"],
    ),
    "a sampler's count": ({"data": "own"}, ["zero", *LOADER, "counters", "1.Counting.passes"]),
    "a sampler's seed": ({"data": "own"}, ["pop", *LOADER, "counters", "1.Counting.seed"]),
    "the seeds of two workers": ({"workers": 2}, ["pop", "rng", "torch"]),
    "the seeds of two workers, inside": ({"workers": 2, **INSIDE}, ["pop", "data", "start", "rng", "torch"]),
    "a StatefulDataLoader's own place": ({"data": "stateful", **INSIDE}, ["zero", "data", "own", "_num_yielded"]),
    "the place in an IterableDataset": ({"data": "stream", **INSIDE}, ["zero", "data", "batch"]),
    "the cosine's place": ({}, ["zero", "scheduler", "last_epoch"]),
    "the place of SWA's schedule": (KILLED["SWA"][0], ["zero", "scheduler", "last_epoch"]),
    "SWA's count": (KILLED["SWA"][0], ["zero", "ema", "n_averaged"]),
    "the moments of a bfloat16 training": (
        {"precision": "bf16", **INSIDE},
        ["zero", "optimizer", "state", 0, "exp_avg"],
    ),
    "the learning rate's cycle": ({"scheduler": "onecycle"}, ["zero", "scheduler", "last_epoch"]),
    "another rank's generators": ({"ranks": 2}, ["pop", "ranks", 0, "rng", "numpy"]),
    "workers that were there": (KILLED["lasting workers"][0], ["zero", "data", "lasting"]),
}


@pytest.mark.parametrize("piece", OTHERWISE_SPOILT)
def test_each_other_piece_is_needed(piece, trainings):
    """Of trainings that have something more."""
    case, change = OTHERWISE_SPOILT[piece]
    store, _, _ = trainings.interrupted(case, kill=[2, 3])

    assert not agree(trainings.resumed(store, case, spoil=[change]), trainings.whole(case))


def test_another_seed_gives_another_digest(trainings):
    """The comparison can fail: the digest depends on the random states."""
    assert trainings.whole({})["saved"] != trainings.whole({"seed": 2})["saved"]


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


@pytest.fixture
def _same_torch_afterwards():
    with torch.random.fork_rng():
        yield


@pytest.mark.usefixtures("_same_torch_afterwards")
def test_torchs_generator_is_left_out_until_it_is_drawn_from_or_seeded():
    """torch seeds itself from the system; a training that only imports it, as Keras' do, does not depend on that."""
    torch.seed()
    seeded_by_the_system = "torch" in _random.capture()
    torch.rand(())
    drawn_from = "torch" in _random.capture()
    torch.manual_seed(0)
    seeded = "torch" in _random.capture()

    assert (seeded_by_the_system, drawn_from, seeded) == (False, True, True)


def test_a_fork_s_own_seed_of_python_is_nobodys():
    """Python seeds its generator anew in each fork, as a notebook's launcher makes them: no state to keep."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, json.dumps([*_random.capture()]).encode())
        os._exit(0)
    os.waitpid(child, 0)

    assert "python" not in json.loads(os.read(reading, 1000))
