"""Data sets and loaders for the trainings of tests, of every kind that a tracker has to bring back to a position."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Sampler, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

LENGTH = 30
BATCH = 6


def noise():
    """Numbers from every random generator of the process, so that any slip in their states shows."""
    return [torch.rand(()).item(), np.random.rand(), random.random()]


def sample(index, drawn):
    """A sample, with what was drawn for it."""
    return torch.tensor([index / LENGTH, *drawn], dtype=torch.float32), torch.tensor(index % 2)


class Noisy(Dataset):
    """Samples that draw random numbers. After so many of them it fails, or somebody presses Ctrl-C."""

    def __init__(self, *, fail=None, interrupt=None):
        self.fail, self.interrupt = fail, interrupt

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        drawn = noise()
        if self.interrupt == 0:
            os.killpg(os.getpgrp(), signal.SIGINT)
            time.sleep(60)
        if self.fail == 0:
            raise OSError("the file can't be read")
        self.fail, self.interrupt = (None if each is None else each - 1 for each in (self.fail, self.interrupt))
        return sample(index, drawn)


class Still(Dataset):
    """Samples that draw nothing."""

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return sample(index, [0.1, 0.2, index % 7 / 7])


class Stream(IterableDataset):
    """The same samples without a length, in an order of its own, each worker its share of them."""

    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(step)).tolist()
        for index in order[first::step]:
            yield sample(index, noise())


class Own(Dataset):
    """Samples that draw from generators of the data set's own, of which transforms hold some."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.spread = random.Random(seed + 1)
        self.transforms = [self.shift, lambda x, held=None: x + closed.random()]
        closed = np.random.RandomState(seed + 2)

    def shift(self, x):
        """One transform."""
        return x + self.spread.random()

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        x, y = sample(index, self.generator.random(3))
        for transform in self.transforms:
            x = transform(x)
        return x, y


class Counting(Sampler):
    """Another order in each epoch, by a count of its own and a seed of its own."""

    def __init__(self, seed):
        self.seed = seed
        self.passes = 0

    def __len__(self):
        return LENGTH

    def __iter__(self):
        self.passes += 1
        return iter(np.random.default_rng([self.seed, self.passes]).permutation(LENGTH).tolist())


def batches():
    """A loader as some write it: a generator function."""
    for _ in range(LENGTH // BATCH):
        pairs = [sample(index, noise()) for index in random.sample(range(LENGTH), BATCH)]
        yield torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])


def load(case, *, seed):
    """What the training runs over, as a function of the epoch."""
    if case.get("data") == "function":
        return lambda epoch: batches()
    loader = make(case, seed=seed)

    def of_epoch(epoch):
        if isinstance(loader.sampler, DistributedSampler):
            loader.sampler.set_epoch(epoch)
        return loader

    return of_epoch


def make(case, *, seed):
    """The loader of that case."""
    order = torch.Generator().manual_seed(seed) if case.get("generator") else None
    options = {"batch_size": BATCH, "num_workers": case.get("workers", 0)}
    options |= {"persistent_workers": True} if case.get("persistent") else {}
    kind = case.get("data", "noisy")
    if kind == "stream":
        return DataLoader(Stream(), **options)
    if kind == "stateful":
        return StatefulDataLoader(Noisy(), shuffle=True, generator=order, **options)
    if kind == "own":
        return DataLoader(Own(seed), sampler=Counting(seed), **options)
    data = Still() if kind == "still" else Noisy(fail=case.get("fail"), interrupt=case.get("interrupt"))
    if distributed.is_initialized():
        return DataLoader(data, sampler=DistributedSampler(data), **{**options, "batch_size": BATCH // 2})
    return DataLoader(data, shuffle=True, generator=order, **options)


def validation():
    """A loader to validate with, in an order that a generator of its own gives."""
    return DataLoader(Noisy(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(7))
