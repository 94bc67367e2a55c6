"""What the PyTorch tracker does with the habits of hand-written loops."""

import pytest
import torch
from torch import nn

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointNotFound, CheckpointWarning, InvalidOption, RunBusy, StateMismatch
from ckpt_tracker.integrations.torch import CheckpointTracker

torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path):
    """A store, closed at the end."""
    with Store(tmp_path / "checkpoints") as opened:
        yield opened


def parts(width=3, optimizer=torch.optim.SGD):
    """A model and its optimizer."""
    model = nn.Linear(2, width)
    return {"model": model, "optimizer": optimizer(model.parameters(), lr=0.1)}


def step(model, optimizer):
    """One optimizer step."""
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def train(store, epochs=3, *, run="run", **options):
    """A whole training with one step an epoch; gives the epochs it did and its last checkpoint."""
    objects = parts()
    done = []
    with CheckpointTracker(store, run, **objects, **options) as tracker:
        for epoch in tracker.epochs(epochs):
            step(**objects)
            tracker.log(loss=1 / (epoch + 1))
            done.append(epoch)
    return done, tracker.run.last()


def test_each_epoch_leaves_a_checkpoint_with_its_metrics(store):
    """Epoch, step and metrics of every checkpoint are those of its epoch."""
    train(store, keep="last:9")

    found = [(each.epoch, each.step, dict(each.metrics)) for each in store.run("run").checkpoints()]

    assert found == [(0, 1, {"loss": 1.0}), (1, 2, {"loss": 0.5}), (2, 3, {"loss": 1 / 3})]


def test_a_break_after_log_still_leaves_the_epochs_checkpoint(store):
    """Early stopping by `break` keeps the epoch it ends in, as the model was at that moment."""
    objects = parts()
    with CheckpointTracker(store, "run", **objects) as tracker:
        for epoch in tracker.epochs(5):
            step(**objects)
            tracker.log(loss=1.0)
            if epoch == 1:
                break
        weight = objects["model"].weight.detach().clone()
        nn.init.zeros_(objects["model"].weight)

    last = store["run@last"]

    assert (last.epoch, last.step) == (1, 2)
    assert torch.equal(last.load("model")["weight"], weight)


def test_an_error_in_an_epoch_leaves_no_checkpoint_of_it(store):
    """An epoch that an exception cut off, even after `log`, is not taken for a finished one."""
    objects = parts()
    with pytest.raises(ZeroDivisionError), CheckpointTracker(store, "run", **objects) as tracker:
        for epoch in tracker.epochs(5):
            step(**objects)
            tracker.log(loss=1.0)
            if epoch == 2:
                raise ZeroDivisionError

    assert store["run@last"].epoch == 1


def test_an_interrupted_training_goes_on_when_it_is_run_again(store):
    """Ctrl-C in a notebook cell, and the cell run again: the second goes on after the last finished epoch."""
    objects = parts()
    with pytest.raises(KeyboardInterrupt), CheckpointTracker(store, "run", **objects) as tracker:
        for epoch in tracker.epochs(5):
            step(**objects)
            if epoch == 3:
                raise KeyboardInterrupt

    done, last = train(store, 5)

    assert done == [3, 4]
    assert (last.epoch, last.step) == (4, 5)


def test_a_tracker_without_with_may_be_left_open_and_made_anew(store):
    """The same thread starting the same run again means that it is done with the tracker before."""
    first = CheckpointTracker(store, "run", **parts())
    for _ in first.epochs(2):
        pass

    second = CheckpointTracker(store, "run", **parts())
    done = list(second.epochs(3))
    second.close()

    assert done == [2]


def test_a_second_tracker_inside_the_first_is_refused(store):
    """One run is written by one training at a time."""
    with CheckpointTracker(store, "run", **parts()), pytest.raises(RunBusy, match="'run'"):
        CheckpointTracker(store, "run", **parts())


def test_a_finished_run_trains_nothing_more_and_says_so(store, caplog):
    """The same script run again does no epoch."""
    train(store)

    done, last = train(store)

    assert done == []
    assert (last.version, "nothing to train" in caplog.text) == (3, True)


def test_more_epochs_go_on_from_the_finished_ones(store):
    """Raising the number of epochs trains those that are missing."""
    train(store, 2)

    assert train(store, 4)[0] == [2, 3]


def test_resume_never_starts_from_scratch_and_leaves_what_is_there(store):
    """The run gets new versions with epochs from 0; the old ones stay as far as retention keeps them."""
    train(store, 2, keep="last:9")

    done, _ = train(store, 2, keep="last:9", resume="never")

    assert done == [0, 1]
    assert [each.epoch for each in store.run("run").checkpoints()] == [0, 1, 0, 1]


def test_resume_best_brings_the_state_of_the_best(store):
    """`best` is the best by the monitored metric, and its epochs are done again."""
    objects = parts()
    options = {"monitor": "loss", "mode": "min", "keep": "last:9"}
    with CheckpointTracker(store, "run", **objects, **options) as tracker:
        for epoch in tracker.epochs(4):
            step(**objects)
            tracker.log(loss=[3.0, 1.0, 2.0, float("nan")][epoch])

    done, _ = train(store, 4, resume="best", **options)

    assert done == [2, 3]
    assert store["run@v5"].parents[0].ref == "run@v2"


def test_resume_last_fails_clearly_where_there_is_nothing(store):
    """An explicit wish to resume is not turned into a fresh start."""
    with pytest.raises(CheckpointNotFound, match="resume='last'"):
        CheckpointTracker(store, "new", resume="last", **parts())


def test_a_model_that_does_not_fit_is_shown_beside_the_checkpoint(store):
    """Names and shapes of both sides are in the message, and the run can be used afterwards."""
    train(store, 1)

    with pytest.raises(StateMismatch, match=r"weight: \[5, 2\] in the script, \[3, 2\] in the checkpoint"):
        CheckpointTracker(store, "run", **parts(width=5))

    assert train(store, 2)[0] == [1]


def test_other_objects_than_the_checkpoint_holds_are_refused(store):
    """A forgotten scheduler is no silent difference."""
    train(store, 1)
    objects = parts()
    scheduler = torch.optim.lr_scheduler.StepLR(objects["optimizer"], 1)

    with pytest.raises(StateMismatch, match="scheduler"):
        CheckpointTracker(store, "run", scheduler=scheduler, **objects)


def test_dicts_and_generators_are_objects_too(store):
    """A GAN's two models and optimizers, and generators of torch and NumPy, come back each by its name."""
    import numpy as np

    def build():
        models = {"g": nn.Linear(2, 2), "d": nn.Linear(2, 1)}
        optimizers = [torch.optim.Adam(each.parameters()) for each in models.values()]
        extra = {"noise": torch.Generator().manual_seed(3), "order": np.random.default_rng(3)}
        return {"model": models, "optimizer": optimizers, "extra": extra}

    first = build()
    with CheckpointTracker(store, "gan", **first) as tracker:
        for _ in tracker.epochs(1):
            for model, optimizer in zip(first["model"].values(), first["optimizer"], strict=True):
                step(model, optimizer)
            torch.rand(1, generator=first["extra"]["noise"]), first["extra"]["order"].random()

    second = build()
    with CheckpointTracker(store, "gan", **second) as tracker:
        assert list(tracker.epochs(1)) == []

    assert torch.equal(first["model"]["d"].weight, second["model"]["d"].weight)
    assert torch.equal(
        torch.rand(4, generator=first["extra"]["noise"]), torch.rand(4, generator=second["extra"]["noise"])
    )
    assert first["extra"]["order"].random() == second["extra"]["order"].random()
    assert store["gan@last"].step == 1


def test_an_object_without_state_is_refused_by_name(store):
    """What can't be saved is said before the training starts."""
    with pytest.raises(InvalidOption, match=r"extra\.fn is a function"):
        CheckpointTracker(store, "run", extra={"fn": lambda: None})


def test_every_second_epoch_and_the_last(store):
    """`2 epochs` saves epochs 1 and 3, and the end of the training always."""
    train(store, 5, every="2 epochs", keep="last:9")

    assert [each.epoch for each in store.run("run").checkpoints()] == [1, 3, 4]


def test_a_step_trigger_without_batches_saves_at_the_epochs_end_and_says_so(store):
    """Inside an epoch the loop's state is consistent only where the tracker sees the batches."""
    with pytest.warns(CheckpointWarning, match=r"tracker\.batches\(loader\)"):
        train(store, 2, every="1 step")

    assert store["run@last"].epoch == 1


def test_a_missing_metric_warns_once_and_keeps_the_checkpoint(store):
    """The training goes on, and the checkpoint is there, not ranked."""
    with pytest.warns(CheckpointWarning, match="'vall_loss' is missing") as caught:
        train(store, 3, monitor="vall_loss", mode="min")

    assert len(caught) == 1
    assert [each.epoch for each in store.run("run").checkpoints()] == [1, 2]


def test_a_frozen_encoder_is_stored_once(store):
    """Ten epochs of a model whose encoder is frozen add only what changed, small biases of the encoder included."""
    encoder = nn.Sequential(*(nn.Linear(200, 200) for _ in range(4))).requires_grad_(False)
    model = nn.Sequential(encoder, nn.Linear(200, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    with CheckpointTracker(store, "frozen", model=model, optimizer=optimizer, keep="last:10") as tracker:
        for _ in tracker.epochs(10):
            optimizer.zero_grad()
            model(torch.ones(1, 200)).sum().backward()
            optimizer.step()

    head = sum(each.numel() * 4 for each in model[1].parameters())
    random_states = 2500 + 2500 + 5056  # Python's, NumPy's and torch's
    assert all(each.stored_bytes < head + random_states + 2000 for each in store.run("frozen").checkpoints()[1:])


def test_tied_weights_come_back_tied(store):
    """One storage under two names is one tensor after loading too."""
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    with CheckpointTracker(store, "tied", model=model) as tracker:
        for _ in tracker.epochs(1):
            pass

    state = store["tied@last"].load("model")

    assert state["head.weight"] is state["embed.weight"]


def test_a_model_in_data_parallel_restores_into_a_bare_one(store):
    """The `module.` prefix is no part of the state."""
    model = nn.Linear(2, 3)
    with CheckpointTracker(store, "run", model=nn.DataParallel(model)) as tracker:
        for _ in tracker.epochs(1):
            pass
    bare = nn.Linear(2, 3)
    CheckpointTracker(store, "run", model=bare).close()

    assert torch.equal(bare.weight, model.weight)
