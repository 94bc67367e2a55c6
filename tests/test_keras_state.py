"""What of a Keras model and of its callbacks goes into a checkpoint, comes back, or is refused."""

from __future__ import annotations

import os
import threading

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras_models import Shuffled, X, digests, fresh, make_model, train  # noqa: E402

from ckpt_tracker import Store  # noqa: E402
from ckpt_tracker.errors import CheckpointWarning, StateMismatch  # noqa: E402

# Keras reads its own variables in a way that NumPy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


# -- model and optimizer -------------------------------------------------------------------------------------


def test_a_model_of_other_shapes_is_refused_and_left_as_it_was(tmp_path):
    """The error names the variables, with their shapes on both sides."""
    train(tmp_path, make_model(units=4), epochs=1)
    model = make_model(units=5)
    before = model.get_weights()
    with pytest.raises(StateMismatch) as caught:
        train(tmp_path, model, epochs=2)
    assert "(4, 4) float32" in str(caught.value)
    assert "(4, 5) float32" in str(caught.value)
    assert "r@v1" in str(caught.value)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_model_of_another_type_of_numbers_is_refused(tmp_path):
    """Rounding weights is not restoring them."""
    train(tmp_path, make_model(), epochs=1)
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = make_model()
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(StateMismatch, match="bfloat16"):
        train(tmp_path, model, epochs=2)


def test_another_optimizer_is_refused(tmp_path):
    """An optimizer's variables are part of the state, so they have to fit as well."""
    train(tmp_path, make_model(), epochs=1)
    with pytest.raises(StateMismatch, match="optimizer"):
        train(tmp_path, make_model(optimizer="adam"), epochs=2)


def test_a_checkpoint_of_another_framework_is_refused(tmp_path):
    """A run that something else wrote is named, with what it holds."""
    with Store(tmp_path) as store:
        store.run("r").save({"model": {"w": X}}, epoch=0)
    with pytest.raises(StateMismatch, match="not made by a Keras training"):
        train(tmp_path, make_model(), epochs=1)


def test_a_finished_training_with_averaged_weights_can_be_extended_exactly(tmp_path):
    """Keras overwrites the weights by their average when training ends; the checkpoint has the trained ones."""

    def run(folder, epochs):
        optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9)
        return train(folder, make_model(optimizer=optimizer), epochs=epochs)

    whole, resumed = digests(tmp_path, run)
    assert resumed == whole


class Twins(keras.Model):
    """Two layers, each with an optimizer of its own that Keras doesn't know of."""

    def __init__(self):
        super().__init__()
        self.left, self.right = keras.layers.Dense(1), keras.layers.Dense(1)
        self.left_optimizer = keras.optimizers.Adam(0.01)
        self.right_optimizer = keras.optimizers.SGD(0.01, momentum=0.9)

    def call(self, x):
        return self.left(x) - self.right(x)

    def train_step(self, data):
        x, y = data
        for layer, optimizer in (
            (self.left, self.left_optimizer),
            (self.right, self.right_optimizer),
        ):
            self.zero_grad()
            loss = keras.ops.mean((self(x) - y) ** 2)
            loss.backward()
            weights = layer.trainable_weights
            optimizer.apply([each.value.grad for each in weights], weights)
        return {"loss": float(loss.detach())}


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the train_step is torch's")
def test_optimizers_that_a_model_keeps_in_attributes_are_restored(tmp_path):
    """They are built for the same variables again, before the first batch would do it."""

    def run(folder, epochs):
        model = Twins()
        model.compile()
        return train(folder, model, epochs=epochs)

    whole, resumed = digests(tmp_path, run)
    assert resumed == whole
    assert set(Store(tmp_path / "cut")["r@last"].load("optimizers")) == {
        "left_optimizer",
        "right_optimizer",
    }


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only this backend wraps torch modules")
def test_buffers_of_a_wrapped_torch_module_are_restored(tmp_path):
    """Keras doesn't count the moments of torch's BatchNorm1d among its variables."""
    import torch

    def run(folder, epochs):
        model = make_model(keras.layers.TorchModuleWrapper(torch.nn.BatchNorm1d(4)))
        return train(folder, model, epochs=epochs)

    whole, resumed = digests(tmp_path, run)
    assert resumed == whole
    assert any(name.endswith("running_mean") for name in Store(tmp_path / "cut")["r@last"].load("model"))


def test_the_architecture_makes_the_same_model_again(tmp_path):
    """A checkpoint can be used without the script that trained it."""
    model = make_model(keras.layers.BatchNormalization())
    state = train(tmp_path, model, epochs=1).run.last().load()
    again = keras.models.model_from_json(state["architecture"]["json"])
    for variable, array in zip(again.variables, state["model"].values(), strict=True):
        variable.assign(array)
    assert np.array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


def test_an_architecture_that_holds_code_is_not_kept(tmp_path):
    """A Lambda layer would be marshalled bytecode, which nobody should load."""
    model = make_model(keras.layers.Lambda(lambda x: x * 2))
    assert train(tmp_path, model, epochs=1).run.last().load("architecture")["json"] is None


# -- other callbacks -----------------------------------------------------------------------------------------


class Keeper(keras.callbacks.Callback):
    """State of many kinds in plain attributes."""

    def __init__(self, rate, limit, log):
        super().__init__()
        self.rate = rate
        self.limit = limit
        self.log = log
        self.random = np.random.default_rng()
        self.best = {"loss": None, "at": ()}
        self.average = keras.Variable(0.0)

    def on_epoch_end(self, epoch, logs=None):
        self.rate *= 0.5
        self.best = {"loss": logs["loss"], "at": (epoch, float(self.random.normal()))}
        self.average.assign(0.5 * self.average + logs["loss"])
        self.log.append(float(keras.random.normal(()) if epoch else 0.0))


def test_attributes_of_other_callbacks_come_back(tmp_path):
    """Numbers, containers, random generators and variables; a list that the script holds too is filled in place."""
    log = []
    keeper = Keeper(1.0, 10, log)
    train(tmp_path, make_model(), keeper, epochs=2)
    kept, log = log, []
    again = Keeper(1.0, 10, log)
    train(tmp_path, make_model(), again, epochs=2)
    assert (again.rate, again.best) == (keeper.rate, keeper.best)
    assert again.log is log
    assert log == kept
    assert again.random.bit_generator.state == keeper.random.bit_generator.state
    assert again.average.numpy() == keeper.average.numpy()


def test_callbacks_that_wait_go_on_waiting(tmp_path):
    """ReduceLROnPlateau acts in the third epoch without progress, EarlyStopping in the fourth."""

    def run(folder, epochs):
        patient = {"monitor": "loss", "min_delta": 99}
        rate = keras.callbacks.ReduceLROnPlateau(patience=2, factor=0.5, **patient)
        return train(folder, make_model(), rate, keras.callbacks.EarlyStopping(patience=3, **patient), epochs=epochs)

    assert len(set(digests(tmp_path, run))) == 1


def test_an_argument_that_the_script_changed_is_not_undone(tmp_path):
    """Only what training changed is state: what a callback was made with is the script's."""
    train(tmp_path, make_model(), Keeper(1.0, 10, []), epochs=2)
    again = Keeper(1.0, 20, [])
    train(tmp_path, make_model(), again, epochs=2)
    assert (again.rate, again.limit) == (0.25, 20)


class Patient(keras.callbacks.EarlyStopping):
    """A callback of Keras, with a state of the user's own on top."""

    def __init__(self, **options):
        super().__init__("loss", restore_best_weights=True, **options)
        self.seen = 0

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.seen += 1


def test_a_class_that_derives_from_one_of_keras_continues_exactly(tmp_path):
    """Keras turns the sign of `min_delta` in its first epoch, in each process anew."""

    def run(folder, epochs):
        stopper = Patient(patience=9, min_delta=0.5)
        tracker = train(folder, make_model(), stopper, epochs=epochs)
        assert (stopper.seen, stopper.min_delta) == (epochs, -0.5)
        return tracker

    whole, resumed = digests(tmp_path, run)
    assert resumed == whole


class Clock(keras.callbacks.Callback):
    """Has what only its process knows."""

    def on_train_begin(self, logs=None):
        self.process = os.urandom(8)


def test_what_each_process_makes_anew_stays_out(tmp_path):
    """Times, paths and process numbers neither come back nor change the digest."""

    def run(folder, epochs):
        return train(folder, make_model(), Clock(), epochs=epochs)

    whole, resumed = digests(tmp_path, run)
    assert resumed == whole


class Untidy(keras.callbacks.Callback):
    """Keeps things that no checkpoint can hold, and one that it can."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.rule = lambda epoch: epoch
        self.samples = Shuffled(indices=np.arange(48))
        self.count = 0

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1


def test_what_cannot_be_stored_is_left_out_and_named_once(tmp_path):
    """The training goes on, the rest of the callback is kept, and code is passed over in silence."""
    with pytest.warns(CheckpointWarning, match=r"Untidy\.lock") as warned:
        tracker = train(tmp_path, make_model(), Untidy(), epochs=3)
    messages = [str(each.message) for each in warned if each.category is CheckpointWarning]
    assert len(messages) == 1
    assert "rule" not in messages[0]
    assert tracker.run.last().load("callbacks")["Untidy"] == {"count": 3}


def test_callbacks_of_the_same_class_keep_apart(tmp_path):
    """Each gets its own state back, in the order of the list."""

    def stoppers():
        return [keras.callbacks.EarlyStopping("loss", patience=9, baseline=each) for each in (0, 99)]

    first = stoppers()
    train(tmp_path, make_model(), *first, epochs=2)
    again = stoppers()
    train(tmp_path, make_model(), *again, epochs=2)
    assert [each.wait for each in again] == [each.wait for each in first] == [2, 0]


def test_a_watched_callback_keeps_its_state_too(tmp_path):
    """`watch` is for callbacks that other callbacks hold."""
    watched = Untidy()
    del watched.lock
    outer = keras.callbacks.LambdaCallback(on_epoch_end=watched.on_epoch_end)
    train(tmp_path, make_model(), outer, epochs=2, tracker={"watch": [watched]})
    again = Untidy()
    del again.lock
    train(tmp_path, make_model(), epochs=2, tracker={"watch": [again]})
    assert again.count == 2


def test_random_numbers_of_keras_continue(tmp_path):
    """The generator behind `keras.random` belongs to no model, and is restored all the same."""

    def run(folder, epochs):
        return train(folder, make_model(), Keeper(1.0, 10, []), epochs=epochs)

    def draws(folder):
        return Store(folder)["r@last"].load("callbacks")["Keeper"]["log"]

    fresh(1)
    run(tmp_path / "whole", 4)
    fresh(1)
    run(tmp_path / "cut", 2)
    fresh(2)
    run(tmp_path / "cut", 4)
    assert draws(tmp_path / "cut") == draws(tmp_path / "whole")
