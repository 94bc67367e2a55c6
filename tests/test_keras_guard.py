"""What a Keras resume refuses, shows, or changes on purpose; and what a fit leaves behind when it is left."""

from __future__ import annotations

import logging
import os
import signal

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras_models import Shuffled, X, Y, make_model, train  # noqa: E402

from ckpt_tracker.errors import CheckpointWarning, InvalidOption, StateMismatch  # noqa: E402
from ckpt_tracker.integrations.keras import CheckpointTracker  # noqa: E402

# Keras reads its own variables in a way that NumPy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Fail(keras.callbacks.Callback):
    """Ends a training by an error of its own, before its third batch."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            raise ValueError("no more")


def stopped_inside(folder):
    """A run whose newest checkpoint was taken inside its first epoch."""
    with pytest.raises(ValueError, match="no more"):
        train(folder, make_model(), Fail(), epochs=2, tracker={"every": "1 step"})


def test_a_fit_that_an_error_ends_gives_the_run_and_the_signals_back(tmp_path):
    """Keras calls no callback on that way; another training can have the run at once."""
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    stopped_inside(tmp_path)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before
    assert train(tmp_path, make_model(), epochs=2).resumed_from.step == 2


def test_overlap_is_refused(tmp_path):
    """Not taken and forgotten: it would promise what Keras leaves no room for."""
    with pytest.raises(InvalidOption, match="overlap=True: Keras computes a step and changes the weights in one call"):
        CheckpointTracker(tmp_path, "run", overlap=True)


def test_other_data_inside_an_epoch_are_refused(tmp_path):
    """The error names what has changed, and the way out."""
    stopped_inside(tmp_path)
    with pytest.raises(StateMismatch, match=r"data\.batch_size: 16 before, 8 now(.|\n)*resume='never'"):
        train(tmp_path, make_model(), epochs=2, batch_size=8)


def test_other_data_at_an_epochs_end_are_shown(tmp_path, caplog):
    """The training goes on with them."""
    train(tmp_path, make_model(), epochs=1)
    with caplog.at_level(logging.WARNING, "ckpt_tracker"):
        tracker = train(tmp_path, make_model(), epochs=2, batch_size=8)
    assert "data.batch_size: 16 before, 8 now" in caplog.text
    assert tracker.run.last().context["data"]["length"] == len(X)


@pytest.mark.parametrize("name", ["lr", "learning_rate"])
def test_the_learning_rate_can_be_another_one_on_purpose(tmp_path, name):
    """It is set once everything is restored, and only where something is."""
    first, again = make_model(), make_model()
    train(tmp_path, first, epochs=1, tracker={"overrides": {name: 0.5}})
    train(tmp_path, again, epochs=2, tracker={"overrides": {name: 0.5}})
    assert [round(float(each.optimizer.learning_rate), 6) for each in (first, again)] == [0.05, 0.5]


def test_a_learning_rate_that_a_schedule_makes_is_not_overridden(tmp_path):
    """The schedule is the script's, and is to be changed there."""
    rate = keras.optimizers.schedules.CosineDecay(0.05, 10)
    train(tmp_path, make_model(optimizer=keras.optimizers.SGD(rate)), epochs=1)
    with pytest.raises(InvalidOption, match="comes from a schedule"):
        train(
            tmp_path,
            make_model(optimizer=keras.optimizers.SGD(rate)),
            epochs=2,
            tracker={"overrides": {"lr": 0.1}},
        )


def test_an_override_that_the_optimizer_does_not_have_is_refused(tmp_path):
    """The error says what there is."""
    train(tmp_path, make_model(), epochs=1)
    with pytest.raises(InvalidOption, match="learning_rate"):
        train(tmp_path, make_model(), epochs=2, tracker={"overrides": {"warmth": 1.0}})


class Drawing(Shuffled):
    """Draws from NumPy in each batch, which workers do in an order by chance."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + np.random.normal(), y


def test_workers_that_draw_are_named(tmp_path):
    """No two trainings are equal then; the remedy is said."""
    data = Drawing(order=np.arange(48))
    data.workers = 2
    with pytest.warns(CheckpointWarning, match=r"workers load the data.*numpy"):
        train(tmp_path, make_model(), epochs=1, data=data)


def test_workers_that_do_not_draw_are_not_warned_about(tmp_path):
    """What is random about their order comes from the main process."""
    data = Shuffled(order=np.arange(48))
    data.workers = 2
    train(tmp_path, make_model(), epochs=1, data=data)


def test_a_pipeline_that_draws_in_parallel_is_named(tmp_path):
    """Chance says which sample gets which number."""
    tensorflow = pytest.importorskip("tensorflow")
    tensorflow.random.set_seed(1)
    data = tensorflow.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    data = data.map(lambda x, y: (x + tensorflow.random.normal(()), y), num_parallel_calls=2)
    tracker = CheckpointTracker(tmp_path, "r")
    with pytest.warns(CheckpointWarning, match="several calls at a time"):
        make_model().fit(data, epochs=1, verbose=0, shuffle=False, callbacks=[tracker])
