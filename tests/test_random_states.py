"""What is noted of NumPy's global generator before each batch is what NumPy itself would tell."""

import random

import numpy as np
import pytest

from ckpt_tracker.integrations._shared import random as states

DRAWS = {
    "uniform numbers": lambda choice: np.random.rand(choice.randrange(400)),
    "one normal number, the half of a pair": lambda choice: np.random.randn(),
    "normal numbers": lambda choice: np.random.standard_normal(choice.randrange(5)),
    "a seed": lambda choice: np.random.seed(choice.randrange(3)),
    "nothing": lambda choice: None,
}


@pytest.fixture(autouse=True)
def as_before():
    """The generator is another test's, too."""
    generator, state = np.random.get_bit_generator(), np.random.get_state(legacy=False)
    yield
    np.random.set_bit_generator(generator)
    np.random.set_state(state)


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.PCG64])
def test_what_is_noted_is_the_state(kind):
    """Whatever was drawn since the last time, and by whichever generator."""
    choice = random.Random(0)
    np.random.set_bit_generator(kind(1))
    for _ in range(500):
        DRAWS[choice.choice(sorted(DRAWS) if kind is np.random.MT19937 else sorted(DRAWS.keys() - {"a seed"}))](choice)
        noted = states.capture_all()["numpy"]
        np.testing.assert_equal(noted, np.random.get_state(legacy=False))


def test_a_generator_in_the_place_of_another_is_noted():
    """Both begin alike, and one was drawn from."""
    for number in range(3):
        np.random.set_bit_generator(np.random.MT19937(number % 2))
        np.testing.assert_equal(states.capture_all()["numpy"], np.random.get_state(legacy=False))
