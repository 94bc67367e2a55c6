"""What the PyTorch tracker does with the habits of hand-written loops."""

import pytest
import torch
from torch import nn
from torch_parts import parts, rows, step, stop_at, train

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointNotFound, CheckpointWarning, RunBusy, StateMismatch
from ckpt_tracker.integrations.torch import CheckpointTracker


@pytest.fixture
def store(tmp_path):
    """A store, closed at the end."""
    with Store(tmp_path / "checkpoints") as opened:
        yield opened


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


@pytest.mark.parametrize("stop", [None, 4])
def test_the_end_of_a_training_without_epochs_is_saved(stop, store):
    """Where its loader ends, and where it is left by break after a step; more of it goes on from there."""
    objects = parts()

    def run(count):
        done = []
        with CheckpointTracker(store, "run", every="3 steps", keep="last:9", **objects) as tracker:
            for index in tracker.batches(range(count)):
                step(**objects)
                done.append(index)
                if tracker.step == stop:
                    break
        return done, [(each.step, each.context["batch"]) for each in tracker.run.checkpoints()]

    assert run(5) == ([0, 1, 2, 3, 4][:stop], [(3, 3), (stop or 5, stop or 5)])
    assert run(5)[0] == [0, 1, 2, 3, 4][stop or 5 :]


def test_a_finished_run_trains_nothing_more_and_says_so(store, caplog):
    """The same script run again does no epoch."""
    train(store)

    done, last = train(store)

    assert done == []
    assert (last.version, "epochs are done, nothing to train" in caplog.text) == (3, True)


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


def test_the_steps_between_the_batches_of_a_loader_are_saved(store):
    """With batches() a step trigger saves inside the epoch; the last batch leaves that to the epoch's end."""
    objects = parts()
    with CheckpointTracker(store, "run", every="2 steps", keep="last:9", **objects) as tracker:
        for _ in tracker.epochs(1):
            for index, _ in enumerate(tracker.batches(rows())):
                assert (tracker.batch, tracker.step) == (index, index)
                step(**objects)

    found = [(each.epoch, each.step, each.context.get("batch")) for each in store.run("run").checkpoints()]

    assert found == [(None, 2, 2), (None, 4, 4), (0, 6, None)]


def test_a_resumed_epoch_goes_on_with_its_next_batch(store):
    """`tracker.batch` is the batch's index in the epoch, where the loop's own count begins anew."""
    stop_at(store, 4, rows())
    objects = parts()
    with CheckpointTracker(store, "run", **objects) as tracker:
        for _ in tracker.epochs(1):
            found = [tracker.batch for _ in tracker.batches(rows())]

    assert found == [4, 5]


def test_a_resumed_epoch_that_does_not_look_for_its_place_is_refused(store):
    """A loop that no longer runs over batches() would train the whole epoch once more."""
    stop_at(store, 4, rows())

    with pytest.raises(StateMismatch, match=r"run over tracker\.batches"):
        train(store)


def test_what_the_script_did_in_between_leaves_no_trace(store):
    """The objects are restored once more where the loop goes on: pretrained weights loaded again are not kept."""
    train(store, 1)
    weight = store["run@last"].load("model")["weight"]
    objects = parts()
    with CheckpointTracker(store, "run", **objects) as tracker:
        nn.init.zeros_(objects["model"].weight)
        for _ in tracker.epochs(2):
            assert torch.equal(objects["model"].weight, weight)


def test_the_head_of_an_epoch_may_be_gone_through_twice(store):
    """A scheduler that is stepped before the batches of an epoch is not stepped once too often by a resume inside."""

    def run(*, stop):
        objects = parts()
        scheduler = torch.optim.lr_scheduler.StepLR(objects["optimizer"], 1, gamma=0.5)
        with CheckpointTracker(store, "run", scheduler=scheduler, every="1 step", **objects) as tracker:
            for epoch in tracker.epochs(3):
                scheduler.step()
                for index, _ in enumerate(tracker.batches(rows())):
                    if (epoch, index) == (1, 3) and stop:
                        raise ZeroDivisionError
                    step(**objects)
        return scheduler.get_last_lr()

    with pytest.warns(UserWarning, match="lr_scheduler.step"), pytest.raises(ZeroDivisionError):
        run(stop=True)

    assert run(stop=False) == [0.1 / 8]


def test_weights_swapped_in_for_validation_are_not_saved_as_the_models(store):
    """An error in a validation that runs on averages leaves no checkpoint with them in the place of the weights."""
    model = nn.Linear(200, 200)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError), CheckpointTracker(store, "run", model=model, optimizer=optimizer) as tracker:
        for epoch in tracker.epochs(3):
            for _ in tracker.batches(rows()):
                optimizer.zero_grad()
                model(torch.ones(1, 200)).sum().backward()
                optimizer.step()
            if epoch == 1:
                model.weight.data.mul_(0.5)
                raise ZeroDivisionError

    assert (store["run@last"].epoch, store["run@last"].reason) == (0, "1 epoch")


def test_an_error_after_a_loaders_end_says_what_a_resume_there_means(store):
    """The loop over the batches has no turn then, and code that counts on its variables fails: the error says why."""
    objects = parts()

    def run():
        with CheckpointTracker(store, "run", **objects) as tracker:
            for _ in tracker.epochs(2):
                for (x,) in tracker.batches(rows()):
                    step(**objects)
                    last = x
                last.nothing()

    with pytest.raises(AttributeError):
        run()
    with pytest.raises(UnboundLocalError) as caught:
        run()

    assert "resumed after its last batch (run@v1)" in caught.value.__notes__[0]
    assert [each.reason for each in store.run("run").checkpoints()] == ["exception"]
