"""The trainings that are interrupted: each function makes one anew from a seed, and returns its `fit`."""

from __future__ import annotations

import random

import keras
import numpy as np
import torch

X = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
Y = (X.sum(axis=1, keepdims=True) > 0).astype("float32")


class Shuffled(keras.utils.PyDataset):
    """The usual data set: it shuffles its indices in place, and each batch draws from every random generator."""

    def __init__(self, seed, *, draws=True, **options):
        super().__init__(**options)
        self.indices = np.arange(len(X))
        self.random = np.random.default_rng(seed)
        self.draws = draws

    def __len__(self):
        return len(X) // 12

    def __getitem__(self, index):
        chosen = self.indices[12 * index : 12 * index + 12]
        x = X[chosen]
        if self.draws:
            x = x + 0.1 * self.random.normal(size=x.shape) + 0.1 * np.random.normal(size=x.shape)
            x = x + 0.1 * random.random() + 0.1 * torch.rand(()).item()
        return x.astype("float32"), Y[chosen]

    def on_epoch_end(self):
        np.random.shuffle(self.indices)


class Anneal(keras.callbacks.Callback):
    """Keeps its state in plain attributes: an argument that it changes, a list, a random generator, a model."""

    def __init__(self, rate, seed):
        super().__init__()
        self.rate = rate
        self.draws = []
        self.batches = 0
        self.random = np.random.default_rng(seed)
        self.average = None

    def on_train_begin(self, logs=None):
        self.average = keras.models.clone_model(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self.batches = 0
        self.draws.append((epoch, float(self.random.normal())))

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        np.random.normal()

    def on_epoch_end(self, epoch, logs=None):
        self.rate *= 0.9
        pairs = zip(self.average.get_weights(), self.model.get_weights(), strict=True)
        self.average.set_weights([0.5 * a + 0.5 * b for a, b in pairs])


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


def arrays(seed):
    """Arrays that fit shuffles; every callback of Keras that has a state; a rate that callbacks lower."""
    model = network()
    model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC()])
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.97),
        keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.5, min_delta=0.05),
        keras.callbacks.EarlyStopping(patience=4, restore_best_weights=True),
        Anneal(1.0, seed),
    ]
    return _fit(model, callbacks, X, Y, batch_size=12, validation_data=(X, Y))


def dataset(seed, **options):
    """A PyDataset, a model that only its first batch builds, bfloat16, a schedule, averaged weights."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = network(unbuilt=True)
    rate = keras.optimizers.schedules.CosineDecay(0.03, 40, warmup_target=0.05, warmup_steps=6)
    model.compile(
        keras.optimizers.AdamW(rate, use_ema=True, ema_momentum=0.9), "binary_crossentropy", metrics=["accuracy"]
    )
    data = Shuffled(seed, **options)
    return _fit(model, [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)], data, validation_data=(X, Y))


def scaled(seed):
    """float16, whose scaling of the loss has counters; gradients of two batches to a step; two batches at a time."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = network()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, gradient_accumulation_steps=2)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**24, dynamic_growth_steps=3)
    at_a_time = 1 if keras.backend.backend() == "torch" else 2
    model.compile(optimizer, "binary_crossentropy", steps_per_execution=at_a_time)
    return _fit(model, [], X, Y, batch_size=8)


def pipeline(seed):
    """A tf.data pipeline, cached and shuffled anew in each epoch, whose validation part is of the same shuffle."""
    import tensorflow as tf

    tf.random.set_seed(5)
    samples = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(60).cache().shuffle(20)
    model = network()
    model.compile("adam", "binary_crossentropy")
    return _fit(model, [], samples.skip(12).batch(8).prefetch(2), validation_data=samples.take(12).batch(12))


def augmented(seed, *, inside=True):
    """Samples that a layer of Keras alters, in a tf.data pipeline or in a PyDataset."""
    import tensorflow as tf

    alter = keras.layers.RandomBrightness(0.3, value_range=(-9, 9))
    images = np.repeat(X[:, :, None, None], 3, axis=3)
    if inside:
        data = tf.data.Dataset.from_tensor_slices((images, Y)).batch(12).map(lambda x, y: (alter(x, training=True), y))
    else:
        data = Altered(images, alter)
    inputs = keras.Input((5, 1, 3))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs)))
    model.compile("adam", "mse")
    return _fit(model, [], data)


class Altered(keras.utils.PyDataset):
    """A data set that holds a layer, and a seed of Keras besides."""

    def __init__(self, images, layer):
        super().__init__()
        self.images, self.layer = images, layer
        self.seed = keras.random.SeedGenerator()

    def __len__(self):
        return len(X) // 12

    def __getitem__(self, index):
        x = self.images[12 * index : 12 * index + 12]
        x = keras.ops.convert_to_numpy(self.layer(x, training=True)) + float(keras.random.normal((), seed=self.seed))
        return x, Y[12 * index : 12 * index + 12]


def loader(seed, *, workers=0):
    """A DataLoader of torch, with a generator of its own."""
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    generator = torch.Generator().manual_seed(seed)
    batches = torch.utils.data.DataLoader(data, batch_size=12, shuffle=True, num_workers=workers, generator=generator)
    model = network()
    model.compile("adam", "binary_crossentropy")
    return _fit(model, [], batches, shuffle=False)


def workers(seed, **options):
    """Workers load the batches; what is random comes from the main process."""
    model = network()
    model.compile("adam", "binary_crossentropy")
    return _fit(model, [], Shuffled(seed, **{"draws": False, "workers": 2, **options}))


def several(seed):
    """Two inputs, two outputs with losses and metrics of their own, and weights of the samples."""
    left, right = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    both = keras.layers.Dropout(0.3)(keras.layers.concatenate([left, right]))
    outputs = {name: keras.layers.Dense(1, name=name)(both) for name in ("a", "b")}
    model = keras.Model({"left": left, "right": right}, outputs)
    model.compile("adam", {"a": "mse", "b": "mae"}, metrics={"a": ["mae", "mse"]}, weighted_metrics={"b": ["mse"]})
    data = {"left": X, "right": X[::-1]}, {"a": Y, "b": 1 - Y}, {"a": Y[:, 0] + 1, "b": Y[:, 0] + 2}
    return _fit(model, [], *data[:2], sample_weight=data[2], batch_size=12, validation_split=0.2)


def generated(seed):
    """A Python generator, as older scripts have it."""

    def batches():
        while True:
            yield X[:12], Y[:12]

    model = network()
    model.compile("adam", "binary_crossentropy")
    return _fit(model, [], batches(), steps_per_epoch=3, shuffle=False)


class Stepping(keras.Model):
    """Trains by a step of its own, which keeps a metric and draws from a seed generator."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.noise = keras.random.SeedGenerator()
        self.distance = keras.metrics.Mean("distance")

    def call(self, x):
        return self.dense(x + 0.1 * keras.random.normal((5,), seed=self.noise))


class TorchStepping(Stepping):
    """As Keras' guide for torch has it."""

    def train_step(self, data):
        self.zero_grad()
        loss = keras.ops.mean((self(data[0]) - data[1]) ** 2)
        loss.backward()
        weights = self.trainable_weights
        with torch.no_grad():
            self.optimizer.apply([each.value.grad for each in weights], weights)
        self.distance.update_state(loss)
        return {"distance": self.distance.result()}


class JaxStepping(Stepping):
    """As Keras' guide for JAX has it, where a step is a function of all states."""

    def loss_of(self, trainable, others, x, y):
        predicted, others = self.stateless_call(trainable, others, x)
        return keras.ops.mean((predicted - y) ** 2), others

    def train_step(self, state, data):
        import jax

        trainable, others, optimizer, metrics = state
        (loss, others), gradients = jax.value_and_grad(self.loss_of, has_aux=True)(trainable, others, *data)
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        updated, logs = [], {}
        for metric in self.metrics:
            own = metrics[len(updated) : len(updated) + len(metric.variables)]
            own = metric.stateless_update_state(own, loss)
            logs[metric.name] = metric.stateless_result(own)
            updated += own
        return logs, (trainable, others, optimizer, updated)


class TwinStepping(Stepping):
    """Two networks, each with an optimizer of its own, as adversarial trainings with TensorFlow have them."""

    def __init__(self):
        super().__init__()
        self.other = keras.layers.Dense(1)
        self.own_optimizer = keras.optimizers.Adam(0.01)
        self.other_optimizer = keras.optimizers.SGD(0.01, momentum=0.9)

    def call(self, x):
        return super().call(x) - self.other(x)

    def train_step(self, data):
        import tensorflow as tf

        for layer, optimizer in ((self.dense, self.own_optimizer), (self.other, self.other_optimizer)):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(data[0]) - data[1]) ** 2)
            weights = layer.trainable_weights
            optimizer.apply(tape.gradient(loss, weights), weights)
        self.distance.update_state(loss)
        return {"distance": self.distance.result()}


def stepping(seed):
    """A model with a training step of its own, that only its first batch builds."""
    model = {"torch": TorchStepping, "jax": JaxStepping, "tensorflow": TwinStepping}[keras.backend.backend()]()
    model.compile(None if isinstance(model, TwinStepping) else "adam")
    return _fit(model, [], Shuffled(seed))


def _fit(model, own, *data, **options):
    def fit(*, callbacks, **more):
        # the tracker stands behind some, and in front of others
        return model.fit(*data, callbacks=[*own[:1], *callbacks, *own[1:]], **options, **more)

    return fit
