"""Trainings with the Trainer of Hugging Face Transformers, to be killed and started again by the tests.

As a script it takes one JSON object a line on its standard input, each a training that runs in a fork of its own:
{"store": PATH, "seed": N, "stop": {"signal": NAME, "epoch": N, "step": N, "training": N, "rank": N, "evaluating":
whether in the evaluation after that step} or null, "ranks": PROCESSES, "times": TRAININGS, "args": {TrainingArguments},
"tracker": {its keywords}, "early": [PATIENCE, THRESHOLD], "noisy": whether data draw random numbers, "stream": whether
they are one, "scaler": whether gradients are scaled, "by_folder": whether `train` is given a folder}.
It answers each with a line: [exit status, [[epoch, step, reason, digest] of each checkpoint], hash of the last model].
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal as signals
import socket
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ckpt_tracker import Store
from ckpt_tracker.integrations.transformers import CheckpointTracker
from ckpt_tracker.state import overlap

EPOCHS = 4


class Rows(torch.utils.data.Dataset):
    """Samples in memory; noisy ones draw from every random generator, so that any slip in their states shows."""

    def __init__(self, count, *, noisy=False):
        self.count = count
        self.noisy = noisy
        self.own = np.random.default_rng(5)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        noise = [0.1, 0.2, 0.3]
        if self.noisy:
            noise = [torch.rand(()).item(), np.random.rand() + self.own.random(), random.random()]
        return {"x": torch.tensor([index / self.count, *noise]), "labels": torch.tensor(index % 2)}


class Stream(torch.utils.data.IterableDataset):
    """The same samples one after the other, in each epoch from another one on."""

    def __init__(self, count, *, noisy=False):
        self.rows, self.epoch = Rows(count, noisy=noisy), 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return (self.rows[(index + 7 * self.epoch) % len(self.rows)] for index in range(len(self.rows)))


class Net(nn.Module):
    """With dropout, a generator of its own and buffers, so that random states and buffers matter."""

    main_input_name = "x"

    def __init__(self):
        super().__init__()
        self.own = torch.Generator().manual_seed(5)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))

    def forward(self, x, labels=None):
        logits = self.layers(x + torch.rand(x.shape, generator=self.own) if self.training else x)
        return {"loss": nn.functional.cross_entropy(logits.float(), labels), "logits": logits}

    def num_parameters(self, **_):
        """From it the Trainer reckons its floating point operations."""
        return 2


class Stop(TrainerCallback):
    """Sends a signal to the process before a step of an epoch of a training, or in the evaluation that follows that
    many; SIGKILL once what was saved is durable.
    """

    def __init__(self, tracker, *, epoch, step, signal="SIGKILL", training=0, rank=None, evaluating=False):
        self.tracker, self.at = tracker, (training, epoch, step)
        self.signal, self.rank, self.evaluating = getattr(signals, signal), rank, evaluating
        self.training = self.epoch = self.step = -1

    def on_train_begin(self, args, state, control, **_):
        self.training += 1

    def on_epoch_begin(self, args, state, control, **_):
        # of a stream an epoch is less than one
        self.epoch, self.step = math.ceil(state.epoch), -1

    def on_step_begin(self, args, state, control, **_):
        self.step += 1
        if not self.evaluating:
            self.come(args, state)

    def on_prediction_step(self, args, state, control, **_):
        if self.evaluating and (self.training, self.epoch, self.step) == self.at:
            self.come(args, state)
            self.evaluating = False

    def come(self, args, state):
        if (self.training, self.epoch, self.step) == self.at and self.rank in (None, args.process_index):
            if self.signal == signals.SIGKILL and state.is_world_process_zero:
                self.tracker.run.writer().drain()
            signals.raise_signal(self.signal)


class Draw(TrainerCallback):
    """Draws random numbers as an epoch and as a step begins."""

    def on_epoch_begin(self, args, state, control, **_):
        torch.rand(())

    def on_step_begin(self, args, state, control, **_):
        torch.rand(())


def arguments(folder, kind=TrainingArguments, **more):
    """TrainingArguments of a small training on the CPU."""
    given = {
        **{"output_dir": folder, "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"},
        **{"num_train_epochs": EPOCHS, "per_device_train_batch_size": 6, "learning_rate": 0.02, "seed": 3},
        **{"eval_strategy": "epoch", "logging_steps": 2, "dataloader_pin_memory": False},
    }
    return kind(**{**given, **more})


def make_trainer(folder, tracker, *more, noisy=False, stream=False, model=None, kind=Trainer, **args):
    """A Trainer of a small model, with the tracker among its callbacks."""
    torch.manual_seed(0)
    of_arguments = Seq2SeqTrainingArguments if kind is Seq2SeqTrainer else TrainingArguments
    return kind(
        model or Net(),
        arguments(folder, of_arguments, **args),
        train_dataset=(Stream if stream else Rows)(30, noisy=noisy),
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
    """The training of one case, to its end or its death; the hash of its model then."""
    given = {"monitor": "eval_loss", "mode": "min", **case.get("tracker", {})}
    tracker = new(case["store"], **given)
    more = [Draw()]
    if case.get("early"):
        more.append(EarlyStoppingCallback(*case["early"]))
    if case.get("stop"):
        more.append(Stop(tracker, **case["stop"]))
    data = {name: case[name] for name in ("noisy", "stream") if name in case}
    trainer = make_trainer(f"{case['store']}-folder", tracker, *more, **data, **case.get("args", {}))
    if case.get("scaler"):
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
    seeded(case["seed"] + 10 * int(os.environ.get("RANK", "0")))
    for _ in range(case.get("times", 1)):
        trainer.train(**({"resume_from_checkpoint": tracker.hf_dir("last")} if case.get("by_folder") else {}))
    state = sorted(trainer.model.state_dict().items())
    return hashlib.sha256(b"".join(value.numpy().tobytes() for _, value in state)).hexdigest()


def in_a_fork(case, environment):
    """The process of a training of its own."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(2, 1)
        os.environ.update(environment)
        Path(f"{case['store']}-end").write_text(train(case))
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def in_forks(case):
    """The exit status of the first process of a training, negative for a signal."""
    ranks = case.get("ranks", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environments = [{**together, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    children = [in_a_fork(case, environment if ranks > 1 else {}) for environment in environments]
    first, *_ = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return first


def main():
    """Answers cases until there are no more."""
    torch.set_num_threads(1)
    # the models here are small
    overlap.SMALL = 0
    # else accelerate says that it sets it
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    for line in sys.stdin:
        case = json.loads(line)
        end = Path(f"{case['store']}-end")
        end.unlink(missing_ok=True)
        status = in_forks(case)
        with Store(case["store"]) as store:
            found = [(each.epoch, each.step, each.reason, each.digest) for each in store.run("r").checkpoints()]
        print(json.dumps([status, found, end.read_text() if end.exists() else None]), flush=True)


if __name__ == "__main__":
    main()
