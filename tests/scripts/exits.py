"""Trainings that end in every way there is, each in a fork of a process that has imported all frameworks.

It reads lines of JSON, [framework, store, end, file for what it writes], and answers each with the exit status. A fork
ends as a script does: it runs off the end of this file, through the interpreter's own exit.
"""

import json
import os
import signal
import sys
import warnings

os.environ["KERAS_BACKEND"] = "torch"
warnings.simplefilter("ignore")

import keras  # noqa: E402
import lightning.pytorch as lightning  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from ckpt_tracker.integrations.keras import CheckpointTracker as KerasTracker  # noqa: E402
from ckpt_tracker.integrations.lightning import CheckpointTracker as LightningTracker  # noqa: E402
from ckpt_tracker.integrations.torch import CheckpointTracker as TorchTracker  # noqa: E402

SIZE = 20_000
OPTIONS = {"keep": "last:9"}


def come_to(end):
    """Ends the training, as `end` says."""
    if end == "exit":
        sys.exit(3)
    if end == "error":
        raise ValueError("the training's own")
    if end == "ctrl-c":
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    if end == "sigterm":
        os.kill(os.getpid(), signal.SIGTERM)


def train_torch(store, end):
    """A hand-written loop."""
    model = torch.nn.Linear(2, SIZE)
    tracker = TorchTracker(store, "run", model=model, **OPTIONS)
    if end == "no with":
        for _ in tracker.epochs(3):
            torch.nn.init.normal_(model.weight)
        return
    with tracker:
        for epoch in tracker.epochs(3):
            for number in tracker.batches(range(4)):
                torch.nn.init.normal_(model.weight)
                if (epoch, number) == (2, 1):
                    come_to(end)


class Module(lightning.LightningModule):
    """One layer."""

    def __init__(self, end):
        super().__init__()
        self.layer, self.end = torch.nn.Linear(2, SIZE), end

    def training_step(self, batch, index):
        """Ends the training in its third epoch."""
        if (self.current_epoch, index) == (2, 1):
            come_to(self.end)
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        """Plain descent."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train_lightning(store, end):
    """A Trainer."""
    trainer = lightning.Trainer(
        max_epochs=3,
        callbacks=[LightningTracker(store, "run", **OPTIONS)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Module(end), torch.utils.data.DataLoader(torch.ones(4, 2)))


class Ending(keras.callbacks.Callback):
    """Ends the training in its third epoch."""

    def __init__(self, end):
        super().__init__()
        self.end, self.epoch = end, 0

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers which it is."""
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Inside an epoch."""
        if (self.epoch, batch) == (2, 1):
            come_to(self.end)


def train_keras(store, end):
    """A compiled model."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(SIZE)])
    model.compile("sgd", "mse")
    callbacks = [KerasTracker(store, "run", **OPTIONS), Ending(end)]
    model.fit(np.ones((4, 2)), np.ones((4, SIZE)), epochs=3, batch_size=1, verbose=0, callbacks=callbacks)


TRAININGS = {"torch": train_torch, "lightning": train_lightning, "keras": train_keras}

torch.set_num_threads(1)
# what Keras imports late, it imports once here
warm = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
warm.compile("sgd", "mse")
warm.fit(np.ones((2, 2)), np.ones((2, 2)), verbose=0)
answers = os.fdopen(os.dup(1), "w", buffering=1)
for line in sys.stdin:
    framework, store, end, output = json.loads(line)
    child = os.fork()
    if not child:
        written = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(written, 1)
        os.dup2(written, 2)
        TRAININGS[framework](store, end)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)
