"""A PyTorch training that loses something when it is started again, for `ckpt verify-resume` to find.

Usage: resuming_torch.py [LOST]: generator, order, scheduler, optimizer, average, buffer or seed. Without it nothing is
lost.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from resuming_numpy import wait_for_the_kill
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ckpt_tracker.integrations.torch import CheckpointTracker

EPOCHS = 4
LOST = sys.argv[1] if len(sys.argv) > 1 else ""


RNG = np.random.default_rng(0)
# one that the data hold is found and kept by the tracker itself


class Noisy(Dataset):
    """Samples with noise from a generator of the script's."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        noise = RNG.normal(size=3).astype(np.float32)
        return torch.tensor([index / 24, *noise]), torch.tensor(index % 2)


class Centred(nn.Module):
    """Takes off a moving average, which is part of the module's state, or is not."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8), persistent=LOST != "buffer")

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


def main():
    """Trains, and hands everything over to the tracker but what is to be lost."""
    torch.set_num_threads(1)
    if LOST != "seed":
        torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), Centred(), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    average = torch.optim.swa_utils.AveragedModel(model)
    data = Noisy()
    loader = DataLoader(data, 6, shuffle=True, generator=torch.Generator().manual_seed(0))
    handed = {"optimizer": optimizer, "scheduler": scheduler, "ema": average, "extra": {"noise": RNG}}
    handed.pop({"generator": "extra", "average": "ema"}.get(LOST, LOST), None)
    with CheckpointTracker("checkpoints", "toy", model=model, **handed) as tracker:
        for epoch in tracker.epochs(EPOCHS):
            for batch, (x, y) in enumerate(loader if LOST == "order" else tracker.batches(loader)):
                if (epoch, batch) == (EPOCHS - 1, 2):
                    wait_for_the_kill()
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                average.update_parameters(model)
            scheduler.step()
            tracker.log(loss=loss)


if __name__ == "__main__":
    main()
