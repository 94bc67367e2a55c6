"""What the tests of the PyTorch tracker build: small models, one optimizer step, whole trainings."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ckpt_tracker.integrations.torch import CheckpointTracker

torch.set_num_threads(1)


def parts(width=3, optimizer=torch.optim.SGD, **options):
    """A model and its optimizer."""
    model = nn.Linear(2, width)
    return {"model": model, "optimizer": optimizer(model.parameters(), **{"lr": 0.1, **options})}


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


def rows(count=12, batch_size=2, **options):
    """A loader of pairs of ones."""
    return DataLoader(TensorDataset(torch.ones(count, 2)), batch_size, **options)


def stop_at(store, batch, loader, *, objects=None, **options):
    """A training that stops inside its first epoch: with a checkpoint after each step, and an error in that batch."""
    objects = objects or parts()
    try:
        with CheckpointTracker(
            store, "run", every=["1 step", "1 epoch"], keep="last:99", **objects, **options
        ) as tracker:
            for _ in tracker.epochs(3):
                for index, _ in enumerate(tracker.batches(loader)):
                    if index == batch:
                        raise ZeroDivisionError
                    step(objects["model"], objects["optimizer"])
    except ZeroDivisionError:
        return objects
    raise AssertionError
