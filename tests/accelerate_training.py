"""A small loop with Accelerate, and a process that forks it: imported once, killed and started again many times.

Usage: one JSON object a line on standard input, each answered by one line: the exit status of a fork that ran the
training so described, or of each where there are several ranks, and what the first has to tell.
"""

from __future__ import annotations

import os
import random
import signal
import warnings

import numpy as np
import torch
import torch_data as data
import torch_training as plain
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, GradientAccumulationPlugin
from torch import nn
from torch.utils.data import DataLoader

from ckpt_tracker.integrations.accelerate import CheckpointTracker


class Seen:
    """Something that a script registers for checkpointing: what this process alone has seen."""

    def __init__(self):
        self.total = 0.0

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


def prepare(case, *, seed):
    """The accelerator, and all that it has prepared."""
    accelerator = Accelerator(
        cpu=True,
        mixed_precision=case.get("precision", "no"),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=case.get("accumulate", 1), sync_with_dataloader=case.get("sync", True)
        ),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=case.get("seedable", False)),
    )
    objects = plain.build({**case, "precision": None}, seed=seed)
    torch.manual_seed(seed), np.random.seed(seed + accelerator.process_index), random.seed(seed)
    samples, order = (data.Stream(), None) if case.get("data") == "stream" else (data.Noisy(), True)
    loader = DataLoader(samples, data.BATCH // 2, shuffle=order, num_workers=case.get("workers", 0))
    names = [name for name in ("model", "optimizer", "scheduler") if name in objects]
    *prepared, loader = accelerator.prepare(*(objects[name] for name in names), loader)
    return accelerator, {**objects, **dict(zip(names, prepared, strict=True))}, loader


class Loop:
    """One training."""

    def __init__(self, case, accelerator, objects, tracker):
        self.case, self.accelerator, self.objects, self.tracker = case, accelerator, objects, tracker
        self.seen = next(iter(accelerator._custom_objects))
        self.done = []

    def run(self, loader):
        """All epochs."""
        scheduler = self.objects["scheduler"]
        for epoch in self.tracker.epochs(self.case.get("epochs", plain.EPOCHS)):
            self.epoch, self.shift = epoch, torch.rand(()) + random.random()
            loss = self.train(loader)
            if self.case.get("scheduler") != "onecycle":
                scheduler.step(*([loss.item()] if self.case.get("scheduler") == "plateau" else []))
            self.tracker.log(loss=loss)

    def train(self, loader):
        """One epoch."""
        model, optimizer, accelerator = self.objects["model"], self.objects["optimizer"], self.accelerator
        model.train()
        loss = torch.zeros(())
        for index, (x, y) in enumerate(self.tracker.batches(loader)):
            self.happen(index)
            self.done.append([self.epoch, self.tracker.batch])
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    loss = nn.functional.cross_entropy(model(x + self.shift), y)
                accelerator.backward(loss)
                optimizer.step()
                if self.case.get("scheduler") == "onecycle":
                    self.objects["scheduler"].step()
                optimizer.zero_grad()
            self.seen.total += float(x.sum())
        return loss

    def happen(self, index):
        """What is to befall the training at this batch."""
        if self.case.get("kill") == [self.epoch, index]:
            plain.die(self.tracker)
        if self.case.get("signal") == [self.epoch, index] and plain.rank() == self.case.get("signalled", plain.rank()):
            os.kill(os.getpid(), signal.SIGTERM)


def fit(case):
    """Trains as the case says, and tells of it."""
    plain.spoil(case.get("spoil", ()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        accelerator, objects, loader = prepare(case, seed=case["seed"])
        accelerator.register_for_checkpointing(Seen())
        options = {"every": case.get("every", "1 epoch"), "keep": "last:99", "overlap": case.get("overlap", False)}
        tracker = CheckpointTracker(case["store"], "run", accelerator=accelerator, **objects, **options)
        with tracker:
            loop = Loop(case, accelerator, objects, tracker)
            loop.run(loader)
    return {"saved": plain.saved(tracker), "done": loop.done, "said": plain.said(caught)}


if __name__ == "__main__":
    plain.serve(fit)
