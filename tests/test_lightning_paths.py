"""References given to a Lightning Trainer, and what the tracker refuses or leaves as it was."""

import os
import signal

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
)
from lightning_helpers import HARMLESS, make_tracker, make_trainer, saved
from lightning_training import loaders, make_model

from ckpt_tracker import Store
from ckpt_tracker.errors import CheckpointWarning, InvalidOption, StateMismatch, UnstorableLeaf
from ckpt_tracker.integrations.lightning import CheckpointTracker

pytestmark = HARMLESS


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    """Whatever is written by default is written here."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def test_a_path_given_to_fit_wins(tmp_path):
    """A file of Lightning's is restored, and the run goes on from that."""

    def fit(**options):
        tracker = make_tracker()
        files = ModelCheckpoint("files", filename="{epoch}", save_top_k=-1)
        make_trainer(tracker, files, max_epochs=3).fit(make_model(lightning), *loaders(), **options)
        return tracker

    fit()
    tracker = fit(ckpt_path="files/epoch=0.ckpt")

    assert saved() == [0, 1, 2, 1, 2]
    assert tracker.resumed_from is None


def test_a_reference_given_to_fit_wins():
    """Any checkpoint of the store can be named as a path."""
    make_trainer(make_tracker(), max_epochs=3).fit(make_model(lightning), *loaders())
    make_trainer(make_tracker(), max_epochs=3).fit(make_model(lightning), *loaders(), ckpt_path="ckpt://run@epoch:0")

    assert saved() == [0, 1, 2, 1, 2]


def test_the_path_can_be_asked_for(tmp_path):
    """`tracker.ckpt_path` is what the tracker restores by itself, for those who pass it."""
    assert make_tracker().ckpt_path is None
    make_trainer(make_tracker()).fit(make_model(lightning), *loaders())
    tracker = make_tracker()
    path = tracker.ckpt_path
    make_trainer(tracker, max_epochs=3).fit(make_model(lightning), *loaders(), ckpt_path=path)

    assert path == f"ckpt://{tmp_path}/store/run@v2"
    assert saved() == [0, 1, 2]


def test_a_lightning_that_restores_nothing_by_itself_is_noticed(monkeypatch):
    """The error names the way out, which is public, and works."""
    make_trainer(make_tracker()).fit(make_model(lightning), *loaders())
    connector = type(make_trainer()._checkpoint_connector)
    plain = connector.__init__

    def without(self, trainer):
        plain(self, trainer)
        del self._loaded_checkpoint

    monkeypatch.setattr(connector, "__init__", without)
    with pytest.raises(StateMismatch, match=r"ckpt_path=tracker\.ckpt_path"):
        make_trainer(make_tracker(), max_epochs=3).fit(make_model(lightning), *loaders())
    tracker = make_tracker()
    path = tracker.ckpt_path
    make_trainer(tracker, max_epochs=3).fit(make_model(lightning), *loaders(), ckpt_path=path)

    assert saved() == [0, 1, 2]


def test_the_state_of_a_datamodule_is_restored():
    """Its `state_dict` is part of the checkpoint."""

    class Data(lightning.LightningDataModule):
        counted = 0

        def train_dataloader(self):
            return loaders()[0]

        def val_dataloader(self):
            return loaders()[1]

        def state_dict(self):
            return {"counted": self.counted}

        def load_state_dict(self, state):
            self.counted = state["counted"]

    data = Data()
    data.counted = 41
    make_trainer(make_tracker()).fit(make_model(lightning), data)
    data.counted = 0
    make_trainer(make_tracker(), max_epochs=3).fit(make_model(lightning), data)

    assert data.counted == 41


def test_a_callback_state_without_a_form_is_refused():
    """The error names the leaf."""

    class Odd(Callback):
        def state_dict(self):
            return {"fn": print}

    with pytest.raises(UnstorableLeaf, match=r"callbacks\..*Odd\.fn"):
        make_trainer(make_tracker(), Odd()).fit(make_model(lightning), *loaders())


def test_a_hyperparameter_without_a_form_is_left_out():
    """A resumed training has it from its script: one warning says so, and the training goes on."""
    model = make_model(lightning)
    model.hparams["activation"] = torch.nn.ReLU
    with pytest.warns(CheckpointWarning, match="activation") as warned:
        make_trainer(make_tracker()).fit(model, *loaders())
    with Store("store") as store:
        kept = store["run@last"].load("hyperparameters")["hyper_parameters"]

    assert len([each for each in warned if each.category is CheckpointWarning]) == 1
    assert kept == {"width": 8}


def test_every_few_epochs_also_saves_the_last():
    """The end of a training is never lost."""
    make_trainer(make_tracker(every="2 epochs"), max_epochs=3).fit(make_model(lightning), *loaders())

    assert saved() == [1, 2]


def test_steps_need_a_loader_that_begins_again():
    """Where the position inside an epoch can't be kept, no such checkpoint is promised."""
    once = iter(loaders()[0])
    with pytest.raises(InvalidOption, match="is an iterator, which does not begin again"):
        make_trainer(make_tracker(every="2 steps")).fit(make_model(lightning), once, loaders()[1])


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")
def test_a_step_that_fetches_its_batches_is_saved_at_epochs_ends():
    """Where it has got to is known to it alone; a signal is answered when its epoch is over."""

    class Fetching(type(make_model(lightning))):
        def training_step(self, dataloader_iter):
            batch, index, _ = next(dataloader_iter)
            if index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return self.loss(batch)

    with pytest.raises(InvalidOption, match="fetches its batches itself"):
        make_trainer(make_tracker(every="2 steps")).fit(Fetching(8), *loaders())
    with pytest.raises(SystemExit):
        make_trainer(make_tracker()).fit(Fetching(8), *loaders())

    assert saved() == [0]


def test_a_trainer_takes_one_tracker():
    """Two would restore over each other."""
    two = [make_tracker(), CheckpointTracker("store", "other")]
    with pytest.raises(InvalidOption, match="one CheckpointTracker"):
        make_trainer(*two).fit(make_model(lightning), *loaders())


def test_a_run_of_another_framework_is_refused():
    """Its sections are named."""
    with Store("store") as store:
        store.run("run").save({"weights": {"w": 1.0}}, epoch=0)

    with pytest.raises(StateMismatch, match=r"not saved by the Lightning tracker.*weights"):
        make_trainer(make_tracker(), max_epochs=3).fit(make_model(lightning), *loaders())


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
def test_other_generators_than_before_are_refused():
    """Without its generator the order of the data would silently be another."""
    generator = torch.Generator().manual_seed(1)
    make_trainer(make_tracker()).fit(make_model(lightning), *loaders(generator=generator))

    with pytest.raises(StateMismatch, match=r"0\.sampler\.generator; now there are: none"):
        make_trainer(make_tracker(), max_epochs=3).fit(make_model(lightning), *loaders())


def test_the_trainer_is_left_as_it_was():
    """What the tracker puts among the callbacks is taken away again."""
    stopping = EarlyStopping("val_loss", patience=9)
    tracker = make_tracker()
    trainer = make_trainer(tracker, stopping)
    before = list(trainer.callbacks)
    trainer.fit(make_model(lightning), *loaders())

    assert trainer.callbacks == before


def test_a_checkpoint_inside_an_epoch_says_where_it_is():
    """Its epoch is the last finished one, and validation's metrics are there where it validated at that step."""
    tracker = make_tracker(every="1 step")
    make_trainer(tracker, val_check_interval=2).fit(make_model(lightning), *loaders())
    found = [(each.epoch, each.step, "val_loss" in each.metrics) for each in tracker.run.checkpoints()]

    assert found[:5] == [(None, 1, False), (None, 2, True), (None, 3, False), (0, 4, True), (0, 5, False)]


def test_a_users_own_path_to_the_store_is_refused():
    """What the tracker did not prepare would lack random states."""
    trainer = make_trainer(make_tracker())
    trainer.fit(make_model(lightning), *loaders())

    with pytest.raises(InvalidOption, match="the tracker alone saves"):
        trainer.save_checkpoint("ckpt://mine")


def test_a_reference_of_another_store_is_restored():
    """A path that names its store is read from there."""
    with Store("other") as other:
        tracker = CheckpointTracker(other.path, "first", keep="last:9")
        make_trainer(tracker).fit(make_model(lightning), *loaders())
    path = f"ckpt://{other.path}/first@epoch:0"
    make_trainer(make_tracker(), max_epochs=2).fit(make_model(lightning), *loaders(), ckpt_path=path)

    assert saved() == [1]


def test_a_branch_remembers_where_it_came_from():
    """Continuing from an older checkpoint records it as the parent of what follows."""
    make_trainer(make_tracker(), max_epochs=3).fit(make_model(lightning), *loaders())
    tracker = make_tracker()
    make_trainer(tracker, max_epochs=2).fit(make_model(lightning), *loaders(), ckpt_path="ckpt://run@v1")

    assert tracker.resumed_from.ref == "run@v1"
    assert [each.ref for each in tracker.run.last().parents] == ["run@v1"]


def test_sharded_strategies_are_refused():
    """They write past every checkpoint_io, so nothing of them would be in the store."""
    trainer = make_trainer(make_tracker())
    trainer.strategy.__class__ = type("FSDPStrategy", (type(trainer.strategy),), {})

    with pytest.raises(InvalidOption, match="FSDPStrategy writes sharded checkpoints"):
        trainer.fit(make_model(lightning), *loaders())


def test_another_number_of_processes_is_refused(monkeypatch):
    """Random states and data order belong to as many processes as there were."""
    make_trainer(make_tracker()).fit(make_model(lightning), *loaders())
    trainer = make_trainer(make_tracker(), max_epochs=3)
    monkeypatch.setattr(trainer.strategy, "world_size", 2)

    with pytest.raises(StateMismatch, match="world_size: 1 before, 2 now"):
        trainer.fit(make_model(lightning), *loaders())


def test_accumulated_gradients_are_waited_for():
    """They are in no state: a checkpoint that is due while they gather is taken after the optimizer's step."""
    tracker = make_tracker(every="0.00001 seconds")
    make_trainer(tracker, accumulate_grad_batches=2).fit(make_model(lightning), *loaders())

    assert [each.step for each in tracker.run.checkpoints()] == [1, 2, 3, 4]


def test_a_module_of_another_shape_is_shown_beside_the_checkpoint():
    """Both shapes are in the message, and the run can be written again afterwards."""

    class Wider(lightning.LightningModule):
        def __init__(self, width):
            super().__init__()
            self.net = torch.nn.Linear(4, width)

        def training_step(self, batch, index):
            return self.net(torch.ones(1, 4)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters())

    def fit(width):
        tracker = CheckpointTracker("store", "run")
        make_trainer(tracker, max_epochs=2).fit(Wider(width), loaders()[0])

    fit(3)
    with pytest.raises(StateMismatch, match=r"net\.weight: \[5, 4\] in the script, \[3, 4\] in the checkpoint"):
        fit(5)
    fit(3)

    assert saved() == [0, 1]
