"""Habits of Keras users around `fit`: called twice, interrupted, stopped early, evaluated in between."""

from __future__ import annotations

import logging
import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402

from ckpt_tracker import Store  # noqa: E402
from ckpt_tracker.errors import CheckpointWarning  # noqa: E402
from ckpt_tracker.integrations.keras import CheckpointTracker  # noqa: E402

# Keras reads its own variables in a way that NumPy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def make_model(*, units=4, learning_rate=0.05):
    """A small network that draws random numbers."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9), "mse")
    return model


def train(model, tracker, *others, epochs=3, data=(X, Y), **options):
    """One call of fit."""
    options.setdefault("validation_data", (X, Y))
    return model.fit(*data, batch_size=16, epochs=epochs, callbacks=[tracker, *others], verbose=0, **options)


def weights(model):
    """All weights as one array."""
    return np.concatenate([each.ravel() for each in model.get_weights()])


def epochs_of(store, run="r"):
    """The epochs of a run's checkpoints, oldest first."""
    return [checkpoint.epoch for checkpoint in Store(store).run(run).checkpoints()]


class StopAt(keras.callbacks.Callback):
    """Interrupts the training in the middle of an epoch, as Ctrl-C does."""

    def __init__(self, epoch):
        super().__init__()
        self.at = epoch
        self.now = None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.at, 1):
            raise KeyboardInterrupt


def whole_run(folder, *, epochs, make=make_model, others=lambda: (), **options):
    """The digest of the last checkpoint, and the final weights, of a training without interruption."""
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    model = make()
    tracker = CheckpointTracker(folder, "r")
    train(model, tracker, *others(), epochs=epochs, **options)
    return tracker.run.last().digest, weights(model)


def test_every_epoch_leaves_a_checkpoint_with_the_metrics_of_that_epoch(tmp_path):
    """A checkpoint holds training and validation metrics, as `fit` returns them."""
    tracker = CheckpointTracker(tmp_path, "r", keep="last:9")
    history = train(make_model(), tracker)
    found = tracker.run.checkpoints()
    assert [(each.epoch, each.step) for each in found] == [(0, 3), (1, 6), (2, 9)]
    assert [each.metrics["val_loss"] for each in found] == history.history["val_loss"]
    assert [each.metrics["loss"] for each in found] == history.history["loss"]


def test_the_same_script_started_again_continues_and_returns_the_whole_history(tmp_path):
    """A new tracker of the run restores everything and begins at the next epoch."""
    digest, final = whole_run(tmp_path / "whole", epochs=4)
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    train(make_model(), CheckpointTracker(tmp_path / "cut", "r"), epochs=2)
    keras.utils.set_random_seed(2)
    keras.utils.clear_session()
    model, tracker = make_model(), CheckpointTracker(tmp_path / "cut", "r")
    history = train(model, tracker, epochs=4)
    assert tracker.resumed_from.epoch == 1
    assert history.epoch == [0, 1, 2, 3]
    assert np.array_equal(weights(model), final)
    assert tracker.run.last().digest == digest


@pytest.mark.parametrize("new_tracker", [True, False])
def test_an_interrupted_cell_run_again_continues_exactly(tmp_path, new_tracker):
    """After KeyboardInterrupt, the same process may call fit again, with the tracker or with a new one."""
    digest, final = whole_run(tmp_path / "whole", epochs=4)
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    model, tracker = make_model(), CheckpointTracker(tmp_path / "cut", "r")
    with pytest.raises(KeyboardInterrupt):
        train(model, tracker, StopAt(2), epochs=4)
    if new_tracker:
        model, tracker = make_model(), CheckpointTracker(tmp_path / "cut", "r")
    history = train(model, tracker, epochs=4)
    assert history.epoch == [0, 1, 2, 3]
    assert epochs_of(tmp_path / "cut") == [1, 2, 3]
    assert np.array_equal(weights(model), final)
    assert tracker.run.last().digest == digest


def test_fit_called_twice_goes_on_in_the_same_run(tmp_path):
    """The second fit restores nothing, and adds its epochs to the run."""
    model, tracker = make_model(), CheckpointTracker(tmp_path, "r", keep="last:9")
    train(model, tracker, epochs=2)
    history = train(model, tracker, epochs=4, initial_epoch=2)
    assert history.epoch == [2, 3]
    assert epochs_of(tmp_path) == [0, 1, 2, 3]


def test_a_later_fit_without_the_tracker_is_left_alone(tmp_path):
    """Keras' own counter of epochs is as before once the training has begun."""
    train(make_model(), CheckpointTracker(tmp_path, "r"), epochs=2)
    model = make_model()
    train(model, CheckpointTracker(tmp_path, "r"), epochs=3)
    assert model.fit(X, Y, epochs=2, verbose=0).epoch == [0, 1]


class FirstLoss(keras.callbacks.Callback):
    """Notes something once, and never again."""

    noted = None

    def on_epoch_end(self, epoch, logs=None):
        if self.noted is None:
            self.noted = logs["loss"]


def two_phases(folder, *, stop_at=None, keep=None):
    """A frozen first phase and a second one with everything trained, as transfer learning does it."""
    model, tracker, note = make_model(), CheckpointTracker(folder, "r", keep=keep), FirstLoss()
    model.layers[0].trainable = False
    model.compile("adam", "mse")
    first = train(model, tracker, note, epochs=2)
    model.layers[0].trainable = True
    model.compile("rmsprop", "mse")
    second = train(model, tracker, note, *([] if stop_at is None else [StopAt(stop_at)]), epochs=5)
    return model, tracker, (first, second)


@pytest.mark.parametrize("keep", ["last:1", "last:9"])
def test_a_script_of_two_fits_stopped_in_the_second_passes_over_the_first(tmp_path, keep):
    """Started again, the first fit trains nothing and returns its history; the second continues exactly."""
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    model, whole, histories = two_phases(tmp_path / "whole", keep=keep)
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    with pytest.raises(KeyboardInterrupt):
        two_phases(tmp_path / "cut", stop_at=4, keep=keep)
    keras.utils.set_random_seed(2)
    keras.utils.clear_session()
    again, tracker, returned = two_phases(tmp_path / "cut", keep=keep)
    assert [each.history for each in returned] == [each.history for each in histories]
    assert np.array_equal(weights(again), weights(model))
    assert tracker.run.last().digest == whole.run.last().digest


@pytest.mark.parametrize("compiled_anew", [True, False])
def test_a_second_fit_interrupted_in_its_first_epoch_begins_it_again(tmp_path, compiled_anew):
    """It starts from what the first fit left, and with its own optimizer."""

    def second(model, tracker, *others, compiled):
        if compiled:
            model.compile("adam", "mse")
        train(model, tracker, *others, epochs=2)

    finals = []
    for name, interrupts in (("whole", []), ("cut", [StopAt(0)])):
        keras.utils.set_random_seed(1)
        keras.utils.clear_session()
        model, tracker = make_model(), CheckpointTracker(tmp_path / name, "r")
        train(model, tracker, epochs=2)
        if interrupts:
            with pytest.raises(KeyboardInterrupt):
                second(model, tracker, *interrupts, compiled=compiled_anew)
        second(model, tracker, compiled=compiled_anew)
        finals.append(weights(model))
    assert np.array_equal(*finals)


def test_a_finished_training_started_again_trains_nothing_and_says_so(tmp_path, caplog):
    """The model has the final weights, and no checkpoint is added."""
    model = make_model()
    train(model, CheckpointTracker(tmp_path, "r"), epochs=2)
    again = make_model()
    with caplog.at_level(logging.WARNING, "ckpt_tracker"):
        history = train(again, CheckpointTracker(tmp_path, "r"), epochs=2)
    assert "nothing is trained" in caplog.text
    assert history.epoch == [0, 1]
    assert epochs_of(tmp_path) == [0, 1]
    assert np.array_equal(weights(again), weights(model))


def test_backup_and_restore_of_keras_beside_the_tracker_changes_nothing(tmp_path):
    """It loads its own file after the tracker has had its turn, and has another epoch in it."""

    def callbacks(name):
        return [keras.callbacks.BackupAndRestore(tmp_path / name, delete_checkpoint=False)]

    digest, final = whole_run(tmp_path / "whole", epochs=4, others=lambda: callbacks("a"))
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    with pytest.raises(KeyboardInterrupt):
        train(make_model(), CheckpointTracker(tmp_path / "cut", "r"), *callbacks("b"), StopAt(2), epochs=4)
    keras.utils.clear_session()
    model, tracker = make_model(), CheckpointTracker(tmp_path / "cut", "r", resume="r@epoch:0")
    train(model, tracker, *callbacks("b"), epochs=4)
    assert np.array_equal(weights(model), final)
    assert tracker.run.last().digest == digest


def stopping():
    """Callbacks that end the training after its second epoch, and put the first one's weights back."""
    return [keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True, min_delta=9)]


@pytest.mark.parametrize("position", [0, 1])
def test_early_stopping_ends_with_the_last_epochs_own_weights_in_the_checkpoint(tmp_path, position):
    """`restore_best_weights` changes the model, not the checkpoint, wherever the tracker stands."""
    model, tracker, seen = make_model(), CheckpointTracker(tmp_path, "r"), []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(weights(model)))
    callbacks = [*stopping(), look]
    callbacks.insert(2 * position, tracker)
    model.fit(X, Y, epochs=9, callbacks=callbacks, verbose=0)
    last = tracker.run.last()
    assert last.epoch == len(seen) - 1 < 8
    assert np.array_equal(next(iter(last.load("model").values())).ravel(), seen[-1][:16])
    assert np.array_equal(weights(model), seen[0])


def test_an_early_stopped_training_started_again_trains_nothing(tmp_path):
    """It ends with the same best weights, and with no more checkpoints."""
    model = make_model()
    train(model, CheckpointTracker(tmp_path, "r"), *stopping(), epochs=9)
    before = epochs_of(tmp_path)
    again = make_model()
    train(again, CheckpointTracker(tmp_path, "r"), *stopping(), epochs=9)
    assert epochs_of(tmp_path) == before
    assert np.array_equal(weights(again), weights(model))


def test_a_named_checkpoint_is_trained_on_from_although_a_callback_had_stopped_there(tmp_path):
    """`resume="r@last"` asks for more, where "auto" only repeats what happened."""
    train(make_model(), CheckpointTracker(tmp_path, "r"), *stopping(), epochs=9)
    before = epochs_of(tmp_path)[-1]
    train(make_model(), CheckpointTracker(tmp_path, "r", resume="r@last"), epochs=before + 2)
    assert epochs_of(tmp_path)[-1] == before + 1


def test_validation_in_every_second_epoch_leaves_checkpoints_of_all(tmp_path):
    """A missing monitored metric is warned about once, and ends nothing."""
    tracker = CheckpointTracker(tmp_path, "r", monitor="val_loss", mode="min", keep="last:9")
    with pytest.warns(CheckpointWarning, match="val_loss") as warned:
        train(make_model(), tracker, epochs=4, validation_freq=2)
    assert len([each for each in warned if each.category is CheckpointWarning]) == 1
    assert ["val_loss" in each.metrics for each in tracker.run.checkpoints()] == [False, True] * 2


def test_evaluate_and_predict_with_the_tracker_save_nothing(tmp_path):
    """Only `fit` trains."""
    model, tracker = make_model(), CheckpointTracker(tmp_path, "r")
    train(model, tracker, epochs=1)
    model.evaluate(X, Y, callbacks=[tracker], verbose=0)
    model.predict(X, callbacks=[tracker], verbose=0)
    assert epochs_of(tmp_path) == [0]


def test_the_last_epoch_is_saved_although_no_trigger_is_due(tmp_path):
    """Rare triggers don't lose the end of a training."""
    tracker = CheckpointTracker(tmp_path, "r", every="2 epochs", keep="last:9")
    train(make_model(), tracker, epochs=5)
    assert epochs_of(tmp_path) == [1, 3, 4]


def test_steps_are_looked_at_between_batches(tmp_path):
    """What a step trigger saves inside an epoch has no metrics, and the epoch before as its own."""
    tracker = CheckpointTracker(tmp_path, "r", every="4 steps", keep="last:9")
    train(make_model(), tracker, epochs=3)
    assert [(each.epoch, each.step, bool(each.metrics)) for each in tracker.run.checkpoints()] == [
        (0, 4, False),
        (1, 8, False),
        (2, 9, True),
    ]
