"""What the tests of the Lightning tracker share."""

import lightning.pytorch as lightning
import pytest
from lightning.pytorch.callbacks import Callback
from lightning_training import QUIET

from ckpt_tracker import Store
from ckpt_tracker.integrations.lightning import CheckpointTracker

HARMLESS = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
"""Warnings of Lightning's own about trainings as small as these."""


def make_tracker(**options):
    """A tracker that keeps everything."""
    return CheckpointTracker("store", "run", **{"monitor": "val_loss", "mode": "min", "keep": "last:99", **options})


def make_trainer(*callbacks, **options):
    """A trainer that says nothing, for two epochs."""
    return lightning.Trainer(callbacks=list(callbacks), **{**QUIET, "max_epochs": 2, **options})


def saved(run="run"):
    """The epochs of a run's checkpoints, oldest first."""
    with Store("store", create=False) as store:
        return [each.epoch for each in store.run(run).checkpoints()]


class StopAt(Callback):
    """Raises at a batch of an epoch."""

    def __init__(self, epoch, error, *, batch=0):
        self.epoch, self.error, self.batch = epoch, error, batch

    def on_train_batch_start(self, trainer, module, batch, index):
        if (trainer.current_epoch, index) == (self.epoch, self.batch):
            raise self.error
