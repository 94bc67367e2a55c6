"""The order in which a Keras training sees its samples: restored, or named where it can't be."""

from __future__ import annotations

import os
import warnings

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras_models import Shuffled, X, Y, digests, make_model, train  # noqa: E402

from ckpt_tracker.errors import CheckpointWarning  # noqa: E402
from ckpt_tracker.integrations.keras import CheckpointTracker  # noqa: E402

# Keras reads its own variables in a way that NumPy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
