"""A training with the Trainer of Hugging Face Transformers, to be killed and started again by the tests.

Usage: transformers_training.py, with one JSON object a line on its standard input, each a training that runs in a fork:
{"store": PATH, "seed": N, "kill": [EPOCH, STEP, TRAINING] or null, "times": TRAININGS, "early": [PATIENCE, THRESHOLD],
"args": {TrainingArguments}, "tracker": {its keywords}, "noisy": whether data draw random numbers, "by_folder": true}.
It answers each with a line, [exit status, {"version epoch:step": digest}] with all checkpoints of the run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import warnings

import numpy as np
import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from ckpt_tracker import Store
from ckpt_tracker.integrations.transformers import CheckpointTracker

EPOCHS = 4


class Rows(torch.utils.data.Dataset):
    """Samples in memory; noisy ones draw from every random generator, so that any slip in their states shows."""

    def __init__(self, count, *, noisy=False):
        self.count = count
        self.noisy = noisy

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        noise = [torch.rand(()).item(), np.random.rand(), random.random()] if self.noisy else [0.1, 0.2, 0.3]
        return {"x": torch.tensor([index / self.count, *noise]), "labels": torch.tensor(index % 2)}


class Net(nn.Module):
    """With dropout and buffers, so that random states and buffers matter."""

    main_input_name = "x"

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))

    def forward(self, x, labels=None):
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    def num_parameters(self, **_):
        """From it the Trainer reckons its floating point operations."""
        return 2


class Kill(TrainerCallback):
    """Kills the process before a step of an epoch of a training, once what was saved is durable."""

    def __init__(self, tracker, epoch, step, training=0):
        self.tracker, self.at = tracker, (training, epoch, step)
        self.training = self.epoch = self.step = -1

    def on_train_begin(self, args, state, control, **_):
        self.training += 1

    def on_epoch_begin(self, args, state, control, **_):
        self.epoch, self.step = int(state.epoch), -1

    def on_step_begin(self, args, state, control, **_):
        self.step += 1
        if (self.training, self.epoch, self.step) == self.at:
            self.tracker.run.writer().drain()
            os.kill(os.getpid(), signal.SIGKILL)


class Draw(TrainerCallback):
    """Draws a random number as an epoch begins."""

    def on_epoch_begin(self, args, state, control, **_):
        torch.rand(())


def arguments(folder, **more):
    """TrainingArguments of a small training on the CPU."""
    given = {
        **{"output_dir": folder, "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"},
        **{"num_train_epochs": EPOCHS, "per_device_train_batch_size": 6, "learning_rate": 0.02, "seed": 3},
        **{"eval_strategy": "epoch", "logging_steps": 2, "dataloader_pin_memory": False},
    }
    return TrainingArguments(**{**given, **more})


def make_trainer(folder, tracker, *more, noisy=False, model=None, **args):
    """A Trainer of a small model, with the tracker among its callbacks."""
    torch.manual_seed(0)
    return Trainer(
        model or Net(),
        arguments(folder, **args),
        train_dataset=Rows(30, noisy=noisy),
        eval_dataset=Rows(12),
        callbacks=[*([tracker] if tracker else []), *more],
    )


def new(store, **options):
    """A tracker of the run "r" that keeps all."""
    return CheckpointTracker(store, "r", **{"keep": "last:99", **options})


def digests(tracker):
    """Of all the run's checkpoints."""
    return [each.digest for each in tracker.run.checkpoints()]


def seeded(seed):
    """Sets every seed of the process, as the environment of a restart would."""
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)


def train(case):
    """The training of one case, to its end or its death."""
    given = {"monitor": "eval_loss", "mode": "min", "keep": "last:99", **case.get("tracker", {})}
    tracker = CheckpointTracker(case["store"], "training", **given)
    more = [Draw()]
    if case.get("early"):
        more.append(EarlyStoppingCallback(*case["early"]))
    if case.get("kill"):
        more.append(Kill(tracker, *case["kill"]))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, tracker, *more, noisy=case.get("noisy", False), **case.get("args", {}))
        seeded(case["seed"])
        for _ in range(case.get("times", 1)):
            trainer.train(**({"resume_from_checkpoint": tracker.hf_dir("last")} if case.get("by_folder") else {}))


def in_a_fork(case):
    """The exit status of a training in a process of its own, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.dup2(2, 1)
    train(case)
    os._exit(0)


def main():
    """Answers cases until there are no more."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    for line in sys.stdin:
        case = json.loads(line)
        status = in_a_fork(case)
        with Store(case["store"]) as store:
            digests = {
                f"{each.version} {each.epoch}:{each.step}": each.digest for each in store.run("training").checkpoints()
            }
        print(json.dumps([status, digests]), flush=True)


if __name__ == "__main__":
    main()
