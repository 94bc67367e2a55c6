"""A Trainer killed with SIGKILL and started again leaves the checkpoints of an uninterrupted one, bit for bit."""

import signal

import pytest
from scripts.transformers_server import Trainings

BEST = {"metric_for_best_model": "eval_loss"}
STEPS = {"tracker": {"every": ["1 epoch", "1 step"]}}
BY_PROCESS = {"accelerator_config": {"use_seedable_sampler": False}}
PERSISTENT = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
UNWATCHED = {"every": ["1 epoch", "1 step"], "monitor": None, "mode": None}
NO_EVALUATION = {"eval_strategy": "no"}

# the epoch and the step before which the process is killed, and the training's options
CASES = {
    "cosine scheduler": ([(2, 3)], {"args": {"lr_scheduler_type": "cosine"}}),
    "one cycle of the learning rate, inside an epoch": (
        [(1, 2)],
        {**STEPS, "args": {"lr_scheduler_type": "cosine_with_restarts", "warmup_steps": 6}},
    ),
    "plateau scheduler, logs across epochs": (
        [(2, 3)],
        {"args": {**BEST, "lr_scheduler_type": "reduce_lr_on_plateau", "logging_steps": 3, "eval_on_start": True}},
    ),
    "plateau scheduler, evaluated inside epochs": (
        [(0, 4), (1, 2)],
        {
            **STEPS,
            "args": {**BEST, "lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 2},
        },
    ),
    "stopped early": ([(2, 1)], {"early": [2, 9.0], "args": {**BEST, "num_train_epochs": 7}}),
    "stopped early inside an epoch": (
        [(1, 1)],
        {**STEPS, "early": [3, 9.0], "args": {**BEST, "eval_strategy": "steps", "eval_steps": 2}},
    ),
    "the best model at the end, and the Trainer's own checkpoints": (
        [(1, 2)],
        {"args": {**BEST, "save_strategy": "epoch", "load_best_model_at_end": True, "learning_rate": 0.5}},
    ),
    "at any step": ([(0, 1), (0, 4), (1, 0), (2, 2)], STEPS),
    "at any step, accumulation": ([(0, 1), (1, 2)], {**STEPS, "args": {"gradient_accumulation_steps": 2}}),
    "at any step, order from the process' random state, max_steps": (
        [(0, 2), (2, 1)],
        {**STEPS, "args": {**BY_PROCESS, "max_steps": 13}},
    ),
    "two workers": ([(1, 3)], {"args": {"dataloader_num_workers": 2}}),
    "two workers, at any step, accumulation": (
        [(0, 2), (2, 1)],
        {**STEPS, "args": {"dataloader_num_workers": 2, "gradient_accumulation_steps": 2, **BY_PROCESS}},
    ),
    "workers that live on": ([(1, 3)], {"noisy": False, "args": {**PERSISTENT, **BY_PROCESS}}),
    "workers that live on, at any step": ([(0, 2), (2, 1)], {**STEPS, "noisy": False, "args": PERSISTENT}),
    "bf16": ([(1, 2)], {**STEPS, "args": {"bf16": True}}),
    "scaled gradients": ([(1, 2)], {**STEPS, "scaler": True}),
    "a stream, in its second round": (
        [(0, 3), (1, 2)],
        {"noisy": False, "stream": True, "tracker": UNWATCHED, "args": {**NO_EVALUATION, "max_steps": 13}},
    ),
    "two processes": ([(1, 1)], {"ranks": 2, "args": {"ddp_backend": "gloo"}}),
    "two processes, at any step": ([(0, 2), (2, 1)], {**STEPS, "ranks": 2, "args": {"ddp_backend": "gloo"}}),
    "at the first moment after an epoch": (
        [(1, 1)],
        {"tracker": {"every": "0.0000001 seconds"}, "args": BY_PROCESS},
    ),
    "resume_from_checkpoint=hf_dir": ([(2, 3)], {**STEPS, "by_folder": True}),
    "killed before the first checkpoint": ([(0, 3)], {"seed": 1}),
}
# with the number of the training before them
TWO_TRAININGS = {"the second of two trainings": (1, 1, 1), "between two trainings": (1, 0, 2)}


@pytest.fixture(scope="module")
def trainings():
    """One process for the module: importing takes seconds."""
    process = Trainings()
    yield process
    process.close()


def compare(trainings, case, stops, folder):
    """A training that is whole, and one for each of `stops` that is killed there and started again."""
    case = {"noisy": True, **case}
    whole = trainings.train(case, folder / "whole", seed=1)
    for number, stop in enumerate(stops):
        store = folder / f"killed-{number}"
        killed = trainings.train(case, store, seed=1, stop=stop)
        resumed = trainings.train(case, store, seed=case.get("seed", 2 + number))

        assert (whole.status, killed.status, resumed.status) == (0, -signal.SIGKILL, 0), trainings.said()
        assert len(killed.checkpoints) < len(whole.checkpoints)
        assert resumed == whole


@pytest.mark.parametrize("name", CASES)
def test_a_killed_training_leaves_the_same_checkpoints(trainings, name, tmp_path):
    """Every checkpoint's digest, and the model at the end, are those of an uninterrupted run with other seeds."""
    moments, case = CASES[name]
    compare(trainings, case, [{"epoch": epoch, "step": step} for epoch, step in moments], tmp_path)


@pytest.mark.parametrize("name", TWO_TRAININGS)
def test_a_script_that_trains_twice_leaves_the_same_checkpoints(trainings, name, tmp_path):
    """Its trainings that were through are passed over."""
    training, epoch, step = TWO_TRAININGS[name]
    compare(trainings, {"times": 2}, [{"training": training, "epoch": epoch, "step": step}], tmp_path)


def test_a_training_killed_three_times_leaves_the_same_checkpoints(trainings, tmp_path):
    """Each restart goes on from what the one before left, at an epoch's end or inside one."""
    case = {"noisy": True, "tracker": {"every": ["1 epoch", "2 steps"]}, "args": {"logging_steps": 3}}

    whole = trainings.train(case, tmp_path / "whole", seed=1)
    for seed, (epoch, step) in enumerate([(0, 3), (1, 1), (2, 0)], start=1):
        trainings.train(case, tmp_path / "killed", seed=seed, stop={"epoch": epoch, "step": step})

    assert trainings.train(case, tmp_path / "killed", seed=9) == whole


@pytest.mark.parametrize("args", [{"max_steps": 13}, {"num_train_epochs": 2.5}])
def test_a_training_that_ended_inside_an_epoch_trains_nothing_more(trainings, args, tmp_path):
    """Started again it has the same model; a Trainer alone would train one step more."""
    whole = trainings.train({"args": args}, tmp_path / "store", seed=1)

    assert trainings.train({"args": args}, tmp_path / "store", seed=2) == whole


def test_another_seed_gives_other_digests(trainings, tmp_path):
    """The comparison can fail: the digests depend on the random states."""
    first = trainings.train({}, tmp_path / "a", seed=1)
    second = trainings.train({}, tmp_path / "b", seed=2)

    assert not set(first.digests.values()) & set(second.digests.values())
