"""What of a Keras training goes into a checkpoint, comes back, or is refused."""

from __future__ import annotations

import os
import threading
import warnings

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402

from ckpt_tracker import Store  # noqa: E402
from ckpt_tracker.errors import CheckpointWarning, StateMismatch  # noqa: E402
from ckpt_tracker.integrations.keras import CheckpointTracker  # noqa: E402

# Keras reads its own variables in a way that NumPy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

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


# -- data ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("make", [np.arange, lambda n: list(range(n))])
def test_a_data_sets_shuffled_indices_are_restored(tmp_path, make):
    """A PyDataset's order lies in its attributes, as an array or as a list."""

    def run(folder, epochs):
        return train(folder, make_model(), epochs=epochs, data=Shuffled(indices=make(48)))

    whole, resumed = digests(tmp_path, run)
    assert resumed == whole


@pytest.mark.parametrize("seed", [None, 3])
def test_a_torch_data_loader_is_restored(tmp_path, seed):
    """Its order comes from torch's random state, or from a generator of its own."""
    torch = pytest.importorskip("torch")

    def loader():
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        samples = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
        return torch.utils.data.DataLoader(samples, batch_size=16, shuffle=True, generator=generator)

    def run(folder, epochs):
        return train(folder, make_model(), epochs=epochs, data=loader(), shuffle=False)

    whole, resumed = digests(tmp_path, run)
    assert resumed == whole


def test_an_order_that_is_not_kept_is_named(tmp_path):
    """Shuffled file names are the data themselves: the warning says what to do."""
    data = Shuffled(files=[str(each) for each in range(48)])
    with pytest.warns(CheckpointWarning, match=r"Shuffled\.\w+ changes from epoch to epoch"):
        train(tmp_path, make_model(), epochs=2, data=data)


def endless():
    """A generator, as older scripts have it."""
    while True:
        yield X[:16], Y[:16]


def pipeline(seed):
    """tf.data that shuffles anew in each pass, by a seed or by chance."""
    tensorflow = pytest.importorskip("tensorflow")
    tensorflow.random.set_seed(seed)
    return tensorflow.data.Dataset.from_tensor_slices((X, Y)).shuffle(48).batch(16)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (endless, {"steps_per_epoch": 2, "shuffle": False}, "generator"),
        (lambda: (X, Y), {"steps_per_epoch": 2}, "steps_per_epoch"),
        (lambda: pipeline(None), {"shuffle": False}, "without a seed"),
    ],
)
def test_data_whose_position_is_hidden_are_named_once(tmp_path, data, options, words):
    """One sentence when the training begins, with the remedy."""
    tracker = CheckpointTracker(tmp_path, "r")
    model = make_model()
    given = data()
    given = given if isinstance(given, tuple) else (given,)
    with pytest.warns(CheckpointWarning) as warned:
        model.fit(*given, callbacks=[tracker], verbose=0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        model.fit(*given, callbacks=[tracker], verbose=0, **options)
    messages = [str(each.message) for each in warned if each.category is CheckpointWarning]
    assert len([each for each in messages if words in each]) == 1


def test_ordinary_arrays_are_not_warned_about(tmp_path):
    """Their order comes from a random state that is kept."""
    train(tmp_path, make_model(), epochs=1)


def test_a_tf_data_pipeline_goes_on_shuffling_where_it_was(tmp_path):
    """Its order follows from the seed and from the number of passes, which is kept."""

    def run(folder, epochs):
        return train(folder, make_model(), epochs=epochs, data=pipeline(5), shuffle=False)

    whole, resumed = digests(tmp_path, run)
    assert resumed == whole


def test_a_tf_data_pipeline_of_another_seed_is_named(tmp_path):
    """The training goes on, in another order than without the interruption."""
    train(tmp_path, make_model(), epochs=1, data=pipeline(5), shuffle=False)
    with pytest.warns(CheckpointWarning, match="seed is another one"):
        train(tmp_path, make_model(), epochs=2, data=pipeline(6), shuffle=False)


def test_a_tf_data_pipeline_that_was_used_before_is_named(tmp_path):
    """What an interrupted cell has drawn from it can't be undone."""
    data = pipeline(5)
    train(tmp_path, make_model(), epochs=1, data=data, shuffle=False)
    train(tmp_path / "other", make_model(), epochs=1, data=data, shuffle=False)
    with pytest.warns(CheckpointWarning, match="was used before"):
        train(tmp_path, make_model(), epochs=2, data=data, shuffle=False)
