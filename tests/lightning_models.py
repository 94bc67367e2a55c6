"""Lightning modules with everything that a resume can lose."""

from __future__ import annotations

import torch
import torchmetrics
from torch import nn


def schedule(name, optimizer):
    """What `configure_optimizers` returns for the scheduler of that name."""
    schedulers = torch.optim.lr_scheduler
    if name == "step":
        return [optimizer], [schedulers.StepLR(optimizer, 1, gamma=0.7)]
    if name == "cosine":
        return [optimizer], [schedulers.CosineAnnealingLR(optimizer, 4)]
    if name == "onecycle":
        cycle = schedulers.OneCycleLR(optimizer, max_lr=0.1, total_steps=100)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]
    if name in ("plateau", "drifting"):
        plateau = schedulers.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        metric = "val_loss" if name == "plateau" else "own"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": metric}}
    return optimizer


class Disturbed:
    """A module that says where it is, for something to happen there."""

    def point(self, where, index):
        """Nothing does, unless a test puts something in its place."""


def make_model(lightning, *, scheduler=None, width=8, sync=True):
    """A network with dropout, BatchNorm, and metrics that are never emptied."""

    class Net(Measured, lightning.LightningModule):
        def __init__(self, width):
            super().__init__()
            self.save_hyperparameters()
            self.build(width)
            self.sync = sync

        def configure_optimizers(self):
            return schedule(scheduler, torch.optim.Adam(self.parameters(), lr=0.02))

    return Net(width)


class Measured(Disturbed):
    """What the network does in each step."""

    def build(self, width):
        self.net = nn.Sequential(
            nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 2)
        )
        self.seen = torchmetrics.MeanMetric()
        self.accuracy = torchmetrics.MeanMetric()

    def loss(self, batch):
        if isinstance(batch, dict):
            return self.loss(batch["a"]) + self.loss(batch["b"])
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_epoch_start(self):
        torch.rand(3)

    def training_step(self, batch, index):
        self.point("train", index)
        loss = self.loss(batch)
        self.seen.update(loss.detach())
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        self.point("validation", index)
        self.accuracy.update((self.net(batch[0]).argmax(1) == batch[1]).float())
        self.log("val_loss", self.loss(batch), sync_dist=self.sync)
        self.log("val_accuracy", self.accuracy)
        # another learning rate on the second rank, so other weights from then on
        self.log("own", float(self.current_epoch if self.global_rank else -self.current_epoch))

    def test_step(self, batch, index):
        self.validation_step(batch, index)

    def on_validation_epoch_end(self):
        self.point("validation end", 0)

    def on_train_epoch_end(self):
        self.point("epoch end", 0)

    def predict_step(self, batch, index):
        return self.net(batch[0])


def make_gan(lightning):
    """Two networks, two optimizers with a scheduler each, stepped by hand: one after every third batch."""

    class Gan(Disturbed, lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.register_buffer("batches", torch.tensor(0))
            self.noise = torch.Generator().manual_seed(torch.initial_seed())
            self.generator = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))
            self.judge = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

        def loss(self, values, wanted):
            return nn.functional.binary_cross_entropy_with_logits(values, torch.full_like(values, wanted))

        def training_step(self, batch, index):
            self.point("train", index)
            generating, judging = self.optimizers()
            self.batches += 1
            made = self.generator(torch.randn(len(batch[0]), 3, generator=self.noise))
            for optimizer, loss in (
                (generating, lambda: self.loss(self.judge(made), 1.0)),
                (judging, lambda: self.loss(self.judge(batch[0]), 1.0) + self.loss(self.judge(made.detach()), 0.0)),
            ):
                self.toggle_optimizer(optimizer)
                value = loss()
                self.manual_backward(value)
                if optimizer is generating or self.batches % 3 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                self.untoggle_optimizer(optimizer)
            self.log("loss", value, on_epoch=True)

        def on_train_epoch_end(self):
            for each in self.lr_schedulers():
                each.step()

        def validation_step(self, batch, index):
            self.log("val_loss", self.loss(self.judge(batch[0]), 1.0))

        def configure_optimizers(self):
            both = [torch.optim.Adam(each.parameters(), lr=0.02) for each in (self.generator, self.judge)]
            return both, [torch.optim.lr_scheduler.StepLR(each, 1, gamma=0.7) for each in both]

    return Gan()
