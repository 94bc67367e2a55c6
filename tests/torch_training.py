"""A small hand-written PyTorch loop, and a process that forks it: imported once, killed and started again many times.

Usage: one JSON object a line on standard input, each answered by one line: the exit status of a fork that ran the
training so described, or of each where there are several ranks, and what the first has to tell.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import tempfile
import warnings

import numpy as np
import torch
import torch_data as data
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ckpt_tracker import Checkpoint
from ckpt_tracker.errors import CheckpointWarning
from ckpt_tracker.integrations.torch import CheckpointTracker
from ckpt_tracker.state import overlap

EPOCHS = 3


class Shaking(nn.Module):
    """Noise from a generator that no state dict has."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, x):
        return x + 0.1 * torch.rand(x.shape, generator=self.generator) if self.training else x


def schedule(name, optimizer):
    """The scheduler of that name."""
    if name == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    if name == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=100)
    if name == "swa":
        return torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.02, anneal_epochs=2)
    if name == "steps":
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)


def build(case, *, seed):
    """Everything that the tracker is given."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)]
    model = nn.Sequential(*layers, *([Shaking(seed)] if case.get("shaking") else []))
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    objects = {"model": model, "optimizer": optimizer, "scheduler": schedule(case.get("scheduler"), optimizer)}
    if case.get("precision") == "scaler":
        objects["scaler"] = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=4)
    if case.get("average"):
        average = torch.optim.swa_utils
        rule = average.get_ema_multi_avg_fn(0.9) if case["average"] == "ema" else None
        objects["ema"] = average.AveragedModel(model, multi_avg_fn=rule, use_buffers=case["average"] == "ema")
    return objects


class Loop:
    """One training: what happens at a batch, and in between."""

    def __init__(self, case, objects, tracker):
        self.case, self.objects, self.tracker = case, objects, tracker
        self.model = objects["model"]
        self.done = []

    def run(self, loader, other):
        """All epochs."""
        if distributed.is_initialized():
            self.model = DistributedDataParallel(self.model)
        for epoch in self.tracker.epochs(self.case.get("epochs", EPOCHS)):
            self.epoch, self.shift = epoch, torch.rand(()) + random.random()
            loss = self.train(loader(epoch))
            if other is not None:
                loss = self.validate(other)
            self.end(loss)
            self.tracker.log(loss=loss)

    def train(self, loader):
        """One epoch."""
        every = self.case.get("accumulate", 1)
        self.model.train()
        loss = torch.zeros(())
        for index, (x, y) in enumerate(self.tracker.batches(loader) if self.case.get("batches", True) else loader):
            self.happen(index)
            self.done.append([self.epoch, self.tracker.batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=self.case.get("precision") == "bf16"):
                loss = nn.functional.cross_entropy(self.model(x + self.shift), y)
            scaler = self.objects.get("scaler")
            (scaler.scale(loss / every) if scaler else loss / every).backward()
            if (index + 1) % every == 0:
                self.step(scaler)
        return loss

    def step(self, scaler):
        """An optimizer step, and what goes with it."""
        optimizer = self.objects["optimizer"]
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        optimizer.zero_grad()
        if self.case.get("average") == "ema":
            self.objects["ema"].update_parameters(self.objects["model"])
        if self.case.get("scheduler") == "onecycle":
            self.objects["scheduler"].step()

    def validate(self, loader):
        """The mean loss over another loader."""
        self.model.eval()
        losses = []
        for index, (x, y) in enumerate(self.tracker.batches(loader)):
            self.happen(f"validation {index}")
            with torch.no_grad():
                losses.append(nn.functional.cross_entropy(self.model(x), y))
        return torch.stack(losses).mean()

    def end(self, loss):
        """What comes after an epoch's batches."""
        if self.case.get("average") == "swa":
            self.objects["ema"].update_parameters(self.objects["model"])
        if self.case.get("scheduler") != "onecycle":
            self.objects["scheduler"].step(*([loss.item()] if self.case.get("scheduler") == "plateau" else []))

    def happen(self, moment):
        """What is to befall the training at this moment."""
        at = [self.epoch, moment]
        if self.case.get("halve") == at:
            with torch.no_grad():
                next(self.objects["model"].parameters()).mul_(0.5)
        if self.case.get("kill") == at:
            die(self.tracker)
        if self.case.get("signal", [])[:2] == at and rank() == self.case.get("signalled", rank()):
            os.kill(os.getpid(), getattr(signal, self.case["signal"][2]))
        if self.case.get("error") == at:
            raise ZeroDivisionError


def die(tracker):
    """SIGKILL. What was saved is durable: where the resumed training begins does not depend on chance."""
    if rank() == 0:
        tracker.run.writer().drain()
    if distributed.is_initialized():
        distributed.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def rank():
    """Which process this is of several."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def spoil(changes):
    """Lets checkpoints be found without some parts, or with zeros for them, as if they had not been captured."""
    load_whole = Checkpoint.load

    def load(self):
        state = load_whole(self)
        for what, *above, last in changes:
            part = state
            for name in above:
                part = part[name]
            value = part.pop(last)
            if what == "zero":
                part[last] = torch.zeros_like(value) if isinstance(value, torch.Tensor) else type(value)(0)
        return state

    Checkpoint.load = load


def fit(case):
    """Trains as the case says, and tells of it."""
    seed = case["seed"]
    spoil(case.get("spoil", ()))
    if case.get("ranks", 1) > 1:
        distributed.init_process_group("gloo")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        objects = build(case, seed=seed + rank())
        loader = data.load(case, seed=seed + rank())
        options = {"every": case.get("every", "1 epoch"), "keep": "last:99", "monitor": "loss", "mode": "min"}
        options["overlap"] = case.get("overlap", False)
        tracker = CheckpointTracker(case["store"], "run", **objects, **options)
        with tracker:
            loop = Loop(case, objects, tracker)
            loop.run(loader, data.validation() if case.get("validate") else None)
    return {"saved": saved(tracker), "done": loop.done, "said": said(caught)}


def said(caught):
    """What the tracker has told of."""
    return [str(each.message) for each in caught if each.category is CheckpointWarning]


def saved(tracker):
    """The digest of each checkpoint, by epoch, step, and batch or end."""
    if rank() > 0:
        return {}
    return {
        f"{each.epoch}:{each.step}:{each.context.get('batch', 'end')}": each.digest
        for each in tracker.run.checkpoints()
    }


def start(work, case, environment):
    """Starts `work` in a fork with a process group of its own; `finish` takes what this returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.environ.update(environment)
        os.setpgrp()
        status = 1
        try:
            os.write(writing, json.dumps(work(case)).encode())
            status = 0
        except SystemExit as leaving:
            status = leaving.code
        except (Exception, KeyboardInterrupt) as error:
            os.write(writing, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        finally:
            os._exit(status)
    os.close(writing)
    return child, reading


def finish(child, reading):
    """The exit status of a fork, negative for a signal, and what it told."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # workers that outlive it for a moment still hold the other end
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb") as answer:
        told = answer.read()
    return status, json.loads(told or "null")


def ranked(work, case):
    """Runs `work` in as many forks as there are ranks; returns their statuses and what the first tells."""
    count = case.get("ranks", 1)
    if count == 1:
        return finish(*start(work, case, {}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    environments = [{**common, "RANK": each, "LOCAL_RANK": each} for each in range(count)]
    texts = [{name: str(value) for name, value in each.items()} for each in environments]
    found = [finish(*forked) for forked in [start(work, case, each) for each in texts]]
    return [status for status, _ in found], found[0][1]


def serve(work):
    """Answers each line of standard input until it ends."""
    torch.set_num_threads(1)
    # the models here are small
    overlap.SMALL = 0
    with tempfile.TemporaryDirectory() as folder:
        # what is imported when it is first used is imported once, and not in every fork
        fit({"store": folder, "seed": 1, "epochs": 1, "precision": "scaler", "average": "ema", "data": "stateful"})
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(ranked(work, json.loads(line))), file=answers)


if __name__ == "__main__":
    serve(fit)
