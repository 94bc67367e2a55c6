"""Trainings with a transformers Trainer that are started again: interrupted ones, finished ones, stopped ones."""

import gc
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from scripts.transformers_training import Rows, arguments, digests, make_trainer, new, seeded

from ckpt_tracker.errors import RunBusy
from ckpt_tracker.integrations._transformers.fit import Resume
from ckpt_tracker.integrations._transformers.folder import Folder
from ckpt_tracker.integrations.transformers import CheckpointTracker

torch.set_num_threads(1)


class Interrupt(transformers.TrainerCallback):
    """Presses Ctrl-C at the first training's second step of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_step_end(self, args, state, control, **_):
        if self.epoch is not None and state.epoch > self.epoch + 0.3:
            self.epoch = None
            raise KeyboardInterrupt


@pytest.fixture
def store(tmp_path):
    """A folder for the tracker's store."""
    return tmp_path / "store"


def whole(tmp_path, **args):
    """The digests of an uninterrupted training of the other tests' kind."""
    tracker = new(tmp_path / "whole")
    make_trainer(tmp_path / "hf", tracker, **args).train()
    return digests(tracker)


def test_an_interrupted_cell_run_again_continues(store, tmp_path):
    """A new Trainer and tracker of the same run go on from the last epoch, to the same end."""
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "hf", new(store), Interrupt(2)).train()
    seeded(7)
    tracker = new(store)
    make_trainer(tmp_path / "hf", tracker).train()

    assert tracker.resumed_from.epoch == 1
    assert digests(tracker) == whole(tmp_path)


def test_only_train_run_again_continues(store, tmp_path):
    """The same Trainer goes on from the last epoch after Ctrl-C, to the same end."""
    tracker = new(store)
    trainer = make_trainer(tmp_path / "hf", tracker, Interrupt(2))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()

    assert digests(tracker) == whole(tmp_path)


def test_an_interrupted_training_gives_the_run_back(store, tmp_path):
    """Another tracker can take it, which it can't while the first one trains."""
    tracker = new(store)

    class Second(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            other = CheckpointTracker(store, "r")
            other._tracker.entered = True
            with pytest.raises(RunBusy):
                other.run.writer()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, tracker, Second()).train()
    new(store).run.writer()


def test_a_folder_given_to_train_wins(store, tmp_path):
    """The Trainer's own checkpoint is taken up where the script says so."""
    make_trainer(tmp_path, new(store), save_strategy="epoch", num_train_epochs=2).train()
    tracker = new(store)
    make_trainer(tmp_path, tracker).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))

    assert tracker.resumed_from is None
    assert [each.epoch for each in tracker.run.checkpoints()] == [0, 1, 1, 2, 3]


def test_true_given_to_train_is_the_newest(store, tmp_path):
    """Of the run, where it has one; else of the Trainer's own."""
    make_trainer(tmp_path, CheckpointTracker(store, "other"), save_strategy="epoch", num_train_epochs=1).train()
    tracker = new(store)
    make_trainer(tmp_path, tracker, num_train_epochs=2).train(resume_from_checkpoint=True)
    again = new(store)
    make_trainer(tmp_path, again, num_train_epochs=3).train(resume_from_checkpoint=True)

    assert tracker.resumed_from is None
    assert again.resumed_from.epoch == 1
    assert [each.epoch for each in again.run.checkpoints()] == [1, 2]


def test_a_folder_serves_a_trainer_without_the_tracker(store, tmp_path):
    """Which goes on from it, and writes its own checkpoints."""
    tracker = new(store)
    make_trainer(tmp_path, tracker, num_train_epochs=2).train()
    trainer = make_trainer(tmp_path, None, save_strategy="epoch", num_train_epochs=3)
    trainer.train(resume_from_checkpoint=tracker.hf_dir("last"))

    assert trainer.state.global_step == 15
    assert os.path.isdir(tmp_path / "checkpoint-15")


def test_a_callback_that_is_new_does_not_hinder(store, tmp_path):
    """A Trainer that writes its own checkpoints finds its state."""
    options = {"save_strategy": "epoch", "metric_for_best_model": "eval_loss"}
    make_trainer(tmp_path, new(store), num_train_epochs=1, **options).train()
    added = transformers.EarlyStoppingCallback(9)
    make_trainer(tmp_path, new(store), added, num_train_epochs=2, **options).train()

    assert os.path.isdir(tmp_path / "checkpoint-10")


def test_only_what_is_needed_is_loaded_again(store, tmp_path):
    """Inside an epoch the samples before the position are not, where the process loads them itself."""
    make_trainer(tmp_path, new(store), num_train_epochs=1, max_steps=4).train()
    loaded = []

    class Counted(Rows):
        def __getitem__(self, index):
            loaded.append(index)
            return super().__getitem__(index)

    trainer = make_trainer(tmp_path, new(store), max_steps=5)
    trainer.train_dataset = Counted(30)
    trainer.train()

    assert trainer.state.global_step == 5
    assert len(loaded) == 3 * 6


@pytest.mark.parametrize("kind", [transformers.Seq2SeqTrainer, type("Own", (transformers.Trainer,), {})])
def test_other_trainers_continue_too(store, tmp_path, kind):
    """A subclass, with arguments, metrics and evaluations of its own."""
    options = {"eval_strategy": "steps", "eval_steps": 3, "kind": kind}

    def make(tracker, **more):
        trainer = make_trainer(tmp_path, tracker, **options, **more)
        trainer.compute_metrics = lambda found: {"accuracy": float((found[0].argmax(-1) == found[1]).mean())}
        return trainer

    seeded(1)
    whole = new(tmp_path / "whole", every="3 steps", monitor="eval_accuracy", mode="max")
    make(whole, max_steps=12).train()
    seeded(1)
    make(new(store, every="3 steps"), max_steps=12, **{}).train()
    tracker = new(store, every="3 steps", resume="r@step:6")
    seeded(2)
    make(tracker, max_steps=12).train()

    assert [each.step for each in tracker.run.checkpoints()] == [3, 6, 9, 12, 9, 12]
    assert "eval_accuracy" in tracker.run.last().metrics
    assert digests(tracker)[-2:] == digests(whole)[-2:]


def test_hf_dir_of_an_empty_run_is_none(store):
    """So that `train(resume_from_checkpoint=tracker.hf_dir("last"))` also starts a training."""
    assert new(store).hf_dir("last") is None


def test_hf_dir_best_holds_the_best_model(store, tmp_path):
    """As a file that everything around Transformers reads."""
    tracker = new(store, monitor="eval_loss", mode="min")
    make_trainer(tmp_path, tracker, num_train_epochs=2).train()
    found = load_file(Path(tracker.hf_dir("best")) / "model.safetensors")
    model = tracker.run.best().load("model")

    assert all(torch.equal(found[name], model[name]) for name in model)


def test_hf_dir_goes_with_its_tracker(store, tmp_path):
    """Temporary folders do not pile up."""
    make_trainer(tmp_path, new(store), num_train_epochs=1).train()
    tracker = new(store)
    folder = tracker.hf_dir("v1")
    assert os.path.isdir(folder)
    del tracker
    gc.collect()

    assert not os.path.exists(folder)


def test_a_finished_training_trains_nothing_and_says_so(store, tmp_path, caplog):
    """Started again with the same number of epochs, it ends with the model of the last one."""
    make_trainer(tmp_path, new(store), num_train_epochs=2).train()
    tracker = new(store)
    trainer = make_trainer(tmp_path, tracker, num_train_epochs=2)
    with caplog.at_level(logging.WARNING, "ckpt_tracker"):
        trainer.train()

    model = tracker.run.last().load("model")
    assert "nothing to train" in caplog.text
    assert len(digests(tracker)) == 2
    assert all(torch.equal(model[name], value) for name, value in trainer.model.state_dict().items())


def test_more_epochs_continue_a_finished_training(store, tmp_path):
    """The epochs that are new are trained."""
    make_trainer(tmp_path, new(store), num_train_epochs=2).train()
    tracker = new(store)
    make_trainer(tmp_path, tracker, num_train_epochs=3).train()

    assert [each.epoch for each in tracker.run.checkpoints()] == [0, 1, 2]


def stopping():
    """An EarlyStoppingCallback that finds nothing good enough."""
    return transformers.EarlyStoppingCallback(1, early_stopping_threshold=9.0)


def test_a_training_stopped_early_stays_stopped(store, tmp_path, caplog):
    """Started again it trains nothing, and says what would train on."""
    given = {"metric_for_best_model": "eval_loss"}
    make_trainer(tmp_path, new(store), stopping(), **given).train()
    tracker = new(store)
    trainer = make_trainer(tmp_path, tracker, stopping(), **given)
    trainer.train()

    assert [each.epoch for each in tracker.run.checkpoints()] == [0, 1]
    assert trainer.state.global_step == 10
    assert "resume='r@v2' trains on from there" in caplog.text


def test_a_reference_trains_on_from_an_early_stop(store, tmp_path):
    """`resume=` with a checkpoint says from where, whatever stopped it."""
    given = {"metric_for_best_model": "eval_loss"}
    make_trainer(tmp_path, new(store), stopping(), **given).train()
    tracker = new(store, resume="r@v2")
    make_trainer(tmp_path, tracker, **given).train()

    assert [each.epoch for each in tracker.run.checkpoints()] == [0, 1, 2, 3]


def test_early_stopping_comes_back_with_its_patience(store, tmp_path):
    """In the script's own callback."""
    given = {"metric_for_best_model": "eval_loss", "num_train_epochs": 2}
    first = transformers.EarlyStoppingCallback(9, early_stopping_threshold=9.0)
    make_trainer(tmp_path, new(store), first, **given).train()
    second = transformers.EarlyStoppingCallback(9, early_stopping_threshold=9.0)
    make_trainer(tmp_path, new(store), second, **{**given, "num_train_epochs": 3}).train()

    assert second.early_stopping_patience_counter == first.early_stopping_patience_counter + 1 == 2


def test_tied_weights_come_back(store, tmp_path):
    """A language model's embedding and its head have one tensor, which safetensors refuses to write twice."""
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.BertConfig(**sizes, num_attention_heads=1, max_position_embeddings=8)

    def bert(tracker):
        torch.manual_seed(0)
        data = [{"input_ids": torch.arange(4) + i, "labels": torch.arange(4)} for i in range(8)]
        args = arguments(tmp_path, num_train_epochs=1, eval_strategy="no")
        model = transformers.BertForMaskedLM(config)
        return transformers.Trainer(model, args, train_dataset=data, callbacks=[tracker])

    tracker = new(store)
    bert(tracker).train()
    model = tracker.run.last().load("model")
    found = bert(new(store))
    found.train()

    head, embedding = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    assert model[head].data_ptr() == model[embedding].data_ptr()
    assert all(torch.equal(model[name], value) for name, value in found.model.state_dict().items())


def test_the_temporary_folder_is_gone_once_it_is_read(store, tmp_path, monkeypatch):
    """A model is not kept twice for the length of a training."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    make_trainer(tmp_path, new(store), num_train_epochs=1).train()
    seen = []

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            seen.append(list((tmp_path / "temporary").glob("ckpt_tracker-*")))

    make_trainer(tmp_path, new(store), Look(), num_train_epochs=2).train()
    assert seen == [[]] * 5


def test_the_weights_of_the_checkpoint_are_not_kept_either(store, tmp_path):
    """Once the model has them."""
    make_trainer(tmp_path, new(store), num_train_epochs=1).train()
    seen = []

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            given = [each for each in gc.get_objects() if type(each) in (Resume, Folder)]
            seen.append([list(each.large) for each in given])

    make_trainer(tmp_path, new(store), Look(), num_train_epochs=2).train()
    assert seen == [[[]]] * 5


class Listing(transformers.Trainer):
    """Remembers what is in the folder that it continues from."""

    def train(self, resume_from_checkpoint=None, *args):
        self.found = {each.name for each in Path(resume_from_checkpoint).iterdir()} if resume_from_checkpoint else set()
        return super().train(resume_from_checkpoint, *args)


class Own(Listing):
    """Loads its model in a way of its own."""

    def _load_from_checkpoint(self, folder, model=None):
        self.model.load_state_dict(load_file(Path(folder) / "model.safetensors"))


@pytest.mark.parametrize("kind", [Listing, Own])
def test_what_is_large_is_not_written_to_be_read_again(store, tmp_path, kind):
    """Unless the Trainer is one that loads it in a way of its own; and the training is the same."""
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, new(store), Interrupt(1)).train()
    tracker = new(store)
    trainer = make_trainer(tmp_path, tracker, kind=kind)
    trainer.train()

    large = {"model.safetensors", "optimizer.pt", "scheduler.pt"}
    assert trainer.found & large == (large if kind is Own else set())
    assert {"trainer_state.json", "rng_state.pth"} <= trainer.found
    assert digests(tracker) == whole(tmp_path)


def test_a_missing_output_folder_does_not_matter(store, tmp_path):
    """The store alone is needed to continue."""
    make_trainer(tmp_path / "hf", new(store), num_train_epochs=1).train()
    shutil.rmtree(tmp_path / "hf", ignore_errors=True)
    tracker = new(store)
    make_trainer(tmp_path / "other", tracker, num_train_epochs=2).train()

    assert tracker.resumed_from.epoch == 0
