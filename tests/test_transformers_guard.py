"""What may be different when a Trainer's training goes on, what is refused, and what is set on purpose."""

import logging

import pytest
import torch
from scripts.transformers_training import Rows, digests, make_trainer, new

from ckpt_tracker.errors import InvalidOption, StateMismatch

torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path):
    """A folder for the tracker's store."""
    return tmp_path / "store"


def test_a_checkpoint_says_what_it_depends_on(store, tmp_path):
    """The processes, the data, the precision."""
    tracker = new(store)
    make_trainer(tmp_path, tracker, num_train_epochs=1, bf16=True, gradient_accumulation_steps=2).train()

    assert tracker.run.last().context == {
        "world_size": 1,
        "precision": "bf16",
        "data": {
            **{"length": 30, "batch_size": 6, "accumulation": 2, "drop_last": False},
            **{"order": "random", "num_workers": 0},
        },
    }


CHANGES = {
    "batch_size: 6 before, 10 now": {"per_device_train_batch_size": 10},
    "accumulation: 1 before, 2 now": {"gradient_accumulation_steps": 2},
    "drop_last: False before, True now": {"dataloader_drop_last": True},
    "order: 'random' before, 'sequential' now": {"train_sampling_strategy": "sequential"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_batches_are_refused_inside_an_epoch(store, tmp_path, change):
    """With what was and is, and the way out."""
    make_trainer(tmp_path, new(store), max_steps=7).train()
    trainer = make_trainer(tmp_path, new(store), **CHANGES[change])

    with pytest.raises(StateMismatch, match=change.replace("'", "")) as refused:
        trainer.train()
    assert "store['r@v2'].load('model')" in str(refused.value)


def test_other_data_are_refused_inside_an_epoch(store, tmp_path):
    """Their number tells."""
    make_trainer(tmp_path, new(store), max_steps=7).train()
    trainer = make_trainer(tmp_path, new(store))
    trainer.train_dataset = Rows(36)

    with pytest.raises(StateMismatch, match="length: 30 before, 36 now"):
        trainer.train()


def test_other_batches_are_shown_at_an_epochs_end(store, tmp_path, caplog):
    """There the training can go on with them."""
    make_trainer(tmp_path, new(store), num_train_epochs=1).train()
    trainer = make_trainer(tmp_path, new(store), num_train_epochs=2, per_device_train_batch_size=6, bf16=True)
    trainer.train_dataset = Rows(36)
    with caplog.at_level(logging.WARNING, "ckpt_tracker"):
        trainer.train()

    assert "data.length: 30 before, 36 now" in caplog.text
    assert "precision: no before, bf16 now" in caplog.text


def test_another_world_size_is_refused(store, tmp_path):
    """Each process has random states of its own, and these are of another number of them."""
    tracker = new(store)
    trainer = make_trainer(tmp_path, tracker, num_train_epochs=1)
    trainer.train()
    context = {**tracker.run.last().context, "world_size": 2}
    state = tracker.run.last().load()
    tracker._tracker.begin()
    tracker._tracker.context = context
    tracker._tracker.save(state, epoch=0, step=5, metrics=None)
    tracker.close()

    with pytest.raises(StateMismatch, match="world_size: 2 before, 1 now"):
        make_trainer(tmp_path, new(store)).train()


def test_another_seed_does_not_change_the_order(store, tmp_path):
    """That of the data goes on with the earlier one, also inside an epoch."""
    whole = new(tmp_path / "whole")
    make_trainer(tmp_path, whole, max_steps=10).train()
    make_trainer(tmp_path, new(store), max_steps=7).train()
    tracker = new(store)
    make_trainer(tmp_path, tracker, max_steps=10, seed=8).train()

    model, other = (each.run.last().load("data")["seed"] for each in (whole, tracker))
    assert model == other


def test_overrides_are_set_once_everything_is_restored(store, tmp_path):
    """The schedule goes on with the other learning rate, which the lineage says; a restart does not scale it again."""
    options = {"lr_scheduler_type": "cosine", "num_train_epochs": 4}
    make_trainer(tmp_path, new(store), **options).train(resume_from_checkpoint=None)
    whole = [group["lr"] for group in new(store).store["r@epoch:2"].load("optimizer")["param_groups"]]

    for _ in range(2):
        tracker = new(store, resume="r@epoch:1", overrides={"lr": 0.002, "weight_decay": 0.1})
        make_trainer(tmp_path, tracker, **options, logging_steps=5).train()
    found = tracker.store["r@epoch:2"]
    groups = found.load("optimizer")["param_groups"]

    assert [group["lr"] for group in groups] == pytest.approx([rate / 10 for rate in whole])
    assert {group["weight_decay"] for group in groups} == {0.1}
    assert [dict(each.overrides) for each in found.parents] == [{"lr": 0.002, "weight_decay": 0.1}]


def test_an_override_of_nothing_is_refused(store, tmp_path):
    """With the names that there are."""
    make_trainer(tmp_path, new(store), num_train_epochs=1).train()
    tracker = new(store, overrides={"learning_rate": 1.0})

    with pytest.raises(InvalidOption, match="the optimizers have"):
        make_trainer(tmp_path, tracker, num_train_epochs=2).train()
    assert len(digests(tracker)) == 1
