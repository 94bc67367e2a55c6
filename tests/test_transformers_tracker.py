"""What the tracker of a transformers Trainer records, and what it refuses."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from scripts.transformers_training import Rows, digests, make_trainer, new

from ckpt_tracker.errors import CheckpointWarning, InvalidOption, StateMismatch
from ckpt_tracker.integrations.transformers import CheckpointTracker

torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path):
    """A folder for the tracker's store."""
    return tmp_path / "store"


def test_a_checkpoint_after_every_epoch_holds_its_metrics(store, tmp_path):
    """The evaluation's metrics and the training's logs are there under their names, and how long it took is not."""
    tracker = new(store, monitor="eval_loss", mode="min")
    trainer = make_trainer(tmp_path, tracker)
    trainer.train()

    found = tracker.run.checkpoints()
    evaluated = [each["eval_loss"] for each in trainer.state.log_history if "eval_loss" in each]
    assert [(each.epoch, each.step) for each in found] == [(0, 5), (1, 10), (2, 15), (3, 20)]
    assert [each.metrics["eval_loss"] for each in found] == evaluated
    assert set(found[-1].metrics) == {"eval_loss", "loss", "grad_norm", "learning_rate"}
    assert tracker.run.best().metrics["eval_loss"] == min(evaluated)


def test_evaluate_and_predict_outside_a_training_save_nothing(store, tmp_path):
    """Neither before nor after `train`."""
    tracker = new(store)
    trainer = make_trainer(tmp_path, tracker, num_train_epochs=1)
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    trainer.predict(Rows(6))

    assert len(digests(tracker)) == 1


def test_train_called_twice_goes_on_in_the_same_run(store, tmp_path):
    """Nothing is restored for the second training."""
    tracker = new(store)
    trainer = make_trainer(tmp_path, tracker, num_train_epochs=2)
    trainer.train()
    trainer.train()

    assert [each.epoch for each in tracker.run.checkpoints()] == [0, 1, 0, 1]


def test_the_last_checkpoint_is_not_the_best_model(store, tmp_path):
    """A Trainer that loads its best model at the end shows the tracker the last epoch's before, and keeps its files."""
    tracker = new(store)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    trainer = make_trainer(tmp_path, tracker, save_strategy="epoch", learning_rate=0.5, **best)
    trainer.train()

    last = load_file(tmp_path / "checkpoint-20" / "model.safetensors")
    saved = tracker.run.last().load("model")
    name = "layers.0.weight"
    assert torch.equal(saved[name], last[name])
    assert not torch.equal(saved[name], trainer.model.state_dict()[name])


def test_another_model_is_refused(store, tmp_path):
    """With the names and shapes on both sides, before anything is loaded."""
    make_trainer(tmp_path, new(store), num_train_epochs=1).train()
    trainer = make_trainer(tmp_path, new(store), model=torch.nn.Linear(2, 3))

    with pytest.raises(StateMismatch, match=r"layers\.0\.weight: in the checkpoint only"):
        trainer.train()


def test_a_tracker_added_later_says_what_to_do(store, tmp_path):
    """The Trainer has decided where to begin before it asks such a callback."""
    tracker = new(store)
    trainer = make_trainer(tmp_path, None)
    trainer.add_callback(tracker)

    with pytest.raises(InvalidOption, match=r"tracker\.attach\(trainer\)"):
        trainer.train()


def test_attach_joins_a_trainer_that_is_made(store, tmp_path):
    """With or without its being added before; twice is once."""
    tracker = new(store)
    trainer = make_trainer(tmp_path, None, num_train_epochs=1)
    tracker.attach(trainer)
    tracker.attach(trainer)
    trainer.train()

    assert len(digests(tracker)) == 1


def test_two_trackers_are_refused(store, tmp_path):
    """One of them would have to win."""
    with pytest.raises(InvalidOption, match="takes one CheckpointTracker"):
        make_trainer(tmp_path, new(store), CheckpointTracker(store, "s"))


def test_arguments_are_recorded_without_secrets(store, tmp_path):
    """As the run's hyperparameters; what the script gives stands above them, and where it writes to is none."""
    tracker = new(store, config={"seed": "mine"})
    more = {"hub_token": "hf_secret", "lr_scheduler_kwargs": {"api_key": "secret"}, "run_name": "monday"}
    make_trainer(tmp_path, tracker, num_train_epochs=1, lr_scheduler_type="constant", **more).train()

    config = tracker.run.config
    assert config["learning_rate"] == 0.02
    assert config["seed"] == "mine"
    assert config["average_tokens_across_devices"] is True
    assert "secret" not in str(config)
    assert not {"hub_token", "output_dir", "run_name"} & set(config)


def test_a_stream_that_draws_random_numbers_is_mentioned_inside_an_epoch(store, tmp_path):
    """Once: they may decide what comes next, and are not those of the process that was killed."""
    options = {"stream": True, "eval_strategy": "no", "max_steps": 5}
    trainer = make_trainer(tmp_path, new(store, every="2 steps"), noisy=True, **options)
    with pytest.warns(CheckpointWarning, match="stream that draws random numbers") as said:
        trainer.train()

    assert len(said) == 1
    make_trainer(tmp_path, new(store / "other", every="2 steps"), **options).train()


def test_workers_that_live_on_and_draw_random_numbers_are_mentioned(store, tmp_path):
    """Once: their random states are theirs alone."""
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "num_train_epochs": 2}
    trainer = make_trainer(tmp_path, new(store), noisy=True, **options)
    with pytest.warns(CheckpointWarning, match="dataloader_persistent_workers=False") as said:
        trainer.train()

    assert len(said) == 1
    make_trainer(tmp_path, new(store / "other"), **options).train()


def test_metrics_inside_an_epoch_are_those_of_its_step(store, tmp_path):
    """An evaluation of an earlier step says nothing of a later one's model."""
    tracker = new(store, every="1 step", monitor="eval_loss", mode="min")
    make_trainer(tmp_path, tracker, eval_strategy="steps", eval_steps=2, num_train_epochs=1).train()

    ranked = [each.step for each in tracker.run.checkpoints() if "eval_loss" in each.metrics]
    assert ranked == [2, 4, 5]


def test_an_older_transformers_is_refused(tmp_path):
    """With the version that is needed."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").touch()
    (tmp_path / "transformers-5.2.1.dist-info").mkdir()
    (tmp_path / "transformers-5.2.1.dist-info" / "METADATA").write_text("Name: transformers\nVersion: 5.2.1\n")
    command = [sys.executable, "-c", "import ckpt_tracker.integrations.transformers"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert "MissingExtra: transformers 5.2.1 is installed, and 5.3 or later needed" in done.stderr
