"""A training script that kills itself: `python keras_train.py STORE SCENARIO`, the backend from KERAS_BACKEND.

SEED is the seed of everything, 0 for none; KILL="epoch,batch" is where it dies. Its last line is the epoch that it
continued from, and the digest of the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings

import keras
import numpy as np

from ckpt_tracker.errors import CheckpointWarning
from ckpt_tracker.integrations.keras import CheckpointTracker

warnings.simplefilter("error", CheckpointWarning)

STORE, SCENARIO = sys.argv[1:3]
KILL = tuple(map(int, os.environ["KILL"].split(","))) if "KILL" in os.environ else None
EPOCHS = 6
X = np.random.default_rng(0).normal(size=(72, 5)).astype("float32")
Y = (X.sum(axis=1, keepdims=True) > 0).astype("float32")


class Kill(keras.callbacks.Callback):
    """SIGKILL in the middle of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == KILL:
            os.kill(os.getpid(), signal.SIGKILL)


class Anneal(keras.callbacks.Callback):
    """Keeps its state in plain attributes: an argument that it changes, a list, a random generator, a model."""

    def __init__(self, rate, threshold):
        super().__init__()
        self.rate = rate
        self.threshold = threshold
        self.draws = []
        self.random = np.random.default_rng(int(os.environ["SEED"]))
        self.average = None

    def on_train_begin(self, logs=None):
        self.average = keras.models.clone_model(self.model)

    def on_epoch_end(self, epoch, logs=None):
        self.rate *= 0.9
        self.draws.append((epoch, float(self.random.normal())))
        pairs = zip(self.average.get_weights(), self.model.get_weights(), strict=True)
        self.average.set_weights([0.5 * a + 0.5 * b for a, b in pairs])


class Shuffled(keras.utils.PyDataset):
    """The usual data generator: it shuffles its indices in place, and adds noise to what it hands out."""

    def __init__(self, x, y, **options):
        super().__init__(**options)
        self.x, self.y = x, y
        self.indices = np.arange(len(x))
        self.random = np.random.default_rng(int(os.environ["SEED"]))

    def __len__(self):
        return len(self.x) // 12

    def __getitem__(self, index):
        chosen = self.indices[12 * index : 12 * index + 12]
        noise = self.random.normal(size=self.x[chosen].shape).astype("float32")
        return self.x[chosen] + 0.1 * noise, self.y[chosen]

    def on_epoch_end(self):
        np.random.shuffle(self.indices)


class Twins(keras.Model):
    """Two networks, each with an optimizer of its own, as adversarial trainings have them."""

    def __init__(self):
        super().__init__()
        self.left = keras.layers.Dense(3)
        self.right = keras.layers.Dense(3)
        self.left_optimizer = keras.optimizers.Adam(0.01)
        self.right_optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        self.noise = keras.random.SeedGenerator()
        self.distance = keras.metrics.Mean("distance")

    def call(self, x):
        return self.left(x) - self.right(x)

    def train_step(self, data):
        import tensorflow as tf

        x = data[0] + keras.random.normal((5,), seed=self.noise)
        for layer, optimizer in (
            (self.left, self.left_optimizer),
            (self.right, self.right_optimizer),
        ):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x) - 1.0) ** 2)
            weights = layer.trainable_weights
            optimizer.apply(tape.gradient(loss, weights), weights)
        self.distance.update_state(loss)
        return {"distance": self.distance.result()}


def network(*, unbuilt=False):
    """With batch statistics and dropout, which have states of their own."""
    layers = [
        keras.layers.Dense(8),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Dropout(0.4),
        keras.layers.Dense(1, activation="sigmoid", dtype="float32"),
    ]
    return keras.Sequential(layers if unbuilt else [keras.Input((5,)), *layers])


def arrays(tracker):
    """Arrays that fit shuffles; every callback of Keras that has a state; a rate that callbacks lower."""
    model = network()
    model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["accuracy"])
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.97),
        tracker,
        keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.5, min_delta=0.05),
        keras.callbacks.EarlyStopping(patience=4, restore_best_weights=True),
        Anneal(1.0, threshold=0.5),
        Kill(),
    ]
    return model.fit(*(X, Y), batch_size=12, epochs=EPOCHS, callbacks=callbacks, verbose=0, validation_data=(X, Y))


def dataset(tracker):
    """A PyDataset, a model that only its first batch builds, bfloat16, a schedule, averaged weights."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = network(unbuilt=True)
    rate = keras.optimizers.schedules.CosineDecay(0.03, 40)
    optimizer = keras.optimizers.AdamW(rate, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, "binary_crossentropy")
    callbacks = [Kill(), keras.callbacks.SwapEMAWeights(swap_on_epoch=True), tracker]
    data = Shuffled(X, Y)
    return model.fit(data, epochs=EPOCHS, callbacks=callbacks, verbose=0, validation_data=(X, Y))


def pipeline(tracker):
    """A tf.data pipeline, cached and shuffled anew in each epoch, whose validation part is of the same shuffle."""
    import tensorflow as tf

    samples = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(72).cache().shuffle(20)
    model = network()
    model.compile("adam", "binary_crossentropy")
    return model.fit(
        samples.skip(24).batch(12).prefetch(2),
        *(None, None),
        epochs=EPOCHS,
        callbacks=[Kill(), tracker],
        verbose=0,
        validation_data=samples.take(24).batch(12),
    )


def twins(tracker):
    """Optimizers that Keras doesn't know of, and that are built by the first batch."""
    model = Twins()
    model.compile()
    return model.fit(Shuffled(X, Y), epochs=EPOCHS, callbacks=[Kill(), tracker], verbose=0)


class Noisy(keras.Model):
    """Draws from tf.random in its training step, as older scripts do."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        import tensorflow as tf

        return super().train_step((data[0] + tf.random.normal((5,)), data[1]))


def noisy(tracker):
    """What can't be restored, and is said."""
    model = Noisy()
    model.compile("sgd", "mse")
    return model.fit(X, Y, epochs=EPOCHS, callbacks=[tracker], shuffle=False, verbose=0)


if int(os.environ["SEED"]):
    keras.utils.set_random_seed(int(os.environ["SEED"]))
made = CheckpointTracker(STORE, "run", keep="last:2")
scenarios = {each.__name__: each for each in (arrays, dataset, noisy, pipeline, twins)}
history = scenarios[SCENARIO](made)
assert history.epoch == list(range(EPOCHS))
print(made.resumed_from and made.resumed_from.epoch, made.run.last().digest)
