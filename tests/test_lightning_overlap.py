"""`overlap=True` in Lightning: weights and what optimizers keep are copied while the next step computes."""

import signal

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging
from lightning_helpers import HARMLESS, StopAt, make_tracker, make_trainer
from lightning_processes import trainings
from lightning_training import loaders, make_gan, make_model
from overlapping import all_sizes, gate  # noqa: F401 - fixtures

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointWarning
from ckpt_tracker.integrations.lightning import CheckpointTracker

pytestmark = [*HARMLESS, pytest.mark.usefixtures("all_sizes")]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    """Whatever is written by default is written here."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def digests(run, *callbacks, overlap, gan=False, error=None, every="1 epoch", **options):
    """Of the checkpoints of a training, by epoch and step."""
    lightning.seed_everything(1, verbose=False)
    tracker = CheckpointTracker("store", run, keep="last:99", overlap=overlap, every=every)
    trainer = make_trainer(tracker, *callbacks, **{"max_epochs": 3, **options})
    fit = (make_gan if gan else make_model)(lightning), *loaders()
    if error is None:
        trainer.fit(*fit)
    else:
        with pytest.raises(type(error)):
            trainer.fit(*fit)
    with Store("store", create=False) as store:
        return {(each.epoch, each.step): each.digest for each in store.run(run).checkpoints()}


def averaging():
    """Weights that are swapped in for every validation."""
    return EMAWeightAveraging()


def stochastic():
    """Averaged weights take the place of the model's in an epoch of their own."""
    return StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)


STEPS = {"every": ["1 epoch", "1 step"]}
TRAININGS = {
    "epochs": ({}, []),
    "steps": (STEPS, []),
    "accumulation": ({**STEPS, "accumulate_grad_batches": 3}, []),
    "two optimizers by hand": ({**STEPS, "gan": True}, []),
    "half precision": ({"precision": "bf16-mixed"}, []),
    "averaged weights, validated while gradients accumulate": (
        {**STEPS, "accumulate_grad_batches": 2, "val_check_interval": 1},
        [averaging],
    ),
    "stochastic weight averaging": ({}, [stochastic]),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_overlapped_checkpoints_are_those_that_are_copied_at_once(name):
    """Bit by bit, and none is thrown away: no step and no swap of weights comes before the copy's end."""
    options, callbacks = TRAININGS[name]
    at_once = digests("at-once", *(each() for each in callbacks), overlap=False, **options)
    assert digests("overlapped", *(each() for each in callbacks), overlap=True, **options) == at_once


class Opening(Callback):
    """Opens the gate once gradients are there."""

    def __init__(self, opened):
        self.opened = opened

    def on_after_backward(self, trainer, module):
        self.opened.set()

    def on_train_batch_end(self, trainer, module, *_):
        self.opened.clear()


@pytest.mark.parametrize("gan", [False, True], ids=["by itself", "by hand"])
def test_the_copy_may_last_until_the_gradients_are_there(gate, gan):  # noqa: F811
    """Lightning computes them inside the optimizer's step: a wait before that would find the gate shut."""
    at_once = digests("at-once", overlap=False, gan=gan)
    assert digests("overlapped", Opening(gate), overlap=True, gan=gan) == at_once


class Clipping(Callback):
    """Changes weights as an epoch's first batch begins."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if (trainer.current_epoch, index) == (2, 0):
            with torch.no_grad():
                next(module.parameters()).mul_(0.5)


def test_a_change_by_a_callback_is_never_mixed_in():
    """The copy is thrown away, and the epoch's end is saved after the next step instead."""
    at_once = digests("at-once", Clipping(), overlap=False)
    with pytest.warns(CheckpointWarning, match=r"float32 tensor of shape .* was changed while it was being copied"):
        overlapped = digests("overlapped", Clipping(), overlap=True)
    assert [*overlapped] == [(0, 4), (1, 9), (2, 12)]
    assert {each: overlapped[each] for each in ((0, 4), (2, 12))} == {each: at_once[each] for each in ((0, 4), (2, 12))}


class Loading(Callback):
    """Puts a state into a part of the model, as a target network is brought up to date."""

    def on_train_batch_start(self, trainer, module, batch, index):
        module.net[0].load_state_dict({name: each * 0.5 for name, each in module.net[0].state_dict().items()})


class Decaying(Callback):
    """Changes weights once their gradients are there, as a rule of its own for their decay."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        with torch.no_grad():
            next(module.parameters()).mul_(0.9)


@pytest.mark.parametrize("change", [Loading, Decaying])
def test_what_is_known_to_change_weights_waits_for_the_copy(change):
    """No warning, and all checkpoints are what they would have been."""
    at_once = digests("at-once", change(), overlap=False, **STEPS)
    assert digests("overlapped", change(), overlap=True, **STEPS) == at_once


def test_what_was_being_copied_when_an_error_came_is_saved():
    """It is the last whole state that there is."""
    stop = {"error": ValueError("stopped")}
    at_once = digests("at-once", StopAt(1, ValueError("stopped")), overlap=False, **stop)
    assert digests("overlapped", StopAt(1, ValueError("stopped")), overlap=True, **stop) == at_once
    assert [*at_once] == [(0, 4)]


def test_a_training_leaves_no_hooks_behind():
    """Neither in the model nor in its optimizer."""
    model = make_model(lightning)
    trainer = make_trainer(make_tracker(overlap=True))
    trainer.fit(model, *loaders())
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
    assert not any(each._load_state_dict_pre_hooks for each in model.net.modules())


KILLED = {
    "at an epoch's end": ({"scheduler": "plateau"}, [2, 1], [-signal.SIGKILL, 0]),
    "inside an epoch": ({**STEPS, "callbacks": ["EMAWeightAveraging"]}, [1, 2], [-signal.SIGKILL, 0]),
    "on two ranks": (
        {**STEPS, "sync": True, "trainer": {"devices": 2, "strategy": "ddp", "max_epochs": 3}},
        [1, 1],
        [[-signal.SIGKILL] * 2, [0, 0]],
    ),
}


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_training_leaves_the_checkpoints_that_are_copied_at_once(name, tmp_path):
    """Restarted with other seeds, and overlapped before and after."""
    case, kill, ended = KILLED[name]
    process = trainings()
    _, whole = process.fit(case, tmp_path / "whole", seed=1)
    killed, _ = process.fit({**case, "overlap": True}, tmp_path / "killed", seed=1, kill=kill)
    status, resumed = process.fit({**case, "overlap": True}, tmp_path / "killed", seed=2)
    assert [killed, status] == ended, process.errors()
    assert resumed == whole
