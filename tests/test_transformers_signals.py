"""What a transformers Trainer's tracker does about a signal, and about data that fail."""

import signal
import threading

import pytest
import torch
import transformers
from scripts.transformers_server import Trainings
from scripts.transformers_training import Rows, Stop, digests, make_trainer, new, seeded

torch.set_num_threads(1)

BEST = {"metric_for_best_model": "eval_loss"}
TWO = {"ranks": 2, "args": {"ddp_backend": "gloo"}}
UNWATCHED = {"tracker": {"monitor": None, "mode": None}}
# the moment of a signal, the step and the exit status that it leads to, and the training's options
CASES = {
    "inside an epoch": ({"signal": "SIGTERM", "epoch": 1, "step": 1}, (7, 143), {}),
    "inside an epoch, accumulation": (
        {"signal": "SIGUSR1", "epoch": 1, "step": 0},
        (4, 138),
        {"args": {"gradient_accumulation_steps": 2}},
    ),
    "in the first step": ({"signal": "SIGINT", "epoch": 0, "step": 0}, (1, 130), {}),
    "in an epoch's last step, evaluated afterwards": (
        {"signal": "SIGTERM", "epoch": 1, "step": 4},
        (10, 143),
        {"early": [2, 9.0], "args": {**BEST, "lr_scheduler_type": "reduce_lr_on_plateau"}},
    ),
    "in an evaluation inside an epoch": (
        {"signal": "SIGTERM", "epoch": 1, "step": 1, "evaluating": True},
        (7, 143),
        {
            **UNWATCHED,
            "args": {**BEST, "lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 7},
        },
    ),
    "in an evaluation at an epoch's end": (
        {"signal": "SIGUSR1", "epoch": 1, "step": 4, "evaluating": True},
        (10, 138),
        {"args": {**BEST, "lr_scheduler_type": "reduce_lr_on_plateau"}},
    ),
    "in the last step": ({"signal": "SIGTERM", "epoch": 3, "step": 4}, (20, 143), {}),
    "to one of two processes": ({"signal": "SIGTERM", "epoch": 1, "step": 1, "rank": 1}, (5, 143), TWO),
}


@pytest.fixture(scope="module")
def trainings():
    """One process for the module: importing takes seconds."""
    process = Trainings()
    yield process
    process.close()


@pytest.fixture
def store(tmp_path):
    """A folder for the tracker's store."""
    return tmp_path / "store"


@pytest.mark.parametrize("name", CASES)
def test_a_signal_saves_and_ends_the_training(trainings, name, tmp_path):
    """At the next consistent point, with its name as the reason; started again, all is as without it."""
    stop, (step, status), case = CASES[name]
    case = {"noisy": True, **case}
    whole = trainings.train(case, tmp_path / "whole", seed=1)
    stopped = trainings.train(case, tmp_path / "stopped", seed=1, stop=stop)
    resumed = trainings.train(case, tmp_path / "stopped", seed=2)

    reason = "KeyboardInterrupt" if stop["signal"] == "SIGINT" else stop["signal"]
    assert stopped.status == status, trainings.said()
    assert stopped.checkpoints[-1][1:3] == [step, reason]
    assert resumed.digests == whole.digests | stopped.digests
    assert resumed.model == whole.model


def test_a_second_signal_ends_at_once(store, tmp_path):
    """Before the next consistent point, without a checkpoint."""
    trainer = make_trainer(tmp_path, tracker := new(store))
    trainer.add_callback(Stop(tracker, epoch=1, step=1, signal="SIGINT"))
    trainer.add_callback(Stop(tracker, epoch=1, step=1, signal="SIGINT"))

    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 6
    assert [each.reason for each in new(store).run.checkpoints()] == ["1 epoch"]


def test_the_handlers_are_put_back(store, tmp_path):
    """After the training the signals do what they did before."""
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    make_trainer(tmp_path, new(store), num_train_epochs=1).train()

    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before


def test_the_trainers_own_answer_to_sigterm_is_no_early_stop(store, tmp_path):
    """With enable_jit_checkpoint it stops the training by itself; started again, the training goes on."""
    previous = signal.getsignal(signal.SIGTERM)

    class Wait(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            for each in threading.enumerate():
                if isinstance(each, threading.Timer):
                    each.join()

    tracker = new(store)
    stop = Stop(tracker, epoch=1, step=1, signal="SIGTERM")
    trainer = make_trainer(tmp_path, tracker, stop, Wait(), enable_jit_checkpoint=True)
    found = next(each for each in trainer.callback_handler.callbacks if type(each).__name__ == "JITCheckpointCallback")
    found.jit_manager.kill_wait = 0
    trainer.train()
    signal.signal(signal.SIGTERM, previous)
    stopped = trainer.state.global_step
    again = make_trainer(tmp_path, new(store))
    again.train()

    assert stopped == 7
    assert [(each.step, each.reason) for each in tracker.run.checkpoints()][:2] == [(5, "1 epoch"), (7, "SIGTERM")]
    assert again.state.global_step == 20


class Failing(Rows):
    """Data that fail once, in the middle of an epoch."""

    def __init__(self, count, *, at):
        super().__init__(count, noisy=True)
        self.left = at

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@pytest.mark.parametrize(("accumulation", "batch", "step"), [(1, 8, 6), (2, 10, 4)])
def test_data_that_fail_leave_a_checkpoint(store, tmp_path, accumulation, batch, step):
    """Of the last step before; the training goes on from there to the same end."""
    options = {"noisy": True, "gradient_accumulation_steps": accumulation}
    seeded(1)
    whole = new(tmp_path / "whole")
    make_trainer(tmp_path, whole, **options).train()
    seeded(1)
    tracker = new(store)
    trainer = make_trainer(tmp_path, tracker, **options)
    trainer.train_dataset = Failing(30, at=6 * batch - 2)
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.train()
    saved = tracker.run.last()
    seeded(2)
    make_trainer(tmp_path, new(store), **options).train()

    assert (saved.step, saved.reason) == (step, "exception")
    assert digests(tracker)[-3:] == digests(whole)[-3:]


def test_an_error_in_a_step_leaves_no_checkpoint(store, tmp_path):
    """Nobody knows what of the state is changed by then."""

    class Error(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 7:
                raise RuntimeError

    tracker = new(store)
    with pytest.raises(RuntimeError):
        make_trainer(tmp_path, tracker, Error()).train()
    assert [each.step for each in tracker.run.checkpoints()] == [5]
