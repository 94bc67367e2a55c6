"""The training of `ckpt demo`: a small CNN on scikit-learn's digits, as somebody might write it.

    python -m ckpt_tracker.cli.demo_training STORE RUN

It is started by `demo`, which reads what it prints, and kills it. The three lines with `tracker` are all that it
needs to go on where it stopped.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterable

import numpy
import torch
from click import echo
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ckpt_tracker.integrations.torch import CheckpointTracker

EPOCHS = 8
BATCH = 64
SEED = "CKPT_DEMO_SEED"

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def digits() -> tuple[TensorDataset, TensorDataset]:
    """For training and for validation: every fifth of the 1,797 images of 8 × 8."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    validation = torch.arange(len(y)) % 5 == 0
    return TensorDataset(x[~validation], y[~validation]), TensorDataset(x[validation], y[validation])


def seed_everything(seed: int) -> None:
    """Python's, NumPy's and torch's generators: all of them are in a checkpoint."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def make_model() -> nn.Module:
    """Two convolutions with BatchNorm, and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def evaluate(model: nn.Module, loader: Batches) -> dict[str, float]:
    """Loss and accuracy on the validation images."""
    model.eval()
    loss, right, count = 0.0, 0, 0
    with torch.no_grad():
        for x, y in loader:
            output = model(x)
            loss += nn.functional.cross_entropy(output, y, reduction="sum").item()
            right += int((output.argmax(1) == y).sum())
            count += len(y)
    return {"val_loss": loss / count, "val_acc": right / count}


def train(store: str, run: str) -> None:
    """Trains to the end, from where the run stopped."""
    seed_everything(int(os.environ.get(SEED, "0")))
    training, validation = digits()
    loader = DataLoader(training, batch_size=BATCH, shuffle=True)
    validation_loader = DataLoader(validation, batch_size=256)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    with CheckpointTracker(
        store,
        run,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        monitor="val_loss",
        mode="min",
        keep=f"last:{EPOCHS}",
        config={"lr": 3e-3, "batch_size": BATCH, "epochs": EPOCHS},
    ) as tracker:
        echo(f"resumed {tracker.resumed_from.ref if tracker.resumed_from else '-'}")
        for epoch in tracker.epochs(EPOCHS):
            model.train()
            for batch, (x, y) in enumerate(tracker.batches(loader)):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                echo(f"batch {epoch} {batch}")
            scheduler.step()
            metrics = evaluate(model, validation_loader)
            tracker.log(metrics)
            echo(f"epoch {epoch} {' '.join(f'{name}={value:.4f}' for name, value in metrics.items())}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(*sys.argv[1:3])
