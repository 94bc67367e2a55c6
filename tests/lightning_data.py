"""Data for the Lightning trainings of the tests, that draw from every random generator: any slip in a state shows."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

SAMPLES = 32


def sample(index):
    """One sample, with noise."""
    noise = [torch.rand(()).item(), np.random.rand(), random.random()]
    return torch.tensor([index / SAMPLES, (index * 7 % SAMPLES) / SAMPLES, *noise]), torch.tensor(index % 2)


class Noisy(Dataset):
    """Samples by index; the one asked for as number `breaks_at` can't be had."""

    def __init__(self, breaks_at=None):
        self.breaks_at = breaks_at
        self.asked = 0

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        self.asked += 1
        if self.asked == self.breaks_at:
            raise OSError("the disk is gone")
        return sample(index)


class Held(Noisy):
    """Samples with noise from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.own = np.random.default_rng(torch.initial_seed())

    def __getitem__(self, index):
        features, label = super().__getitem__(index)
        return features + float(self.own.random()), label


class Counting(Sampler):
    """Another order each time, by a count that nobody else keeps."""

    def __init__(self):
        self.passes = 0

    def __len__(self):
        return SAMPLES

    def __iter__(self):
        self.passes += 1
        return iter(torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(self.passes)).tolist())


class Silent(Noisy):
    """Samples without noise: how many random numbers are drawn does not depend on who loads them."""

    def __getitem__(self, index):
        return torch.full((5,), index / SAMPLES), torch.tensor(index % 2)


class Stream(IterableDataset):
    """Samples in an order of its own, without a length; one of all that are asked for can't be had."""

    def __init__(self, breaks_at=None):
        self.noisy = Noisy(breaks_at)

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        order = torch.randperm(SAMPLES, generator=None if worker is None else torch.Generator().manual_seed(1))
        mine = order if worker is None else order[worker.id :: worker.num_workers]
        return (self.noisy[int(index)] for index in mine)


class Stateful(IterableDataset):
    """A stream that goes on where its state says, in epochs of half of the samples."""

    def __init__(self):
        self.place = 0

    def __iter__(self):
        while True:
            self.place += 1
            yield sample((self.place * 5) % SAMPLES)
            if self.place % (SAMPLES // 2) == 0:
                return

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def loaders(kind="shuffled", *, workers=0, generator=None, breaks_at=None):
    """A loader to train with, and one to validate with, shuffled too where there is a generator."""
    order = torch.Generator().manual_seed(generator.initial_seed()) if generator else None
    validate = DataLoader(Noisy(), 8, shuffle=generator is not None, num_workers=workers, generator=order)
    if kind == "stream":
        return DataLoader(Stream(breaks_at), 8, num_workers=workers), validate
    if kind.startswith("stateful"):
        from torchdata.stateful_dataloader import StatefulDataLoader

        if kind == "stateful stream":
            return StatefulDataLoader(Stateful(), 4, num_workers=workers), validate
        return StatefulDataLoader(Noisy(), 8, shuffle=True, num_workers=workers, generator=generator), validate
    if kind == "held":
        return DataLoader(Held(), 8, sampler=Counting()), validate
    if kind == "lasting workers":
        return DataLoader(Silent(), 8, shuffle=True, num_workers=1, persistent_workers=True), validate
    if kind == "several":
        return {"a": DataLoader(Noisy(), 8, shuffle=True), "b": DataLoader(Noisy(), 16, shuffle=True)}, validate
    return DataLoader(Noisy(breaks_at), 8, shuffle=True, num_workers=workers, generator=generator), validate
