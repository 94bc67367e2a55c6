"""`overlap=True`: weights and what the optimizer keeps are copied while the next step computes."""

import copy
import pickle
import subprocess
import sys
from textwrap import dedent

import pytest
import torch
from overlapping import all_sizes, gate  # noqa: F401 - fixtures
from torch import nn

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointWarning, InvalidOption
from ckpt_tracker.integrations.torch import CheckpointTracker

WIDTH = 256


def build():
    """A model with BatchNorm, whose buffers a forward pass changes; its weights are large enough to be overlapped."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH))
    return model, torch.optim.AdamW(model.parameters())


def step(model, optimizer):
    """One step on random numbers."""
    optimizer.zero_grad()
    model(torch.randn(8, WIDTH)).square().mean().backward()
    optimizer.step()


def train(store, run, *, epochs=4, before=lambda model, optimizer, epoch: None, **options):
    """Two steps an epoch; returns the digests of its checkpoints."""
    model, optimizer = build()
    with CheckpointTracker(
        store, run, model=model, optimizer=optimizer, keep=f"last:{epochs + 1}", **options
    ) as tracker:
        for epoch in tracker.epochs(epochs):
            before(model, optimizer, epoch)
            for _ in tracker.batches(range(2)):
                step(model, optimizer)
            tracker.log(loss=torch.tensor(float(epoch)))
    return {each.epoch: each.digest for each in store.find_run(run).checkpoints()}


@pytest.fixture
def store(tmp_path):
    """A store, closed at the end."""
    with Store(tmp_path / "checkpoints") as opened:
        yield opened


@pytest.mark.parametrize("every", ["1 epoch", "1 step"])
def test_overlapped_checkpoints_are_those_that_are_copied_at_once(store, every):
    """Bit by bit: no step, and no running mean of a forward pass, is mixed in."""
    at_once = train(store, "at-once", every=every)
    assert train(store, "overlapped", every=every, overlap=True) == at_once
    assert len(store.find_run("overlapped").checkpoints()) == len(store.find_run("at-once").checkpoints())


@pytest.mark.parametrize("counted", [True, False])
def test_a_change_that_nobody_told_of_is_never_mixed_in(store, counted):
    """By a script's own hand, through `.data` or not: the copy is thrown away, and the epoch's end is not lost."""

    def clip(model, optimizer, epoch):
        if epoch == 2:
            with torch.no_grad():
                (model[0].weight if counted else model[0].weight.data).mul_(0.5)

    at_once = train(store, "at-once", before=clip)
    with pytest.warns(CheckpointWarning, match=r"float32 tensor of shape \[256, 256\] was changed while it was being"):
        overlapped = train(store, "overlapped", before=clip, overlap=True)
    # the one of epoch 1 was thrown away; the one that stands for it was taken at the first step after that
    last = [each for each in store.find_run("overlapped").checkpoints() if each.epoch == 1]
    assert [(each.reason, each.step) for each in last] == [("1 epoch", 5)]
    assert {epoch: overlapped[epoch] for epoch in (0, 2, 3)} == {epoch: at_once[epoch] for epoch in (0, 2, 3)}


def test_a_state_that_is_loaded_meanwhile_waits_for_the_copy(store):
    """Into the model and into the optimizer; no warning, and both checkpoints are what they would have been."""

    def load(model, optimizer, epoch):
        model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()})
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    at_once = train(store, "at-once", before=load)
    assert train(store, "overlapped", before=load, overlap=True) == at_once


def test_a_model_in_training_can_still_be_copied_and_pickled(store):
    """The copy has nothing to do with the tracker."""
    model, optimizer = build()
    with CheckpointTracker(store, "r", model=model, optimizer=optimizer, overlap=True) as tracker:
        for _ in tracker.epochs(1):
            step(model, optimizer)
            other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
            other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].weight, model[0].weight)


def test_the_time_that_a_step_waited_is_part_of_the_stall(store):
    """What is recorded is what the training was held up, before and at the optimizer's step."""
    train(store, "r", overlap=True)
    assert all(each.record.stall_seconds > 0 for each in store.find_run("r").checkpoints())


def test_what_a_script_changes_after_its_last_epoch_is_not_in_it(store):
    """The last checkpoint is copied at once: no step waits for it any more."""
    model, optimizer = build()
    with CheckpointTracker(store, "r", model=model, optimizer=optimizer, overlap=True) as tracker:
        for _ in tracker.epochs(2):
            step(model, optimizer)
        trained = model[0].weight.detach().clone()
        with torch.no_grad():
            model[0].weight.zero_()
    assert torch.equal(store["r@last"].load("model")["0.weight"], trained)


def test_a_closure_is_called_while_the_copy_goes_on(store, gate):  # noqa: F811
    """LBFGS computes its gradients inside its step, and changes the weights after that."""

    def train(run, **options):
        model, _ = build()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
        with CheckpointTracker(store, run, model=model, optimizer=optimizer, keep="last:9", **options) as tracker:
            for _ in tracker.epochs(3):

                def closure():
                    optimizer.zero_grad()
                    loss = model(torch.randn(8, WIDTH)).square().mean()
                    loss.backward()
                    gate.set()
                    return loss

                optimizer.step(closure)
                gate.clear()
        return [each.digest for each in store.find_run(run).checkpoints()]

    assert train("overlapped", overlap=True) == train("at-once")


def test_a_state_that_is_loaded_into_a_part_waits_for_the_copy(store):
    """As a target network inside a model is brought up to date."""

    def load(model, optimizer, epoch):
        model[0].load_state_dict({name: value * 0.5 for name, value in model[0].state_dict().items()})

    at_once = train(store, "at-once", before=load)
    assert train(store, "overlapped", before=load, overlap=True) == at_once


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_a_model_with_scripted_parts_is_overlapped(store):
    """They take no hooks."""
    model = nn.Sequential(torch.jit.script(nn.Linear(WIDTH, WIDTH)), nn.BatchNorm1d(WIDTH))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with CheckpointTracker(store, "r", model=model, optimizer=optimizer, overlap=True) as tracker:
        for _ in tracker.epochs(2):
            step(model, optimizer)
    assert len(store.find_run("r").checkpoints()) == 2


def test_overlap_is_yes_or_no(store):
    """Nothing else is taken for it."""
    with pytest.raises(InvalidOption, match="overlap='yes': expected True or False"):
        train(store, "r", overlap="yes")


def test_a_tracker_that_nobody_closes_loses_nothing(tmp_path):
    """The interpreter's exit waits for what is being copied, and for what is queued."""
    script = """
        import sys, torch
        from ckpt_tracker.integrations.torch import CheckpointTracker
        model = torch.nn.Linear(256, 256)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        tracker = CheckpointTracker(sys.argv[1], "r", model=model, optimizer=optimizer, overlap=True)
        for epoch in tracker.epochs(3):
            if epoch == 1:
                raise ValueError("stopped")
            model(torch.ones(1, 256)).sum().backward()
            optimizer.step()
    """
    ended = subprocess.run(
        [sys.executable, "-c", dedent(script), tmp_path], capture_output=True, text=True, check=False
    )
    assert "ValueError: stopped" in ended.stderr
    with Store(tmp_path, create=False) as store:
        assert [each.epoch for each in store.run("r").checkpoints()] == [0]
