"""A hand-written PyTorch training, to be killed and started again by the tests.

Usage: torch_training.py STORE [--kill EPOCH:BATCH] [--every TRIGGER]... [--scheduler NAME] [--workers N] [--break-at E]
It prints the digest of the run's last checkpoint. Its seed comes from the environment, so that a restart has another.
"""

from __future__ import annotations

import argparse
import os
import random
import signal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ckpt_tracker.integrations.torch import CheckpointTracker

EPOCHS = 4


class Noisy(Dataset):
    """Samples that draw from every random generator, so that any slip in their states shows."""

    def __len__(self):
        return 30

    def __getitem__(self, index):
        noise = [torch.rand(()).item(), np.random.rand(), random.random()]
        return torch.tensor([index / 30, *noise]), torch.tensor(index % 2)


def schedule(name, optimizer):
    """The scheduler of that name."""
    if name == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    if name == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=EPOCHS * 5)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)


def main():
    """Trains, as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--kill")
    parser.add_argument("--every", action="append")
    parser.add_argument("--scheduler", default="cosine")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
    seed = int(os.environ.get("SEED", "1"))
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = schedule(options.scheduler, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    average = torch.optim.swa_utils.AveragedModel(model)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(Noisy(), 6, shuffle=True, num_workers=options.workers, generator=order)
    tracker = CheckpointTracker(
        *(options.store, "training"),
        **{"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": average},
        **{"monitor": "loss", "mode": "min", "every": options.every or "1 epoch"},
    )
    with tracker:
        for epoch in tracker.epochs(EPOCHS):
            for batch, (x, y) in enumerate(tracker.batches(loader)):
                if options.kill == f"{epoch}:{batch}":
                    tracker.run.writer().drain()
                    os.kill(os.getpid(), signal.SIGKILL)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                average.update_parameters(model)
                if options.scheduler == "onecycle":
                    scheduler.step()
            if options.scheduler != "onecycle":
                scheduler.step(*([loss.item()] if options.scheduler == "plateau" else []))
            tracker.log(loss=loss)
    last = tracker.run.last()
    print(last.epoch, last.step, last.digest)


if __name__ == "__main__":
    main()
