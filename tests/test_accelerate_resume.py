"""An Accelerate loop that was killed and started again ends where an uninterrupted one does, bit for bit.

Although the restart has other seeds. Trainings run in forks of one process, see `accelerate_training.py`.
"""

import signal

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from trainings import Trainings, agree, check_overlapped

from ckpt_tracker import Store
from ckpt_tracker.errors import InvalidOption, StateMismatch
from ckpt_tracker.integrations.accelerate import CheckpointTracker

INSIDE = {"every": "2 steps"}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """The process that forks them."""
    with Trainings("accelerate_training.py", tmp_path_factory.mktemp("trainings")) as started:
        yield started


KILLED = {
    "at an epoch's end": ({"average": "ema"}, [1, 3]),
    "inside an epoch": (INSIDE, [1, 5]),
    "inside an epoch, with a seedable sampler": ({"seedable": True, **INSIDE}, [1, 5]),
    "with a seedable sampler, killed as an epoch begins": ({"seedable": True, **INSIDE}, [1, 0]),
    "two workers": ({"workers": 2}, [1, 3]),
    "two workers, inside": ({"workers": 2, **INSIDE}, [1, 5]),
    "accumulation": ({"accumulate": 3}, [1, 3]),
    "accumulation, inside": ({"accumulate": 3, **INSIDE}, [1, 8]),
    "accumulation over the epoch's end": ({"accumulate": 3, "sync": False}, [1, 3]),
    "accumulation over the epoch's end, inside": ({"accumulate": 3, "sync": False, **INSIDE}, [1, 8]),
    "bfloat16 and plateau": ({"precision": "bf16", "scheduler": "plateau"}, [2, 3]),
    "bfloat16 and one cycle, inside": ({"precision": "bf16", "scheduler": "onecycle", **INSIDE}, [1, 5]),
    "IterableDataset, inside": ({"data": "stream", **INSIDE}, [1, 5]),
    "two ranks": ({"ranks": 2, "scheduler": "plateau"}, [2, 1]),
    "two ranks, inside": ({"ranks": 2, "scheduler": "onecycle", **INSIDE}, [1, 3]),
    "two ranks, seedable and accumulating, at any time": (
        {"ranks": 2, "seedable": True, "accumulate": 2, "every": "0.001 seconds"},
        [1, 3],
    ),
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


OVERLAPPED = {
    "one process": ({"accumulate": 3, **INSIDE}, [1, 8]),
    "two ranks": ({"ranks": 2, "scheduler": "onecycle", **INSIDE}, [1, 3]),
}


@pytest.mark.parametrize("name", OVERLAPPED)
def test_overlapped_checkpoints_are_those_that_are_copied_at_once(name, trainings):
    """Bit by bit; also those of a training that was killed and started again."""
    case, kill = OVERLAPPED[name]
    check_overlapped(trainings, case, kill=kill)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_signal_to_one_process_stops_all_at_the_same_step(ranks, trainings):
    """They save together, end with the same status, and continue exactly."""
    case = {"ranks": ranks}
    store, status, _ = trainings.interrupted(case, signal=[1, 2], signalled=ranks - 1)

    told = trainings.resumed(store, case)

    assert status == ([143] * 2 if ranks == 2 else 143)
    assert told["done"][0] == [1, 3]
    assert agree(told, trainings.whole(case))


COUNTERS = ["data", "start", "source", "counters"]
SPOILT = {
    "the batch that was loaded ahead": (INSIDE, [1, 5], ["pop", "data", "given", "rng", "torch"]),
    "the phase of an accumulation": ({"accumulate": 3, "sync": False}, [1, 3], ["zero", "accelerator", "step"]),
    "what was registered": ({"average": "ema"}, [1, 3], ["zero", "accelerator", "registered", 0, "total"]),
    "the count of epochs": (
        {"seedable": True, **INSIDE},
        [1, 5],
        ["pop", *COUNTERS, "loader.iteration"],
    ),
    "the sampler's seed": (
        {"seedable": True, **INSIDE},
        [1, 5],
        ["pop", *COUNTERS, "1.SeedableRandomSampler.initial_seed"],
    ),
    "the optimizer's moments": (
        KILLED["accumulation, inside"][0],
        [1, 8],
        ["zero", "optimizer", "state", 0, "exp_avg"],
    ),
    "BatchNorm's buffers": ({"average": "ema"}, [1, 3], ["zero", "model", "1.running_mean"]),
    "the average": ({"average": "ema"}, [1, 3], ["zero", "ema", "module.0.weight"]),
    "torch's generator": ({"average": "ema"}, [1, 3], ["pop", "rng", "torch"]),
    "the seeds of two workers": (KILLED["two workers, inside"][0], [1, 5], ["pop", "data", "start", "rng", "torch"]),
    "the plateau's best": (KILLED["bfloat16 and plateau"][0], [2, 3], ["zero", "scheduler", "best"]),
    "the cycle's place": (KILLED["bfloat16 and one cycle, inside"][0], [1, 5], ["zero", "scheduler", "last_epoch"]),
    "the place in an IterableDataset": ({"data": "stream", **INSIDE}, [1, 5], ["zero", "data", "batch"]),
    "another rank's generators": ({"ranks": 2, "scheduler": "plateau"}, [2, 1], ["pop", "ranks", 0, "rng", "numpy"]),
    "what another rank has registered": (
        {"ranks": 2, "scheduler": "plateau"},
        [2, 1],
        ["zero", "ranks", 0, "parts", "objects", "accelerator", "registered", 0, "total"],
    ),
}


@pytest.mark.parametrize("piece", SPOILT)
def test_each_piece_is_needed(piece, trainings):
    """Without it the restarted training ends elsewhere: the comparison would notice."""
    case, kill, change = SPOILT[piece]
    store, _, _ = trainings.interrupted(case, kill=kill)

    assert not agree(trainings.resumed(store, case, spoil=[change]), trainings.whole(case))


def test_another_number_of_processes_is_refused(trainings):
    """Each of them had random states of its own."""
    store, _, _ = trainings.interrupted({"ranks": 2})

    status, told = trainings.run(store=store, seed=2, epochs=4)

    assert status == 1
    assert "world_size: 2 before, 1 now" in told["error"]


def test_a_model_in_parts_is_refused(tmp_path):
    """State that is sharded over processes is not supported, and that is said before the training."""
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    try:
        with pytest.raises(InvalidOption, match="each process has a part of the model"):
            CheckpointTracker(tmp_path, "run", accelerator=accelerator)
    finally:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()


def test_settings_that_have_changed_are_shown_and_forgotten_registrations_refused(tmp_path, caplog):
    """Another accumulation is the script's business; another set of registered objects does not fit."""

    class Nothing:
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            assert state == {}

    def run(count, *, registered):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=count)
        accelerator.register_for_checkpointing(*(Nothing() for _ in range(registered)))
        with CheckpointTracker(tmp_path, "run", accelerator=accelerator) as tracker:
            for _ in tracker.epochs(count):
                pass

    run(1, registered=1)
    run(2, registered=1)
    with pytest.raises(StateMismatch, match="registered: this script has 0, the checkpoint has 1"):
        run(3, registered=0)

    assert "accelerator.gradient_accumulation_steps: 1 before, 2 now" in caplog.text
    with Store(tmp_path) as store:
        assert store["run@last"].context["accelerator"]["gradient_accumulation_steps"] == 2
