"""Keras' callbacks called by something else than its own `fit`: a loop of the user's own, or by hand."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras_models import X, Y, make_model  # noqa: E402

from ckpt_tracker import Store  # noqa: E402
from ckpt_tracker.errors import CheckpointWarning, StateMismatch  # noqa: E402
from ckpt_tracker.integrations.keras import CheckpointTracker  # noqa: E402

# Keras reads its own variables in a way that NumPy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def weights(model):
    """All weights as one array."""
    return np.concatenate([each.ravel() for each in model.get_weights()])


def epochs_of(store, run="r"):
    """The epochs of a run's checkpoints, oldest first."""
    return [checkpoint.epoch for checkpoint in Store(store).run(run).checkpoints()]


def own_loop(folder, *, epochs, first=0, stop_at=None):
    """A training loop of the user's own, with a list of callbacks, as Keras' documentation shows it."""
    model, tracker = make_model(), CheckpointTracker(folder, "r")
    callbacks = keras.callbacks.CallbackList([tracker], add_history=True, model=model, epochs=epochs)
    callbacks.on_train_begin()
    for epoch in range(first, epochs):
        callbacks.on_epoch_begin(epoch)
        order = np.random.permutation(len(X))
        for batch in range(3):
            if (epoch, batch) == (stop_at, 1):
                raise KeyboardInterrupt
            chosen = order[16 * batch : 16 * batch + 16]
            model.train_on_batch(X[chosen], Y[chosen])
        callbacks.on_epoch_end(epoch, model.evaluate(X, Y, verbose=0, return_dict=True))
    callbacks.on_train_end()
    return model, tracker


def test_a_loop_of_the_users_own_continues_exactly(tmp_path):
    """It begins at the epoch that the error of a wrong beginning names."""
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    model, whole = own_loop(tmp_path / "whole", epochs=4)
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    with pytest.raises(KeyboardInterrupt):
        own_loop(tmp_path / "cut", epochs=4, stop_at=2)
    with pytest.raises(StateMismatch, match="initial_epoch=2"):
        own_loop(tmp_path / "cut", epochs=4)
    again, tracker = own_loop(tmp_path / "cut", epochs=4, first=2)
    assert np.array_equal(weights(again), weights(model))
    assert tracker.run.last().digest == whole.run.last().digest


def test_a_tracker_that_is_called_by_hand_saves_each_epoch_when_the_next_one_begins(tmp_path):
    """Without a list of callbacks, only the next call says that an epoch's state is complete."""
    model, tracker = make_model(), CheckpointTracker(tmp_path, "r")
    tracker.set_model(model)
    tracker.on_train_begin()
    saved = []
    for epoch in range(2):
        tracker.on_epoch_begin(epoch)
        tracker.on_epoch_end(epoch, {"loss": 1.0})
        saved.append(len(tracker.run.checkpoints()))
    tracker.on_train_end({"loss": 1.0})
    assert saved == [0, 1]
    assert epochs_of(tmp_path) == [0, 1]


def test_other_callbacks_that_cannot_be_seen_are_asked_for(tmp_path):
    """Where Keras calls, but its list of callbacks is not found, the remedy is `watch`."""
    model, tracker = make_model(), CheckpointTracker(tmp_path, "r")
    tracker.set_model(model)
    tracker.set_params({"epochs": 1})
    with pytest.warns(CheckpointWarning, match="watch"):
        tracker.on_train_begin()
    tracker.close()
