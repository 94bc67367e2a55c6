"""A small Lightning training, and a process that forks it: imported once, killed and started again many times.

Usage: lightning_training.py PACKAGE, then one JSON object a line on standard input, each answered by one line: the exit
status of a fork that ran the training so described, and the digests of its run's checkpoints. With a JSON object as the
second argument it runs that training itself, on as many ranks as that says, and the first one prints the digests.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import warnings

import numpy as np
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, Dataset

EPOCHS = 4
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Noisy(Dataset):
    """Samples that draw from every random generator, so that any slip in their states shows."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        noise = [torch.rand(()).item(), np.random.rand(), random.random()]
        return torch.tensor([index / 32, (index * 7 % 32) / 32, *noise]), torch.tensor(index % 2)


def schedule(name, optimizer):
    """What `configure_optimizers` returns for the scheduler of that name."""
    if name == "step":
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)]
    if name == "onecycle":
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=100)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]
    if name == "plateau":
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}
    return optimizer


def make_model(lightning, *, scheduler=None, kill=None, width=8):
    """A network with everything that a resume can lose: dropout, BatchNorm, metrics that are never emptied."""

    class Net(lightning.LightningModule):
        def __init__(self, width):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(
                nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 2)
            )
            self.seen = torchmetrics.MeanMetric()
            self.accuracy = torchmetrics.MeanMetric()

        def loss(self, batch):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def on_train_epoch_start(self):
            torch.rand(3)

        def training_step(self, batch, index):
            if kill == [self.current_epoch, index]:
                # what was saved is durable: where the resumed training begins does not depend on chance
                self.trainer.callbacks[-1].run.checkpoints()
                os.kill(os.getpid(), signal.SIGKILL)
            loss = self.loss(batch)
            self.seen.update(loss.detach())
            self.log("loss", loss, on_epoch=True)
            return loss

        def validation_step(self, batch, index):
            self.accuracy.update((self.net(batch[0]).argmax(1) == batch[1]).float())
            self.log("val_loss", self.loss(batch))
            self.log("val_accuracy", self.accuracy)

        test_step = validation_step

        def predict_step(self, batch, index):
            return self.net(batch[0])

        def configure_optimizers(self):
            return schedule(scheduler, torch.optim.Adam(self.parameters(), lr=0.02))

    return Net(width)


def loaders(*, workers=0, generator=None):
    """A shuffled loader to train with, and one to validate with, shuffled too where there is a generator."""
    train = DataLoader(Noisy(), 8, shuffle=True, num_workers=workers, generator=generator)
    order = torch.Generator().manual_seed(generator.initial_seed()) if generator else None
    return train, DataLoader(Noisy(), 8, shuffle=generator is not None, num_workers=workers, generator=order)


def fit(lightning, case):
    """Trains as the case says; returns the digest of each checkpoint, by epoch and step."""
    from ckpt_tracker.integrations.lightning import CheckpointTracker

    lightning.seed_everything(case["seed"] + int(os.environ.get("LOCAL_RANK", "0")), verbose=False)
    callbacks = importlib.import_module(f"{lightning.__name__}.callbacks")
    tracker = CheckpointTracker(
        case["store"],
        "run",
        monitor="val_loss",
        mode="min",
        every=case.get("every", "1 epoch"),
        keep="last:99",
    )
    used = [tracker, callbacks.EarlyStopping("val_loss", patience=50)]
    used += [getattr(callbacks, name)() for name in case.get("callbacks", ())]
    trainer = lightning.Trainer(callbacks=used, **QUIET, **{"max_epochs": EPOCHS, **case.get("trainer", {})})
    generator = torch.Generator().manual_seed(case["seed"]) if case.get("generator") else None
    model = make_model(lightning, scheduler=case.get("scheduler"), kill=case.get("kill"))
    trainer.fit(model, *loaders(workers=case.get("workers", 0), generator=generator))
    if not trainer.is_global_zero:
        sys.exit()
    return {f"{each.epoch}:{each.step}": each.digest for each in tracker.run.checkpoints()}


def forked(lightning, case):
    """Runs `fit` in a fork; returns its exit status, negative for a signal, and its digests."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            os.write(writing, json.dumps(fit(lightning, case)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        digests = answer.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(digests or "null")


def main():
    """Answers until standard input ends."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lightning = importlib.import_module(sys.argv[1])
    if len(sys.argv) > 2:
        print(json.dumps(fit(lightning, json.loads(sys.argv[2]))))
        return
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(forked(lightning, json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
