"""Small Keras trainings for the tests that need no process of their own."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

from ckpt_tracker.integrations.keras import CheckpointTracker

X = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def make_model(*middle, units=4, optimizer=None):
    """A small network with `middle` in the middle."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), *middle, keras.layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def train(folder, model, *others, epochs, data=(X, Y), **options):
    """One call of fit with a new tracker of the run."""
    tracker = CheckpointTracker(folder, "r", **options.pop("tracker", {}))
    if isinstance(data, tuple):
        options.setdefault("batch_size", 16)
    model.fit(
        *(data if isinstance(data, tuple) else [data]),
        epochs=epochs,
        verbose=0,
        callbacks=[*others, tracker],
        **options,
    )
    return tracker


def fresh(seed):
    """As if a new process had begun."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    if "torch" in sys.modules:  # which Keras seeds only as its backend
        sys.modules["torch"].manual_seed(seed)


def digests(tmp_path, run):
    """The last digest of four epochs in one piece, and of two and two with another seed. `run(folder, epochs)`."""
    fresh(1)
    whole = run(tmp_path / "whole", 4)
    fresh(1)
    run(tmp_path / "cut", 2)
    fresh(2)
    resumed = run(tmp_path / "cut", 4)
    assert resumed.resumed_from.epoch == 1
    return whole.run.last().digest, resumed.run.last().digest


class Shuffled(keras.utils.PyDataset):
    """Shuffles what it is told to, after each epoch."""

    def __init__(self, **attributes):
        super().__init__()
        vars(self).update(attributes)
        self.order = next(iter(attributes.values()))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        chosen = [int(each) for each in self.order[12 * index : 12 * index + 12]]
        return X[chosen], Y[chosen]

    def on_epoch_end(self):
        np.random.shuffle(self.order)
