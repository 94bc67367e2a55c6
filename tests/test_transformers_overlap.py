"""`overlap=True` with a transformers Trainer: weights and optimizer state are copied while the next step computes."""

import signal

import pytest
import torch
from overlapping import all_sizes, gate  # noqa: F401 - fixtures
from scripts.transformers_server import Trainings
from scripts.transformers_training import Draw, digests, make_trainer, new, seeded
from transformers import TrainerCallback

from ckpt_tracker.errors import CheckpointWarning

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("all_sizes")
STEPS = {"tracker": {"every": ["1 epoch", "1 step"]}}
BEST = {"metric_for_best_model": "eval_loss", "save_strategy": "epoch", "load_best_model_at_end": True}


@pytest.fixture
def train(tmp_path):
    """Trains, with callbacks and a case's options, and gives the digests of its checkpoints."""

    def run(name, *callbacks, overlap, tracker=None, epochs=3, **args):
        seeded(1)
        made = new(tmp_path / name, overlap=overlap, **(tracker or {}))
        make_trainer(tmp_path / f"{name}-folder", made, Draw(), *callbacks, num_train_epochs=epochs, **args).train()
        return digests(made)

    return run


TRAININGS = {
    "epochs": {},
    "steps": STEPS,
    "accumulation, evaluated inside epochs": {
        **STEPS,
        **{"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 1},
    },
    "the best model at the end": {**BEST, "learning_rate": 0.5},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_overlapped_checkpoints_are_those_that_are_copied_at_once(train, name):
    """Bit by bit, and none is thrown away."""
    at_once = train("at-once", overlap=False, **TRAININGS[name])
    assert train("overlapped", overlap=True, **TRAININGS[name]) == at_once


class Opening(TrainerCallback):
    """Opens the gate once gradients are there."""

    def __init__(self, opened):
        self.opened = opened

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.opened.set()

    def on_step_end(self, args, state, control, **_):
        self.opened.clear()


def test_the_copy_may_last_until_the_gradients_are_there(train, gate):  # noqa: F811
    """A wait before that would find the gate shut."""
    at_once = train("at-once", overlap=False)
    assert train("overlapped", Opening(gate), overlap=True) == at_once


class Clipping(TrainerCallback):
    """Changes weights as a step begins."""

    def on_step_begin(self, args, state, control, model=None, **_):
        if state.global_step == 10:
            with torch.no_grad():
                next(model.parameters()).mul_(0.5)


def test_a_change_by_a_callback_is_never_mixed_in(train):
    """The copy is thrown away, and the epoch's end is saved after the next step instead."""
    at_once = train("at-once", Clipping(), overlap=False)
    with pytest.warns(CheckpointWarning, match=r"float32 tensor of shape .* was changed while it was being copied"):
        first, between, last = train("overlapped", Clipping(), overlap=True)
    assert [first, last] == [at_once[0], at_once[2]]
    assert between not in at_once


def test_a_training_leaves_no_hooks_behind(tmp_path):
    """Neither in the model nor in its optimizer."""
    trainer = make_trainer(tmp_path, new(tmp_path / "store", overlap=True), num_train_epochs=1)
    trainer.train()
    assert not trainer.optimizer.optimizer._optimizer_step_pre_hooks
    assert not any(each._load_state_dict_pre_hooks for each in trainer.model.modules())


def test_a_killed_training_leaves_the_checkpoints_that_are_copied_at_once(tmp_path):
    """Restarted with other seeds, and overlapped before and after; in one process and in two."""
    trainings = Trainings()
    for number, more in enumerate([{}, {"ranks": 2, "args": {"ddp_backend": "gloo"}}]):
        case = {"noisy": True, **more, **STEPS}
        overlapped = {**case, "tracker": {**STEPS["tracker"], "overlap": True}}
        killed = tmp_path / f"killed-{number}"
        whole = trainings.train(case, tmp_path / f"whole-{number}", seed=1)
        stopped = trainings.train(overlapped, killed, seed=1, stop={"epoch": 1, "step": 2})
        resumed = trainings.train(overlapped, killed, seed=2)
        assert (whole.status, stopped.status, resumed.status) == (0, -signal.SIGKILL, 0), trainings.said()
        assert resumed == whole
    trainings.close()
